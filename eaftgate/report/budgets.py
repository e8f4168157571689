"""Every metric of a finished gate run against the budget: what a smaller --num-blocks would have said.

Blocks are taken from the front of the rows' order, so the run with fewer blocks has a prefix of these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from eaftgate.collect.collection import load_collection
from eaftgate.errors import UserError
from eaftgate.gate.results import read_parity
from eaftgate.gate.run import COLLECTIONS_DIR
from eaftgate.judge.cell import judge_cell
from eaftgate.judge.policy import IntervalPolicy, PointPolicy
from eaftgate.judge.verdict import MetricVerdict
from eaftgate.judge.wording import shown
from eaftgate.parity.paired import pair

FIRST_BUDGET = 8


def budgets_of(
    results: Path, policy: PointPolicy | IntervalPolicy, budgets: Sequence[int], *, strict: bool = False
) -> list[dict[str, Any]]:
    """One row for every cell and budget: checkpoint, pack, seq_len, num_blocks, tokens, verdict, metrics.

    `budgets` empty: 8 blocks, and twice as many until all of them. Raises UserError when the run's collections are not
    there or not whole, or a budget has no counted token.
    """
    rows = []
    for cell in read_parity(results)["cells"]:
        tokens = pair(*(_collection(results, cell, role) for role in ("base", "checkpoint")))
        for blocks in budgets or _doubling(cell["num_blocks"]):
            seen = tokens.select(tokens.block_T < blocks)
            name = f"{cell['name']} {cell['pack']} {cell['seq_len']}"
            if blocks > cell["num_blocks"]:
                raise UserError(f"{name} was judged on {cell['num_blocks']} blocks: it cannot say what {blocks} say")
            if not len(seen):
                raise UserError(f"the first {blocks} blocks of {name} hold no counted token: choose larger --blocks")
            judged = judge_cell(policy, None, seen, blocks, strict=strict)
            rows.append(
                {
                    **{key: cell[key] for key in ("checkpoint", "name", "pack", "seq_len", "severity")},
                    "num_blocks": blocks,
                    "tokens": judged.metrics.tokens,
                    "js2d": judged.metrics.js2d,
                    "verdict": judged.verdict,
                    "metrics": {metric: asdict(verdict) for metric, verdict in judged.verdicts.items()},
                }
            )
    return rows


def _collection(results: Path, cell: Mapping[str, Any], role: str) -> Any:
    name = cell["inputs"]["collections"].get(role)
    if name is None:
        raise UserError(f"{results} stopped early (--sequential): run the gate without it to compare budgets")
    path = results / COLLECTIONS_DIR / name
    if not path.is_file():
        raise UserError(f"{path} is gone: run the gate again")
    return load_collection(path)


def _doubling(num_blocks: int) -> list[int]:
    budgets = [FIRST_BUDGET << power for power in range(num_blocks.bit_length())]
    return [*(blocks for blocks in budgets if blocks < num_blocks), num_blocks]


def budget_tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table for every cell: for every metric, a line for every budget."""
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault(f"{row['name']} {row['pack']} {row['seq_len']}", []).append(row)
    return [_table(name, budgets) for name, budgets in cells.items()]


def _table(name: str, budgets: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=name, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("metric", no_wrap=True)
    for column in ("blocks", "tokens", "value", "at least", "at most", "margin"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for metric in budgets[0]["metrics"]:
        for place, row in enumerate(budgets):
            verdict = MetricVerdict(**row["metrics"][metric])
            numbers = (verdict.estimate, verdict.lower, verdict.upper, verdict.margin)
            table.add_row(
                "" if place else metric,
                str(row["num_blocks"]),
                f"{row['tokens']:,}",
                *("-" if n is None else shown(metric, n, interval="js2d_corrected" in row["metrics"]) for n in numbers),
                "underpowered" if verdict.underpowered else verdict.verdict or "",
            )
    plug_in = [f"{row['js2d']:.4f}" for row in budgets]
    table.caption = f"plug-in JS2D, 160 x 120 bins: {', '.join(plug_in)}"
    table.caption_justify = "left"
    return table
