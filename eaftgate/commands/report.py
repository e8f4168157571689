"""What is made of a gate run, and what a job will cost: `eaftgate report`, `budgets`, `lock`, `verify` and `cost`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from eaftgate.commands.options import BaseArgument, JsonOption, KeepFracOption, KeepNOption
from eaftgate.commands.output import made, result, say
from eaftgate.errors import UserError

COMMANDS = typer.Typer()


@COMMANDS.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Results of a gate run (pytest --results).")],
    out_file: Annotated[Path, typer.Option("--out", help="HTML file to make.")],
) -> None:
    """Write one self-contained HTML page about a gate run.

    Exits with 1 when parity.json is not what the run wrote.
    """
    from eaftgate.gate.results import is_as_written
    from eaftgate.report.html import write_report

    was_there = write_report(run_dir, out_file)
    say(f"{out_file} is up to date" if was_there else f"written to {out_file}")
    if not is_as_written(run_dir):
        say(f"parity.json of {run_dir} has changed since the run wrote it: nothing on the page can be relied on")
        raise typer.Exit(1)


@COMMANDS.command()
def memo(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Results of one gate run or several.")],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Markdown file to make; default: standard output.")
    ] = None,
) -> None:
    """Write a decision memo: the conclusion for each keep_n, what was tried, what failed where, cost, what is open.

    No sentence in it but what parity.json says; names are text, whatever is in them.
    """
    from eaftgate.report.memo import memo as memo_of
    from eaftgate.report.memo import write_memo

    if out_file is None:
        say(*memo_of(run_dirs).splitlines())
        return
    was_there = write_memo(run_dirs, out_file)
    say(f"{out_file} is up to date" if was_there else f"written to {out_file}")


@COMMANDS.command()
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
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    console = Console()
    for table in budget_tables(rows):
        console.print(table)
        console.print()


@COMMANDS.command()
def lock(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Results of a gate run (pytest --results).")],
    out_file: Annotated[Path, typer.Option("--out", help="Lockfile to make (JSON).")],
    checkpoint: Annotated[str | None, typer.Option(help="Which one, as it was given to the gate.")] = None,
    gates: Annotated[Path | None, typer.Option(help="Gates file of the run; default: the copy that it kept.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Pin what was judged: digests of base and checkpoint, keep sets, rows, seeds, settings, versions and the verdict.

    The run's collections are judged again for it. Exits with 1 when the verdict it pins is not a pass.
    """
    from eaftgate.report.lock import write_lock

    pinned, was_there = write_lock(run_dir, checkpoint, out_file, gates)
    summary = {"out": str(out_file), "verdict": pinned.verdict, "candidate_kind": pinned.candidate_kind}
    line = f"locked {pinned.checkpoint.name} ({pinned.candidate_kind}), verdict {pinned.verdict}: {out_file}"
    made(as_json, summary, line, out=out_file, was_there=was_there)
    if pinned.verdict != "pass":
        raise typer.Exit(1)


@COMMANDS.command()
def verify(
    lock_file: Annotated[Path, typer.Argument(metavar="LOCKFILE", help="Made by eaftgate lock.")],
    base: Annotated[str | None, typer.Option(help="Where the base is now, if not where it was.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Where the checkpoint is now, if not where it was.")] = None,
    results: Annotated[Path | None, typer.Option(help="Where the gate run is now, if not where it was.")] = None,
    files_only: Annotated[bool, typer.Option("--files-only", help="Judge nothing again: compare files alone.")] = False,
    gates: Annotated[Path | None, typer.Option(help="Gates file of the run; default: the copy that it kept.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check that base and checkpoint still are the ones that were locked, and that their verdict is a pass.

    The run's collections are judged again, and every verdict and figure of the lock is compared. Exits with 1 when
    something does not hold, or the collections are not there and --files-only is not given.
    """
    from eaftgate.gate.candidates import kind_line
    from eaftgate.report.lock import read_lock, verify_lock, versions_line

    problems = verify_lock(
        lock_file,
        base=base,
        checkpoint=checkpoint,
        results=results,
        gates=gates,
        files_only=files_only,
    )
    lock = read_lock(lock_file)
    kind = lock.candidate_kind
    summary = {"verified": not problems, "problems": problems, "candidate_kind": kind}
    said = problems or ["the files are those that were locked" if files_only else "verified"]
    result(as_json, summary, *said, kind_line(kind), versions_line(lock))
    if problems:
        raise typer.Exit(1)


@COMMANDS.command()
def cost(
    base: BaseArgument,
    keep_n: KeepNOption = None,
    keep_frac: KeepFracOption = None,
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
    result(
        as_json,
        asdict(estimate),
        f"checkpoint: {estimate.base_bytes / 1e9:.2f} GB, "
        f"{estimate.pruned_bytes / 1e9:.2f} GB with {kept} of {checkpoint.num_experts} experts",
        f"profiling: weights of {estimate.profile_memory_bytes / 1e9:.2f} GB in memory (bfloat16), or "
        f"{estimate.streamed_memory_bytes / 1e9:.2f} GB at a time (--stream); searches need the first",
        f"gate: {estimate.gate_tokens / 1e6:.1f} M tokens ({estimate.packs} packs, base and one candidate), "
        f"{estimate.gate_seconds / 3600:.1f} h at {tokens_per_second:,.0f} tokens/s",
        *(
            []
            if estimate.max_shard_gb is None
            else [f"a file of weights is larger than 5 GB: prune needs --max-shard-gb {estimate.max_shard_gb}"]
        ),
    )
