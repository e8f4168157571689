"""What is running, how far, and how fast: a bar on a terminal, plain lines on stderr elsewhere (CI, nohup, a pipe).

A line is written when the work begins and every LINE_SECONDS, and below a bar, too, when the work is interrupted. Each
says what it makes, so that the last one before a kill is enough to go on.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Event, Lock, Thread

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from eaftgate.visible import plain

LINE_SECONDS = 30.0
SLOWEST_STEPS = 600.0
"""Seconds over which a bar measures speed: steps that take longer have no time left."""
AGAIN = "given again, the same command goes on where it was"
ANEW = "given again, the same command begins anew"
AS_BEFORE = "interrupted before anything was done; given again, the same command begins where this one did"


class Bar:
    """A bar that is advanced by, or set to, a number of units. This one shows nothing."""

    def advance(self, amount: int) -> None: ...

    def show(self, done: float, total: float) -> None: ...

    def describe(self, text: str) -> None: ...

    def keep(self) -> None:
        """What is done so far outlasts an interruption. Where this is never said, all but the last moments do."""


NO_BAR = Bar()


@contextmanager
def progress_bar(
    description: str,
    total: float | None,
    *,
    unit: str,
    out: Path | None = None,
    resumes: bool = True,
    steady: bool = True,
    console: Console | None = None,
) -> Iterator[Bar]:
    """Show how far the work in the context is; where `total` is not known, from the first time that it is shown. `out`
    is what it makes, `resumes` whether the same command goes on where it was; then an interruption is said. Units that
    are not `steady` end in bunches: neither speed nor time left is said. `console` is stderr by default; only on a
    terminal a bar is drawn, of which xdist's workers share one. Of no work at all nothing is shown."""
    if total == 0:
        yield NO_BAR
        return
    worker = os.environ.get("PYTEST_XDIST_WORKER") if console is None else None
    console = console or Console(file=sys.stderr)  # as it is now: what runs within may have it say nothing
    title = plain(description.strip())
    named = "".join((f"[{worker}] " if worker else "", title, f" to {plain(str(out))}" if out else ""))
    write = _line_to(console)
    shown: AbstractContextManager[_Counted] = (
        _drawing(title, total, unit, console, steady=steady)
        if worker is None and _is_terminal(console)
        else _beating(_Written(named, total, unit, write, resumes=resumes, steady=steady))
    )
    bar = _Counted(total, unit)
    try:
        with shown as bar:
            yield bar
    except KeyboardInterrupt:
        if resumes:
            write(f"{named}: {bar.interrupted()}")
        raise


def _is_terminal(console: Console) -> bool:
    """A real one: for rich it may be what FORCE_COLOR says, as in CI's logs."""
    with suppress(OSError, ValueError):
        return console.file.isatty() and not console.is_dumb_terminal
    return False


def amount(number: float, unit: str) -> str:
    """A number of units; bytes are scaled."""
    if unit == "B":
        return f"{_scaled(number)}B"
    return f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"


def rate(speed: float, unit: str) -> str:
    """`speed` is units a second."""
    return f"{60 * speed:.1f} {unit}/min" if speed < 0.1 else f"{_scaled(speed)}{unit}/s"


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _scaled(number: float) -> str:
    scale = next((s for s in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= s[0]), (1.0, ""))
    return f"{number / scale[0]:.1f} {scale[1]}"


class _Counted(Bar):
    """Knows how far it is."""

    def __init__(self, total: float | None, unit: str) -> None:
        self._done, self._total, self._unit = 0.0, total, unit
        self._kept: float | None = None

    def advance(self, amount: int) -> None:
        self._done += amount

    def show(self, done: float, total: float) -> None:
        if self._total is None and self._kept is not None:
            self._kept = done  # by another run
        self._done, self._total = done, total

    def keep(self) -> None:
        self._kept = self._done

    def interrupted(self) -> str:
        if self._total is None:
            return f"interrupted; {AGAIN}" if self._kept is None else AS_BEFORE
        said = f"interrupted at {self._count()}"
        if self._kept is None:
            return f"{said}; {AGAIN}"
        return f"{said}, {amount(self._kept, self._unit)} of them kept; {AGAIN if self._kept else ANEW}"

    def _count(self) -> str:
        if self._total is None:
            return "begun"
        unit = "" if self._unit == "B" else f" {self._unit}"
        return f"{amount(self._done, self._unit)} of {amount(self._total, self._unit)}{unit}"


class _Drawn(_Counted):
    def __init__(self, total: float | None, unit: str, progress: Progress, task: TaskID) -> None:
        super().__init__(total, unit)
        self._progress, self._task = progress, task

    def advance(self, amount: int) -> None:
        super().advance(amount)
        self._progress.advance(self._task, amount)

    def show(self, done: float, total: float) -> None:
        super().show(done, total)
        self._progress.update(self._task, completed=done, total=total)

    def describe(self, text: str) -> None:
        self._progress.update(self._task, description=plain(text))


class _RateColumn(TextColumn):
    def __init__(self, unit: str) -> None:
        super().__init__("")
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else rate(speed, self.unit))


@contextmanager
def _drawing(title: str, total: float | None, unit: str, console: Console, *, steady: bool) -> Iterator[_Drawn]:
    text = TextColumn("{task.description}", markup=False)
    pace = (_RateColumn(unit), TimeRemainingColumn()) if steady else (TimeElapsedColumn(),)
    bar = Progress(text, BarColumn(), TaskProgressColumn(), *pace, console=console, speed_estimate_period=SLOWEST_STEPS)
    with bar as progress:
        yield _Drawn(total, unit, progress, progress.add_task(title, total=total))


class _Written(_Counted):
    """Lines, of which `write` gets each."""

    def __init__(
        self,
        title: str,
        total: float | None,
        unit: str,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        resumes: bool = True,
        steady: bool = True,
    ) -> None:
        super().__init__(total, unit)
        self._steady = steady
        self._again = f"; {AGAIN}" if resumes else ""
        self._title, self._now, self._write, self._clock = title, "", write, clock
        self._opened = clock()
        self._stepped, self._step = self._opened, 0.0
        self._marks: list[tuple[float, float]] = []
        self._lock = Lock()
        self._began, self._beats = False, 0
        if total is not None:
            self._begin()

    def advance(self, amount: int) -> None:
        with self._lock:
            before = self._done
            super().advance(amount)
            self._ended_step(before)

    def show(self, done: float, total: float) -> None:
        with self._lock:
            before = self._done
            super().show(done, total)
            if self._began:
                self._ended_step(before)
            else:
                self._begin()

    def describe(self, text: str) -> None:
        with self._lock:
            self._now = f", {plain(text)}"

    def beat(self) -> None:
        with self._lock:
            self._beats += 1
            self._write(f"{self._title}{self._now}: {self._so_far()}")
            if self._began:
                self._marks.append((self._stepped, self._done))

    def end(self) -> None:
        """Said only where there was time for a line in between."""
        with self._lock:
            if self._beats:
                self._write(f"{self._title}: done in {duration(self._clock() - self._opened)}")

    def _begin(self) -> None:
        """Speed counts from here: what was done before is another run's."""
        self._began, self._stepped, self._marks = True, self._clock(), [(self._clock(), self._done)]
        self._write(f"{self._title}: {self._count()}{self._again}")

    def _ended_step(self, before: float) -> None:
        if self._done > before:
            self._stepped, self._step = self._clock(), self._done - before

    def _speed_and_under_way(self) -> tuple[float, float]:
        """Units a second in the last half of the time, because work comes in parts of which one is faster than another;
        and how many of a step that has not ended may be done at that speed, at most as many as the one before had.
        Were they not counted, the first of long steps would seem to last until the second ends."""
        now = self._clock()
        if not self._marks:
            return 0.0, 0.0
        first = self._marks[0]
        recent = [mark for mark in self._marks if mark[0] <= (first[0] + now) / 2][-1]
        since, done = recent if self._done > recent[1] else first
        if self._stepped <= since:
            return 0.0, 0.0
        of_steps = (self._done - done) / (self._stepped - since)
        under_way = min(of_steps * (now - self._stepped), self._step)
        return (self._done + under_way - done) / (now - since), under_way

    def _so_far(self) -> str:
        said, (speed, under_way) = [self._count()], self._speed_and_under_way()
        if self._total and speed > 0:
            said[0] += f" ({self._done / self._total:.0%})"
        if self._total and speed > 0 and self._steady:
            left = max(0.0, self._total - self._done - under_way) / speed
            return ", ".join([*said, rate(speed, self._unit), f"{duration(left)} left"])
        return ", ".join([*said, f"{duration(self._clock() - self._opened)} so far"])


@contextmanager
def _beating(bar: _Written) -> Iterator[_Written]:
    """A line every LINE_SECONDS, however long a step takes."""
    ended = Event()

    def beat() -> None:
        while not ended.wait(LINE_SECONDS):
            bar.beat()

    thread = Thread(target=beat, name="progress", daemon=True)
    thread.start()
    try:
        yield bar
    finally:
        ended.set()
        thread.join()
    bar.end()


def _line_to(console: Console) -> Callable[[str], None]:
    """A line at once, whole; a stream that is gone is not what the work fails of. Its encoding may lack a character."""
    stream = console.file

    def write(line: str) -> None:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        with suppress(OSError, ValueError):
            stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            stream.flush()

    return write
