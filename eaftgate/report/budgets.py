"""Every metric of a finished gate run against the budget: what a smaller --num-blocks would have said.

Blocks are taken from the front of the rows' order, so the run with fewer blocks has a prefix of these.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from eaftgate.collect.collection import Collection
from eaftgate.errors import UserError
from eaftgate.gate.results import ParityCell, Severity, read_parity
from eaftgate.judge.cell import judge_cell
from eaftgate.judge.metrics import has_intervals
from eaftgate.judge.policy import IntervalPolicy, PointPolicy
from eaftgate.judge.verdict import MetricVerdict, Verdict
from eaftgate.judge.wording import shown
from eaftgate.parity.paired import pair
from eaftgate.tables import terminal_table

FIRST_BUDGET = 8


@dataclass(frozen=True)
class BudgetRow:
    """A cell judged on its first `num_blocks`. `js2d` is the plug-in value."""

    checkpoint: str
    name: str
    pack: str
    seq_len: int
    severity: Severity
    num_blocks: int
    tokens: int
    js2d: float
    verdict: Verdict
    metrics: Mapping[str, MetricVerdict]


def budgets_of(
    results: Path, policy: PointPolicy | IntervalPolicy, budgets: Sequence[int], *, strict: bool = False
) -> list[BudgetRow]:
    """One row for every cell and budget; `budgets` empty: those of `doubling`. Raises UserError like `cell_budgets`."""
    parity = read_parity(results)
    return [
        row
        for cell in parity.cells
        for row in cell_budgets(
            results,
            cell,
            policy,
            budgets or doubling(cell.num_blocks),
            strict=strict,
            best_of=parity.asked.best_of,
        )
    ]


def cell_budgets(
    results: Path,
    cell: ParityCell,
    policy: PointPolicy | IntervalPolicy,
    budgets: Sequence[int],
    *,
    strict: bool,
    best_of: int,
) -> list[BudgetRow]:
    """A cell judged on its first blocks, for every budget.

    Raises UserError when the run's collections are not there or not whole, or a budget has no counted token.
    """
    rows = []
    tokens = pair(*(_collection(results, cell, role) for role in ("base", "checkpoint")))
    for blocks in budgets:
        seen = tokens.select(tokens.block_T < blocks)
        if blocks > cell.num_blocks:
            raise UserError(f"{cell.label} was judged on {cell.num_blocks} blocks: it cannot say what {blocks} say")
        if not len(seen):
            raise UserError(f"the first {blocks} blocks of {cell.label} hold no counted token: choose larger --blocks")
        judged = judge_cell(policy, None, seen, blocks, strict=strict, best_of=best_of)
        rows.append(
            replace(
                as_judged(cell),
                num_blocks=blocks,
                tokens=judged.metrics.tokens,
                js2d=judged.metrics.js2d,
                verdict=judged.verdict,
                metrics=judged.verdicts,
            )
        )
    return rows


def as_judged(cell: ParityCell) -> BudgetRow:
    """What the run itself says of a cell, on all of its blocks."""
    return BudgetRow(
        checkpoint=cell.checkpoint,
        name=cell.name,
        pack=cell.pack,
        seq_len=cell.seq_len,
        severity=cell.severity,
        num_blocks=cell.num_blocks,
        tokens=cell.tokens,
        js2d=cell.js2d,
        verdict=cell.verdict,
        metrics=cell.metrics,
    )


def _collection(results: Path, cell: ParityCell, role: str) -> Collection:
    if role not in cell.inputs.collections:
        raise UserError(f"{results} stopped early (--sequential): run the gate without it to compare budgets")
    return cell.inputs.saved(results, role)


def doubling(num_blocks: int) -> list[int]:
    """8 blocks, and twice as many until all of them."""
    budgets = [FIRST_BUDGET << power for power in range(num_blocks.bit_length())]
    return [*(blocks for blocks in budgets if blocks < num_blocks), num_blocks]


def budget_tables(rows: Sequence[BudgetRow]) -> list[Table]:
    """A table for every cell: for every metric, a line for every budget."""
    cells: dict[str, list[BudgetRow]] = {}
    for row in rows:
        cells.setdefault(f"{row.name} {row.pack} {row.seq_len}", []).append(row)
    return [_table(name, budgets) for name, budgets in cells.items()]


def _table(name: str, budgets: Sequence[BudgetRow]) -> Table:
    plug_in = [f"{row.js2d:.4f}" for row in budgets]
    return terminal_table(
        ("metric", "blocks", "tokens", "value", "at least", "at most", "margin", "verdict"),
        _lines(budgets),
        text=("metric", "verdict"),
        padding=(0, 1, 0, 0),
        title=name,
        title_justify="left",
        caption=f"plug-in JS2D, 160 x 120 bins: {', '.join(plug_in)}",
        caption_justify="left",
    )


def _lines(budgets: Sequence[BudgetRow]) -> Iterator[tuple[str, ...]]:
    for metric in budgets[0].metrics:
        for place, row in enumerate(budgets):
            verdict = row.metrics[metric]
            numbers = (verdict.estimate, verdict.lower, verdict.upper, verdict.margin)
            interval = has_intervals(row.metrics)
            yield (
                "" if place else metric,
                str(row.num_blocks),
                f"{row.tokens:,}",
                *("-" if number is None else shown(metric, number, interval=interval) for number in numbers),
                "underpowered" if verdict.underpowered else verdict.verdict or "",
            )
