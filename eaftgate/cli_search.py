"""The commands of the search room: `eaftgate sweep` and `eaftgate diagnose`."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from eaftgate.errors import UserError

search_app = typer.Typer()
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; default: cuda when there is one.")]
DtypeOption = Annotated[
    str | None, typer.Option(help="float32 or bfloat16; default: float32 on a CPU, bfloat16 on a GPU.")
]
BatchOption = Annotated[int, typer.Option(min=1, help="Blocks a forward pass.")]


@search_app.command()
def sweep(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Checkpoint directory or hub id.")],
    profile_dir: Annotated[Path, typer.Option("--profile", help="Profile of BASE (eaftgate profile).")],
    packs: Annotated[Path, typer.Option(help="The packs of the profile; no others do.")],
    out_file: Annotated[Path, typer.Option("--out", help="File of JSON lines, one a case; resumed if there.")],
    methods: Annotated[str, typer.Option(help="Methods, separated by commas.")] = "eaft-reap,reap-mass,greedy",
    keep_n: Annotated[str, typer.Option(help="Numbers of experts to keep, separated by commas.")] = "24,20",
    vary: Annotated[
        list[str] | None,
        typer.Option(help="FACTOR=V1,V2: every case again with this one factor changed; repeatable."),
    ] = None,
    batch_size: BatchOption = 8,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score many selections by masking, on the rows of the profile and on no others; ends with a ranked table.

    Methods and keep_n are crossed, factors are varied one at a time: good, conflict, uncertain, low_quantile (weights),
    max_positions, seed.
    """
    from eaftgate.checkpoint.checkpoint import open_checkpoint
    from eaftgate.checkpoint.digest import checkpoint_digest
    from eaftgate.model.load import default_settings, load_model
    from eaftgate.profile.profile import open_profile
    from eaftgate.prune import check_profile
    from eaftgate.rewrite.keep_n import resolve_keep_n
    from eaftgate.search import sweep as sweeping
    from eaftgate.search.calibration import calibration_blocks
    from eaftgate.search.search import SearchSettings

    checkpoint, profile = open_checkpoint(base), open_profile(profile_dir)
    check_profile(checkpoint, checkpoint_digest(checkpoint), profile)
    counts = [int(n) for n in _numbers("--keep-n", keep_n)]
    for n in counts:
        resolve_keep_n(checkpoint.num_experts, checkpoint.top_k, n)
    varied = dict(_factor(text) for text in vary or [])
    cases = sweeping.planned(methods.split(","), counts, varied, SearchSettings(batch_size=batch_size))
    blocks = calibration_blocks(checkpoint, profile, packs)
    model = load_model(checkpoint.path, default_settings(device=device, dtype=dtype, dequantize=True))
    lines = sweeping.sweep(model, blocks, profile, cases, out_file)
    if as_json:
        typer.echo(json.dumps(lines))
    else:
        Console().print(sweeping.ranked_table(lines))


def _factor(text: str) -> tuple[str, list[float]]:
    name, found, values = text.partition("=")
    if not found:
        raise UserError(f"--vary is {text!r}: it must be a factor and its values, like uncertain=0.25,1")
    return name, _numbers(f"--vary {name}", values)


def _numbers(option: str, text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} is {text!r}: it must be numbers, separated by commas") from None
    if not all(math.isfinite(value) for value in values):
        raise UserError(f"{option} is {text!r}: its numbers must be finite")
    return values


@search_app.command()
def diagnose(
    checkpoint_dir: Annotated[Path, typer.Argument(metavar="CKPT_DIR", help="Checkpoint made by eaftgate prune.")],
    packs: Annotated[Path, typer.Option(help="Directory of packs.")],
    base: Annotated[str | None, typer.Option(help="Where its base is now; default: where it was.")] = None,
    seq_len: Annotated[int, typer.Option(min=2, help="Tokens a block.")] = 1024,
    num_blocks: Annotated[int, typer.Option(min=1, help="Blocks of UNION.")] = 64,
    seed: Annotated[int | None, typer.Option(help="Shuffles every pack's rows; default: file order.")] = None,
    batch_size: BatchOption = 8,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which layers of a pruned checkpoint carry its loss: each of them pruned alone, in its base, by masking."""
    from eaftgate.checkpoint.checkpoint import open_checkpoint
    from eaftgate.checkpoint.digest import checkpoint_digest
    from eaftgate.model.load import default_settings, load_model
    from eaftgate.packs.blocks import build_blocks
    from eaftgate.packs.pack import UNION, named_packs
    from eaftgate.packs.tokenizer import load_tokenizer
    from eaftgate.parity.bounds import bounds, fixed_width
    from eaftgate.rewrite.manifest import read_manifest
    from eaftgate.search.diagnose import layer_losses

    manifest = read_manifest(checkpoint_dir)
    whole = open_checkpoint(base or manifest.base.name)
    if checkpoint_digest(whole) != manifest.base.digest:
        raise UserError(f"{whole.name} is not the base that {checkpoint_dir} was made from: give it with --base")
    tokenizer = load_tokenizer(whole.path)
    rows = named_packs(packs, seed=seed)[UNION]
    blocks = build_blocks(rows, tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=seq_len, num_blocks=num_blocks)
    model = load_model(whole.path, default_settings(device=device, dtype=dtype, dequantize=True))
    shown: list[dict[str, Any]] = []
    for found in layer_losses(model, blocks, manifest.keep, batch_size=batch_size):
        lower, upper = bounds(found.loss, fixed_width(0.05, found.loss.degrees_of_freedom))
        known = {"lower": lower, "upper": upper} if math.isfinite(lower) else {"lower": None, "upper": None}
        shown.append({"layer": found.layer, "loss": found.loss.value, **known})
    if as_json:
        typer.echo(json.dumps(shown))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("pruned layer", "dPPL", "at least", "at most"):
        table.add_column(name, justify="right")
    for row in [*sorted(shown[1:], key=lambda row: -row["loss"]), shown[0]]:
        values = ("?" if row[key] is None else f"{math.expm1(row[key]):+.2%}" for key in ("loss", "lower", "upper"))
        table.add_row("all" if row["layer"] is None else str(row["layer"]), *values)
    Console().print(table)
