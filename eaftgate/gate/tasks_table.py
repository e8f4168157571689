"""What the terminal shows of tasks: a line a checkpoint, task and metric, and what keeps them from a pass."""

from collections.abc import Iterator

from rich.text import Text

from eaftgate.gate.results import Parity
from eaftgate.gate.table import COLOURS, rendered
from eaftgate.gate.tasks import ParityTask, why_no_pass
from eaftgate.judge.wording import shown
from eaftgate.tables import fitted_table
from eaftgate.visible import visible

HEAD = ("checkpoint", "task", "documents", "metric", "base", "candidate", "change", "within", "verdict")
"""Of the table here, in parity.md and on the page."""

_SPARE = (("documents", "base", "candidate"), ("within",))
"""What a narrow terminal does without, in this order: a verdict is one on the bounds."""


def task_rows(task: ParityTask) -> Iterator[tuple[str, list[str]]]:
    """By metric: its name, and what stands in HEAD but for the verdict. What each model has is as lm_eval prints it."""
    for name, verdict in task.metrics.items():
        metric, figures = task.metric(name), task.details.get(name, {})
        bounds = [
            "" if bound is None else shown(metric, bound, interval=True) for bound in (verdict.lower, verdict.upper)
        ]
        yield (
            name,
            [
                task.name,
                task.task,
                f"{task.documents:,}",
                name,
                *(f"{figures[role]:.4f}" if role in figures else "-" for role in ("base", "candidate")),
                "-"
                if verdict.estimate is None
                else shown(metric if bounds[0] else name, verdict.estimate, interval=True),
                " to ".join(filter(None, bounds)) or "-",
            ],
        )


def verdict_word(task: ParityTask, name: str) -> str:
    """In brackets where it does not decide; nothing where there is none."""
    verdict = task.metrics[name].verdict
    if verdict is None:
        return "(not judged)"
    return verdict.upper() if task.decides and task.metrics[name].decides else f"({verdict})"


def tasks_lines(parity: Parity, *, width: int, colour: bool) -> Iterator[str]:
    if not parity.tasks:
        return
    rows: list[list[str | Text]] = []
    for task in parity.tasks:
        for name, cells in task_rows(task):
            word = verdict_word(task, name)
            coloured = Text(word, style=COLOURS[task.metrics[name].verdict or ""] if word.isupper() else "")
            rows.append([*cells, coloured])
    table = fitted_table(
        HEAD,
        rows,
        width=width,
        spare=_SPARE,
        folded={"checkpoint": 6, "task": 8, "metric": 8},
        text=("verdict",),
        collapse_padding=True,
    )
    yield f"tasks of lm_eval {visible(str(parity.tasks[0].inputs.settings.get('lm_eval', '')))}"
    yield rendered(table, width=width, colour=colour)


def tasks_remarks(parity: Parity) -> list[str]:
    """One sentence each: what keeps a task that decides from a pass."""
    return [
        f"{visible(task.name)}: {visible(why_no_pass(task.task, task))}"
        for task in sorted(parity.tasks, key=lambda task: task.verdict != "fail")
        if task.decides and task.verdict != "pass"
    ]
