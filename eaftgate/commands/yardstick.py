"""`eaftgate yardstick`: the base with rounded experts."""

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from eaftgate.commands.options import BaseArgument, JsonOption, MaxShardOption
from eaftgate.commands.output import made

COMMANDS = typer.Typer()


@COMMANDS.command()
def yardstick(
    base: BaseArgument,
    out_dir: Annotated[Path, typer.Option("--out", help="Checkpoint directory to make; an unfinished one is resumed.")],
    bits: Annotated[int, typer.Option(min=2, max=8, help="Of a rounded weight.")] = 4,
    max_shard_gb: MaxShardOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Write the base with its experts rounded to nearest in groups of 32: a loss to measure that of candidates by.

    Gate it beside them with --candidate-kind=other, and the report says what share of its loss each of them has.
    """
    from eaftgate.checkpoint.checkpoint import open_checkpoint
    from eaftgate.outputs import check_directory
    from eaftgate.progress import progress_bar
    from eaftgate.rewrite.plan import GB
    from eaftgate.rewrite.yardstick import write_yardstick

    checkpoint = open_checkpoint(base)
    was_there = check_directory(out_dir)  # before the base is hashed, which may take minutes
    with progress_bar("yardstick", None, unit="B", out=out_dir) as bar:
        write_yardstick(checkpoint, out_dir, bits=bits, max_shard_bytes=max_shard_gb * GB, progress=bar.show)
    written = open_checkpoint(out_dir).nbytes
    summary = {"out": str(out_dir), "bits": bits, "bytes": written, "base_bytes": checkpoint.nbytes}
    line = f"experts rounded to {bits} bits, {decimal(written)} as plain bfloat16: {out_dir}"
    made(as_json, summary, line, out=out_dir, was_there=was_there)
