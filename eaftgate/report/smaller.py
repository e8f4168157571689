"""The report's section on smaller budgets: what the same run would have said on the first of its blocks."""

from collections.abc import Sequence
from pathlib import Path

from eaftgate.errors import UserError
from eaftgate.gate.results import GATES_FILE, Parity
from eaftgate.judge.metrics import has_intervals
from eaftgate.judge.policy import load_gates
from eaftgate.judge.wording import shown
from eaftgate.progress import NO_BAR, Bar
from eaftgate.report.budgets import BudgetRow, as_judged, cell_budgets, doubling
from eaftgate.report.margins import GLYPHS
from eaftgate.report.rows import Cell, html_text, row, table
from eaftgate.visible import visible

_WHAT = (
    "The cells that decide, judged again on the first 8 blocks, the first 16 and so on: a smaller budget is a prefix "
    "of this run. Bounds narrow with the root of the tokens. A question mark could not have been decided with so "
    "few; a circle had too little to decide anything."
)


def smaller_budgets(results: Path | None, parity: Parity, bar: Bar = NO_BAR) -> str:
    """HTML; a sentence where the run's collections or gates file are not there any more. `bar` is told every cell."""
    primary = [cell for cell in parity.cells if cell.severity == "primary"]
    if results is None or not primary:
        return ""
    title = '<h2 id="budgets">What smaller budgets would have said</h2>'
    try:
        policy = load_gates(results / GATES_FILE).policy(parity.policy)[1]
        said = ""
        for cell in primary:
            fewer = doubling(cell.num_blocks)[:-1]
            asked = parity.asked
            rows = cell_budgets(results, cell, policy, fewer, strict=asked.strict_cells, best_of=asked.best_of)
            said += _cell(cell.label, [*rows, as_judged(cell)])
            bar.advance(1)
    except UserError as error:
        return f'{title}<p class="note">Not known: {html_text(str(error))}.</p>'
    return f'{title}<p class="note">{_WHAT}</p>{said}'


def _cell(name: str, budgets: Sequence[BudgetRow]) -> str:
    metrics = [metric for metric, verdict in budgets[-1].metrics.items() if verdict.verdict is not None]
    said = [
        row("td", (Cell("verdict", "name"), *(Cell(found.verdict, f"verdict {found.verdict}") for found in budgets)))
    ]
    said += [row("td", (Cell(metric, "name"), *(_entry(found, metric) for found in budgets))) for metric in metrics]
    head = (
        Cell("blocks", "name"),
        *(Cell(str(found.num_blocks), below=f"{found.tokens:,} tokens") for found in budgets),
    )
    title = html_text(visible(name))
    return f"<details><summary><h3>{title}</h3></summary>{table(head, said, label=f'budgets of {name}')}</details>"


def _entry(found: BudgetRow, metric: str) -> Cell:
    verdict = found.metrics[metric]
    if verdict.estimate is None:
        return Cell("-")
    value = shown(metric, verdict.estimate, interval=has_intervals(found.metrics))
    if verdict.underpowered:
        return Cell(f"◌ {value}")
    return Cell(f"{GLYPHS.get(verdict.verdict or '', '')} {value}".strip(), verdict.verdict or "")
