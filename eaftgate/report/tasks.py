"""The report's section on tasks of lm-evaluation-harness."""

from eaftgate.gate.results import Parity
from eaftgate.gate.tasks import ParityTask
from eaftgate.gate.tasks_table import HEAD, task_rows, verdict_word
from eaftgate.report.rows import Cell, html_text, row, table
from eaftgate.visible import visible

_WHAT = (
    "Base and candidate do the same documents of each task; what each of them has is what lm_eval prints (of a group, "
    "the mean over all its documents). The change is candidate less base, with its bounds, by document. A task passes "
    "when its change for the worse is less than its margin for sure. What is no mean over documents of figures from 0 "
    "to 1 is shown only."
)


def tasks_section(parity: Parity) -> str:
    """HTML, of every candidate; nothing where no task was asked for."""
    if not parity.tasks:
        return ""
    body = [row("td", cells) for task in parity.tasks for cells in _rows(task)]
    note = f'<p class="note">{html_text(_WHAT)}</p>'
    return f'<h2 id="tasks">Tasks</h2>{table(HEAD, body, label="tasks")}{note}'


def _rows(task: ParityTask) -> list[tuple[str | Cell, ...]]:
    found: list[tuple[str | Cell, ...]] = []
    for name, cells in task_rows(task):
        word, verdict = verdict_word(task, name), task.metrics[name]
        lost = "" if verdict.lost is None else f"{verdict.lost} lost, {verdict.gained} gained"
        colour = (verdict.verdict or "") if word.isupper() else ""
        found.append((*(visible(cell) for cell in cells), Cell(word, colour, lost)))
    return found
