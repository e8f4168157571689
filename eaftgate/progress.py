"""One progress bar: what is running, how far, and how fast. It is drawn on a terminal's stderr and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Bar:
    """A bar that is advanced by, or set to, a number of units. Without a display it does nothing."""

    def __init__(self, progress: Progress | None = None, task: TaskID | None = None) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, amount)

    def show(self, done: float, total: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def describe(self, text: str) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=text)


class _RateColumn(TextColumn):
    def __init__(self, unit: str) -> None:
        super().__init__("")
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("")
        if speed < 0.1:
            return Text(f"{60 * speed:.1f} {self.unit}/min")
        scale = next((s for s in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if speed >= s[0]), (1.0, ""))
        return Text(f"{speed / scale[0]:.1f} {scale[1]}{self.unit}/s")


@contextmanager
def progress_bar(description: str, total: int | None, *, unit: str, console: Console | None = None) -> Iterator[Bar]:
    """Draw a bar while the context is open, if `console` (stderr by default) is a terminal."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield Bar()
        return
    text = TextColumn("{task.description}")
    columns = (text, BarColumn(), TaskProgressColumn(), _RateColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield Bar(progress, progress.add_task(description, total=total))
