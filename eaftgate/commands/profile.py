"""`eaftgate profile`: what a base model does with its experts."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from eaftgate.commands.options import Alignment, BaseArgument, BatchOption, DeviceOption, DtypeOption, JsonOption
from eaftgate.commands.output import made

COMMANDS = typer.Typer()


@COMMANDS.command()
def profile(
    base: BaseArgument,
    packs: Annotated[Path, typer.Option(help="Directory of calibration packs.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Profile directory to make; an unfinished one is resumed.")],
    num_rows: Annotated[int | None, typer.Option(min=1, help="Rows of UNION to profile; default: all.")] = None,
    seq_len: Annotated[int, typer.Option(min=2, help="Tokens a block.")] = 2048,
    seed: Annotated[int, typer.Option(min=0, help="Shuffles every pack's rows.")] = 3407,
    alignment: Annotated[
        Alignment,
        typer.Option(help="Whose routing a token's p and H are attributed to by default; the trace holds both."),
    ] = Alignment.PREDICTING,
    batch_size: BatchOption = 1,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="One layer in memory at a time instead of the whole model; default: where that does not fit.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Observe in one pass which experts every completion token uses, how much, and how well the model does on it.

    MXFP4 experts are dequantised for this, in memory only; with --stream one layer at a time, to the same result. Every
    later keep set, method and weighting is cut from it without running the model again. Several GPUs: torchrun
    --nproc-per-node=N -m eaftgate profile ...
    """
    from eaftgate.checkpoint.checkpoint import open_checkpoint
    from eaftgate.checkpoint.digest import checkpoint_digest
    from eaftgate.model.load import check_configuration, default_settings
    from eaftgate.outputs import check_directory
    from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
    from eaftgate.profile.ranks import torchrun_ranks

    request = ProfileRequest(packs, num_rows, seq_len, seed, alignment.value, batch_size)
    checkpoint = open_checkpoint(base)
    was_there = check_directory(out_dir, [packs])  # before the base is hashed, which may take minutes
    check_configuration(checkpoint.path)
    with torchrun_ranks() as ranks:
        settings = default_settings(device=device, dtype=dtype, dequantize=True)
        if ranks.size > 1 and settings.device == "cuda":
            settings = replace(settings, device=f"cuda:{ranks.local}")
        digest = checkpoint_digest(checkpoint)
        profiled = profile_checkpoint(checkpoint, digest, request, out_dir, settings, ranks, stream=stream)
        if not ranks.first:
            return
    told = profiled.description
    summary = told.model_dump(include={"counted_tokens", "num_blocks", "packs", "thresholds", "seconds"})
    made(
        as_json,
        {"out": str(out_dir), **summary},
        f"profiled {told.counted_tokens:,} completion tokens in {told.num_blocks} blocks: {out_dir}",
        out=out_dir,
        was_there=was_there,
    )
