"""`eaftgate prune`: a smaller checkpoint."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal

from eaftgate.commands.options import (
    Alignment,
    BaseArgument,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KeepFracOption,
    KeepNOption,
    MaxShardOption,
)
from eaftgate.commands.output import made, say
from eaftgate.errors import UserError
from eaftgate.prune.methods import AUTO, DEFAULT_SCORER, METHODS
from eaftgate.search.settings import BATCH_SIZE, MAX_POSITIONS, SearchSettings

COMMANDS = typer.Typer()


if TYPE_CHECKING:  # the table's names, which no type checker sees
    MethodChoice = str
else:
    MethodChoice = StrEnum("MethodChoice", {name: name for name in (AUTO, *METHODS)})
_DEFAULT = MethodChoice(AUTO)
_BESIDE_KEEP_SETS = {
    "base",
    "out_dir",
    "keep_sets",
    "keep_n",
    "keep_frac",
    "allow_any_keep_n",
    "max_shard_gb",
    "as_json",
    "recipe",
}


def _check_nothing_else(ctx: typer.Context) -> None:
    """Raises UserError for an option that has no say where the keep sets are given."""
    for parameter in ctx.command.params:
        name = str(parameter.name)
        source = ctx.get_parameter_source(name)
        if name not in _BESIDE_KEEP_SETS and source is not None and source.name != "DEFAULT":
            raise UserError(f"--keep-sets says which experts are kept: leave {parameter.opts[0]} out")


@COMMANDS.command()
def prune(
    ctx: typer.Context,
    base: BaseArgument,
    out_dir: Annotated[Path, typer.Option("--out", help="Checkpoint directory to make; an unfinished one is resumed.")],
    profile_dir: Annotated[Path | None, typer.Option("--profile", help="Profile of BASE (eaftgate profile).")] = None,
    scores_file: Annotated[
        Path | None, typer.Option("--scores", help="Instead of a profile: the reap-scores.yaml of a pruned checkpoint.")
    ] = None,
    keep_sets: Annotated[
        Path | None,
        typer.Option(
            help="Which experts to keep, instead of a choice: an expert_mapping.json, or ids by layer, [[0, 3], ...]."
        ),
    ] = None,
    keep_n: KeepNOption = None,
    keep_frac: KeepFracOption = None,
    method: Annotated[
        MethodChoice,
        typer.Option("--method", metavar="METHOD", help="What chooses the experts; each is explained below."),
    ] = _DEFAULT,
    alignment: Annotated[Alignment | None, typer.Option(help="Default: the profile's.")] = None,
    w_good: Annotated[float, typer.Option(help="Weight of tokens the model is sure and right about.")] = 1.0,
    w_conflict: Annotated[float, typer.Option(help="Of tokens it is sure and wrong about.")] = -2.0,
    w_uncertain: Annotated[float, typer.Option(help="Of all other tokens.")] = 0.25,
    class_weight: Annotated[
        str,
        typer.Option(
            help="What tokens count by class, like call=8,header=4, or balanced (rare tokens, calls and headers more), "
            "or plain (content alone, every token alike); classes: header, analysis, final, commentary, call, other, "
            "close. Default: refined tries several and takes the best; auto's ranking is balanced, where the profile "
            "knows classes; else plain."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of --method random, and of the positions that a search draws.")] = 0,
    packs: Annotated[
        Path | None,
        typer.Option(help="The profile's packs, for greedy, refined and --pre-gate; auto looks where they were."),
    ] = None,
    pre_gate: Annotated[
        bool, typer.Option("--pre-gate", help="Show, before writing, the parity of the choice on --packs, by masking.")
    ] = False,
    max_positions: Annotated[
        int, typer.Option(min=1, help="greedy and refined: positions whose layer outputs are looked at.")
    ] = MAX_POSITIONS,
    batch_size: Annotated[int, typer.Option(min=1, help="Blocks a forward pass, with --packs.")] = BATCH_SIZE,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    allow_any_keep_n: Annotated[
        bool, typer.Option("--allow-any-keep-n", help="Allow a keep_n that fused MXFP4 kernels may refuse.")
    ] = False,
    max_shard_gb: MaxShardOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint with fewer experts: kept weights bit for bit, everything else as it was.

    Keeping all experts (the no-op rewrite) needs no profile.
    """
    from eaftgate.checkpoint.checkpoint import open_checkpoint
    from eaftgate.checkpoint.digest import checkpoint_digest
    from eaftgate.judge.cell import JudgedCell
    from eaftgate.outputs import check_directory
    from eaftgate.profile.profile import open_profile
    from eaftgate.prune.auto import chosen_automatically
    from eaftgate.prune.checkpoint import (
        ModelRun,
        PruneRequest,
        check_profile,
        check_request,
        keeps_all,
        prune_checkpoint,
    )
    from eaftgate.rewrite.plan import GB
    from eaftgate.select.class_weights import parse_class_weights
    from eaftgate.select.saliency import EaftWeights
    from eaftgate.select.scores import open_scores

    if keep_sets is not None:
        _check_nothing_else(ctx)
    checkpoint = open_checkpoint(base)
    inputs = [path for path in (profile_dir, packs) if path is not None]
    was_there = check_directory(out_dir, inputs)  # before the base is hashed, which may take minutes
    if pre_gate and packs is None:
        raise UserError("--pre-gate needs --packs: the calibration packs that the profile was made from")
    run = None
    if packs is not None:
        from eaftgate.model.load import check_configuration, default_settings

        check_configuration(checkpoint.path)
        run = ModelRun(packs, default_settings(device=device, dtype=dtype, dequantize=True), pre_gate)
    request = PruneRequest(
        keep_n=keep_n,
        keep_frac=keep_frac,
        method=DEFAULT_SCORER if str(method) == AUTO else str(method),
        alignment=None if alignment is None else alignment.value,
        weights=EaftWeights(good=w_good, conflict=w_conflict, uncertain=w_uncertain),
        search=SearchSettings(max_positions, seed, batch_size),
        classes=parse_class_weights(class_weight) if class_weight else None,
        allow_any_keep_n=allow_any_keep_n,
        run=run,
        keep_sets=keep_sets,
        max_shard_bytes=max_shard_gb * GB,
    )
    check_request(checkpoint, request)
    read = None if profile_dir is None else open_profile(profile_dir)
    scores = None if scores_file is None else open_scores(scores_file)
    said = None
    digest = checkpoint_digest(checkpoint)
    if str(method) == AUTO and (source := read or scores) and not keeps_all(checkpoint, request):
        if read is not None:
            check_profile(checkpoint, digest, read)
        automatic = chosen_automatically(checkpoint, source, request, out_dir, device=device, dtype=dtype)
        request, said = automatic.request, automatic.said
    judged: list[JudgedCell] = []

    def begin() -> None:
        if said is not None and not as_json:
            say(said)

    def show(cell: JudgedCell) -> None:
        from eaftgate.prune.pre_gate import pre_gate_lines

        judged.append(cell)
        if not as_json:
            say(*pre_gate_lines(cell))

    prune_checkpoint(checkpoint, digest, read, request, out_dir, scores=scores, begin=begin, show=show)
    pruned = open_checkpoint(out_dir)
    kept, of = pruned.num_experts, checkpoint.num_experts
    summary = {
        "out": str(out_dir),
        "keep_n": kept,
        "num_experts": of,
        "bytes": pruned.nbytes,
        "base_bytes": checkpoint.nbytes,
        **({} if said is None else {"auto": said}),
        **({"pre_gate": asdict(judged[0])} if judged else {}),
    }
    made(
        as_json,
        summary,
        f"kept {kept} of {of} experts a layer, {decimal(pruned.nbytes)} of {decimal(checkpoint.nbytes)}: {out_dir}",
        out=out_dir,
        was_there=was_there,
    )
