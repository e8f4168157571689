"""`eaftgate packs ...`: directories of packs."""

from pathlib import Path
from typing import Annotated

import typer

from eaftgate.commands.options import JsonOption
from eaftgate.commands.output import made

COMMANDS = typer.Typer(
    help="Work on directories of packs (Parquet files of Harmony conversations).", no_args_is_help=True
)


@COMMANDS.command("split")
def packs_split(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of *.parquet packs.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Directory to make; gets calibration/ and gate/.")],
    calib_frac: Annotated[float, typer.Option(help="Share of each pack's rows that goes to calibration/.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Decides which rows.")] = 3407,
    as_json: JsonOption = False,
) -> None:
    """Split packs into rows to calibrate on and rows to gate on, disjoint by the sha256 of a row's text."""
    from eaftgate.outputs import check_directory
    from eaftgate.packs.split import split_packs

    was_there = check_directory(out_dir, [directory])
    splits = split_packs(directory, out_dir, calib_frac=calib_frac, seed=seed)
    lines = [f"{s.pack}: {s.calibration_rows} rows to calibrate on, {s.gate_rows} to gate on" for s in splits]
    summary = {"out": str(out_dir), "packs": [s.__dict__ for s in splits]}
    made(as_json, summary, *lines, f"written to {out_dir}", out=out_dir, was_there=was_there)
