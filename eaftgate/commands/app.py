"""The command line: arguments in, one sentence out. The rooms do the work."""

import json
import sys
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.filesize import decimal

from eaftgate import __version__
from eaftgate.commands.study import DeviceOption, DtypeOption, JsonOption, search_app
from eaftgate.errors import UserError
from eaftgate.recipes.command_line import UsageError, take_recipes

app = typer.Typer(
    help="Remove experts from a gpt-oss checkpoint without training, and prove that the result is near-lossless.\n\n"
    "The way through: [bold]packs split[/] -> [bold]profile[/] -> [bold]prune[/] -> "
    "[bold]pytest gates/ --checkpoint=...[/] -> [bold]report[/].",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
packs_app = typer.Typer(
    help="Work on directories of packs (Parquet files of Harmony conversations).", no_args_is_help=True
)
app.add_typer(packs_app, name="packs")
app.add_typer(search_app)

out = Console()


class Alignment(StrEnum):
    PREDICTING = "predicting"
    TOKEN = "token"


class Method(StrEnum):
    EAFT_REAP = "eaft-reap"
    REAP = "reap"
    REAP_MASS = "reap-mass"
    EAN = "ean"
    FREQUENCY = "frequency"
    PACK_CORE = "eaft-reap-pack-core"
    WORST_PACK = "worst-pack"
    GREEDY = "greedy"
    REFINED = "refined"
    RANDOM = "random"


def _print(as_json: bool, value: dict[str, Any], *lines: str) -> None:
    if as_json:
        typer.echo(json.dumps(value))
    else:
        for line in lines:
            out.print(line, highlight=False, soft_wrap=True, markup=False)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"eaftgate {__version__}")
        raise typer.Exit


@packs_app.command("split")
def packs_split(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of *.parquet packs.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Directory to make; gets calibration/ and gate/.")],
    calib_frac: Annotated[float, typer.Option(help="Share of each pack's rows that goes to calibration/.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Decides which rows.")] = 3407,
    as_json: JsonOption = False,
) -> None:
    """Split packs into rows to calibrate on and rows to gate on, disjoint by the sha256 of a row's text."""
    from eaftgate.packs.split import split_packs

    splits = split_packs(directory, out_dir, calib_frac=calib_frac, seed=seed)
    lines = [f"{s.pack}: {s.calibration_rows} rows to calibrate on, {s.gate_rows} to gate on" for s in splits]
    _print(as_json, {"out": str(out_dir), "packs": [s.__dict__ for s in splits]}, *lines, f"written to {out_dir}")


@app.command()
def profile(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Checkpoint directory or hub id.")],
    packs: Annotated[Path, typer.Option(help="Directory of calibration packs.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Profile directory to make; an unfinished one is resumed.")],
    num_rows: Annotated[int | None, typer.Option(min=1, help="Rows of UNION to profile; default: all.")] = None,
    seq_len: Annotated[int, typer.Option(min=2, help="Tokens a block.")] = 2048,
    seed: Annotated[int, typer.Option(min=0, help="Shuffles every pack's rows.")] = 3407,
    alignment: Annotated[
        Alignment,
        typer.Option(help="Whose routing a token's p and H are attributed to by default; the trace holds both."),
    ] = Alignment.PREDICTING,
    batch_size: Annotated[int, typer.Option(min=1, help="Blocks a forward pass.")] = 1,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Observe in one pass which experts every completion token uses, how much, and how well the model does on it.

    MXFP4 experts are dequantised for this, in memory only. Every later keep set, method and weighting is cut from the
    result without running the model again. Several GPUs: torchrun --nproc-per-node=N -m eaftgate profile ...
    """
    from eaftgate.checkpoint.checkpoint import open_checkpoint
    from eaftgate.checkpoint.digest import checkpoint_digest
    from eaftgate.model.load import default_settings
    from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
    from eaftgate.profile.ranks import torchrun_ranks

    request = ProfileRequest(packs, num_rows, seq_len, seed, alignment.value, batch_size)
    checkpoint = open_checkpoint(base)
    with torchrun_ranks() as ranks:
        settings = default_settings(device=device, dtype=dtype, dequantize=True)
        if ranks.size > 1 and settings.device == "cuda":
            settings = replace(settings, device=f"cuda:{ranks.local}")
        made = profile_checkpoint(checkpoint, checkpoint_digest(checkpoint), request, out_dir, settings, ranks)
        if not ranks.first:
            return
    summary = {key: made.description[key] for key in ("counted_tokens", "num_blocks", "packs", "thresholds", "seconds")}
    tokens, blocks = made.description["counted_tokens"], made.description["num_blocks"]
    _print(
        as_json,
        {"out": str(out_dir), **summary},
        f"profiled {tokens:,} completion tokens in {blocks} blocks: {out_dir}",
    )


@app.command()
def prune(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Checkpoint directory or hub id.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Checkpoint directory to make; an unfinished one is resumed.")],
    profile_dir: Annotated[Path | None, typer.Option("--profile", help="Profile of BASE (eaftgate profile).")] = None,
    scores_file: Annotated[
        Path | None, typer.Option("--scores", help="Instead of a profile: the reap-scores.yaml of a pruned checkpoint.")
    ] = None,
    keep_n: Annotated[int | None, typer.Option(help="Experts to keep in every layer.")] = None,
    keep_frac: Annotated[float | None, typer.Option(help="The same as a share, rounded up to a multiple of 4.")] = None,
    method: Annotated[Method, typer.Option(help="What ranks the experts.")] = Method.EAFT_REAP,
    alignment: Annotated[Alignment | None, typer.Option(help="Default: the profile's.")] = None,
    w_good: Annotated[float, typer.Option(help="Weight of tokens the model is sure and right about.")] = 1.0,
    w_conflict: Annotated[float, typer.Option(help="Of tokens it is sure and wrong about.")] = -2.0,
    w_uncertain: Annotated[float, typer.Option(help="Of all other tokens.")] = 0.25,
    seed: Annotated[int, typer.Option(min=0, help="Of --method random, and of the positions that a search draws.")] = 0,
    packs: Annotated[
        Path | None, typer.Option(help="The packs of the profile, for greedy, refined and --pre-gate; no others do.")
    ] = None,
    pre_gate: Annotated[
        bool, typer.Option("--pre-gate", help="Show, before writing, the parity of the choice on --packs, by masking.")
    ] = False,
    max_positions: Annotated[
        int, typer.Option(min=1, help="greedy and refined: positions whose layer outputs are looked at.")
    ] = 65_536,
    pack_excess: Annotated[
        float, typer.Option(help="refined: how much more packs weigh that lose more than all tokens do.")
    ] = 6.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Blocks a forward pass, with --packs.")] = 8,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    allow_any_keep_n: Annotated[
        bool, typer.Option("--allow-any-keep-n", help="Allow a keep_n that fused MXFP4 kernels may refuse.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint with fewer experts: kept weights bit for bit, everything else as it was.

    Keeping all experts (the no-op rewrite) needs no profile.
    """
    from eaftgate.checkpoint.checkpoint import open_checkpoint
    from eaftgate.checkpoint.digest import checkpoint_digest
    from eaftgate.judge.cell import JudgedCell
    from eaftgate.profile.profile import open_profile
    from eaftgate.prune.prune import ModelRun, PruneRequest, prune_checkpoint
    from eaftgate.select.saliency import EaftWeights
    from eaftgate.select.scores import open_scores

    checkpoint = open_checkpoint(base)
    if pre_gate and packs is None:
        raise UserError("--pre-gate needs --packs: the calibration packs that the profile was made from")
    run = None
    if packs is not None:
        from eaftgate.model.load import default_settings
        from eaftgate.search.search import SearchSettings

        search = SearchSettings(max_positions=max_positions, seed=seed, pack_excess=pack_excess, batch_size=batch_size)
        run = ModelRun(packs, default_settings(device=device, dtype=dtype, dequantize=True), search, pre_gate)
    request = PruneRequest(
        keep_n=keep_n,
        keep_frac=keep_frac,
        method=method.value,
        alignment=None if alignment is None else alignment.value,
        weights=EaftWeights(good=w_good, conflict=w_conflict, uncertain=w_uncertain),
        seed=seed,
        allow_any_keep_n=allow_any_keep_n,
        run=run,
    )
    read = None if profile_dir is None else open_profile(profile_dir)
    scores = None if scores_file is None else open_scores(scores_file)
    judged: list[JudgedCell] = []

    def show(cell: JudgedCell) -> None:
        from eaftgate.search.search import pre_gate_lines

        judged.append(cell)
        _print(False, {}, *([] if as_json else pre_gate_lines(cell)))

    prune_checkpoint(checkpoint, checkpoint_digest(checkpoint), read, request, out_dir, scores=scores, show=show)
    pruned = open_checkpoint(out_dir)
    kept, of = pruned.num_experts, checkpoint.num_experts
    summary = {
        "out": str(out_dir),
        "keep_n": kept,
        "num_experts": of,
        "bytes": pruned.nbytes,
        "base_bytes": checkpoint.nbytes,
        **({"pre_gate": asdict(judged[0])} if judged else {}),
    }
    _print(
        as_json,
        summary,
        f"kept {kept} of {of} experts a layer, {decimal(pruned.nbytes)} of {decimal(checkpoint.nbytes)}: {out_dir}",
    )


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Results of a gate run (pytest --results).")],
    out_file: Annotated[Path, typer.Option("--out", help="HTML file to make.")],
) -> None:
    """Write one self-contained HTML page about a gate run."""
    from eaftgate.report.html import write_report

    write_report(run_dir, out_file)
    _print(False, {}, f"written to {out_file}")


@app.command()
def budgets(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Results of a gate run (pytest --results).")],
    blocks: Annotated[str, typer.Option(help="Budgets, like 8,32,128; default: 8, doubled until all.")] = "",
    policy: Annotated[str | None, typer.Option(help="Policy of the gates file; default: its default.")] = None,
    gates: Annotated[Path | None, typer.Option(help="Gates file; default: the shipped one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show every metric of a gate run, with its bounds and verdict, at smaller budgets of the same blocks."""
    from eaftgate.judge.policy import DEFAULT_GATES, load_gates
    from eaftgate.report.budgets import budget_tables, budgets_of

    if not all(part.strip().isdigit() and int(part) > 0 for part in blocks.split(",") if blocks):
        raise UserError(f"--blocks is {blocks!r}: it must be numbers of blocks, like 8,32,128")
    counts = [int(part) for part in blocks.split(",") if blocks]
    rows = budgets_of(run_dir, load_gates(gates or DEFAULT_GATES).policy(policy)[1], counts)
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        for table in budget_tables(rows):
            out.print(table)
            out.print()


@app.command()
def lock(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Results of a gate run (pytest --results).")],
    out_file: Annotated[Path, typer.Option("--out", help="Lockfile to make (JSON).")],
    checkpoint: Annotated[str | None, typer.Option(help="Which one, as it was given to the gate.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Pin what was judged: digests of base and checkpoint, keep sets, rows, seeds, settings, versions and the verdict.

    Exits with 1 when the verdict it pins is not a pass.
    """
    from eaftgate.report.lock import write_lock

    pinned = write_lock(run_dir, checkpoint, out_file)
    summary = {"out": str(out_file), "verdict": pinned["verdict"]}
    _print(as_json, summary, f"locked {pinned['checkpoint']['name']}, verdict {pinned['verdict']}: {out_file}")
    if pinned["verdict"] != "pass":
        raise typer.Exit(1)


@app.command()
def verify(
    lock_file: Annotated[Path, typer.Argument(metavar="LOCKFILE", help="Made by eaftgate lock.")],
    base: Annotated[str | None, typer.Option(help="Where the base is now, if not where it was.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Where the checkpoint is now, if not where it was.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check that base and checkpoint still are the ones that were locked, and that their verdict was a pass.

    Exits with 1 when not.
    """
    from eaftgate.report.lock import verify_lock

    problems = verify_lock(lock_file, base=base, checkpoint=checkpoint)
    _print(as_json, {"verified": not problems, "problems": problems}, *(problems or ["verified"]))
    if problems:
        raise typer.Exit(1)


@app.command()
def cost(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Checkpoint directory or hub id.")],
    keep_n: Annotated[int | None, typer.Option(help="Experts to keep in every layer.")] = None,
    keep_frac: Annotated[float | None, typer.Option(help="The same as a share, rounded up to a multiple of 4.")] = None,
    regime: Annotated[str, typer.Option(help="Regime of the gates file.")] = "bigblocks",
    packs: Annotated[Path | None, typer.Option(help="Gate packs, to count them; default: three.")] = None,
    tokens_per_second: Annotated[float, typer.Option(min=1.0, help="Speed of your collector.")] = 10_000.0,
    as_json: JsonOption = False,
) -> None:
    """Estimate the bytes, memory, tokens and time of pruning and gating, before starting."""
    from eaftgate.checkpoint.checkpoint import open_checkpoint
    from eaftgate.judge.policy import load_gates
    from eaftgate.report.cost import estimate_cost
    from eaftgate.rewrite.keep_n import resolve_keep_n

    checkpoint = open_checkpoint(base)
    kept = resolve_keep_n(checkpoint.num_experts, checkpoint.top_k, keep_n, keep_frac)
    estimate = estimate_cost(checkpoint, kept, load_gates().regime(regime), packs, tokens_per_second)
    full, pruned, memory = (estimate[f"{key}_bytes"] / 1e9 for key in ("base", "pruned", "profile_memory"))
    _print(
        as_json,
        estimate,
        f"checkpoint: {full:.2f} GB, {pruned:.2f} GB with {kept} of {checkpoint.num_experts} experts",
        f"profiling: weights of {memory:.2f} GB in memory (bfloat16)",
        f"gate: {estimate['gate_tokens'] / 1e6:.1f} M tokens ({estimate['packs']} packs, base and one candidate), "
        f"{estimate['gate_seconds'] / 3600:.1f} h at {tokens_per_second:,.0f} tokens/s",
    )


take_recipes(app)


def main() -> None:
    """Entry point. Exit codes: 1 a negative verdict, 2 something the user can put right, 130 interrupted."""
    arguments = sys.argv[1:]
    if arguments in ([], ["packs"]):
        app()  # prints the help
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _refuse(str(error))
    except UsageError as error:
        said: Any = error
        _refuse(said.format_message())
    except OSError as error:  # a place that cannot be written, a disk that is full
        where = f": {error.filename}" if error.filename else ""
        _refuse(f"{error.strerror or error}{where}; choose another place or make room, and run again")
    sys.exit(code)


def _refuse(reason: str) -> NoReturn:
    typer.echo(f"error: {' '.join(reason.split())}", err=True)
    sys.exit(2)
