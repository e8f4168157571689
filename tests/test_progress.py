"""How far work has come: a bar on a terminal, plain lines elsewhere, of which the last before a kill is enough."""

import io
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eaftgate import progress
from eaftgate.progress import AGAIN, ANEW, AS_BEFORE, _Written, amount, duration, progress_bar, rate


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


def written(
    clock: Clock, total: int | None, unit: str = "tokens", *, steady: bool = True
) -> tuple[_Written, list[str]]:
    lines: list[str] = []
    return _Written("profile to out", total, unit, lines.append, clock, steady=steady), lines


def test_lines_say_what_is_done_how_fast_and_what_is_left(clock: Clock) -> None:
    bar, lines = written(clock, 90_000)
    assert lines == [f"profile to out: 0 of 90,000 tokens; {AGAIN}"]
    clock.now += 30
    bar.advance(30_000)
    bar.beat()
    clock.now += 60
    bar.beat()
    bar.advance(60_000)
    clock.now += 3600
    bar.end()
    assert lines[1:] == [
        "profile to out: 30,000 of 90,000 tokens (33%), 1.0 ktokens/s, 60 s left",
        "profile to out: 30,000 of 90,000 tokens (33%), 666.7 tokens/s, 45 s left",
        "profile to out: done in 62 min",
    ]


def test_what_takes_seconds_has_its_first_line_only(clock: Clock) -> None:
    bar, lines = written(clock, 10)
    bar.advance(10)
    bar.end()
    assert len(lines) == 1


def test_of_no_work_nothing_is_said() -> None:
    console = Console(file=io.StringIO())
    with progress_bar("report", 0, unit="cells", console=console) as bar:
        bar.advance(0)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_total_that_is_not_known_yet_is_no_line_until_it_is(clock: Clock) -> None:
    bar, lines = written(clock, None, "B")
    assert lines == []
    clock.now += 200
    bar.beat()
    bar.show(5e8, 2_000_000_000)
    clock.now += 10
    bar.show(1e9, 2_000_000_000)
    bar.describe("shard 2\n")
    bar.beat()
    assert lines == [
        "profile to out: begun, 3 min so far",
        f"profile to out: 500.0 MB of 2.0 GB; {AGAIN}",
        "profile to out, shard 2\\n: 1.0 GB of 2.0 GB (50%), 50.0 MB/s, 20 s left",
    ]


def test_work_that_is_taken_up_has_the_speed_of_what_is_done_now(clock: Clock) -> None:
    bar, lines = written(clock, None, "layers")
    bar.show(12, 24)
    clock.now += 600
    bar.beat()
    bar.show(14.5, 24)
    bar.beat()
    assert lines[1:] == [
        "profile to out: 12 of 24 layers, 10 min so far",
        "profile to out: 14.5 of 24 layers (60%), 0.2 layers/min, 38 min left",
    ]


def test_what_is_left_is_said_by_the_speed_of_the_last_half_of_the_time(clock: Clock) -> None:
    """A fast first part does not count any more once as much time has gone since."""
    bar, lines = written(clock, 100, "layers")
    for done in (40, 41, 42, 43):
        clock.now += 30
        bar.show(done, 100)
        bar.beat()
    assert [line.split(", ")[-1] for line in lines[1:]] == ["45 s left", "30 min left", "29 min left", "28 min left"]


def test_what_is_left_is_right_also_while_a_long_step_is_under_way(clock: Clock) -> None:
    """Of steps of 100 s each, at every line from the first step's end, to the second."""
    bar, lines = written(clock, 10, "layers")
    for second in range(10, 1000, 10):
        clock.now += 10
        if second % 100 == 0:
            bar.show(second / 100, 10)
        if second % 30 == 0:
            bar.beat()
    assert not any("left" in line for line in lines[:4])
    assert [line.split(", ")[-1] for line in lines[4:]] == [
        f"{duration(1000 - second)} left" for second in range(120, 1000, 30)
    ]


def test_a_step_that_does_not_end_is_seen_in_what_is_left(clock: Clock) -> None:
    bar, lines = written(clock, 10, "layers")
    clock.now += 100
    bar.show(1, 10)
    for _ in range(3):
        clock.now += 100
        bar.beat()
    assert [line.split(", ")[-1] for line in lines[1:]] == ["13 min left", "20 min left", "27 min left"]


def test_of_what_ends_in_bunches_only_what_is_known_is_said(clock: Clock) -> None:
    bar, lines = written(clock, 100, "turns", steady=False)
    clock.now += 30
    bar.beat()
    bar.advance(40)
    clock.now += 30
    bar.beat()
    assert lines[1:] == [
        "profile to out: 0 of 100 turns, 30 s so far",
        "profile to out: 40 of 100 turns (40%), 60 s so far",
    ]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (amount(1234567, "tokens"), "1,234,567"), (amount(1.25, "layers"), "1.2"), (amount(0, "B"), "0.0 B"),
        (amount(12.8e9, "B"), "12.8 GB"), (rate(0.05, "cases"), "3.0 cases/min"), (rate(0.1, "cases"), "0.1 cases/s"),
        (rate(2.5e6, "B"), "2.5 MB/s"), (duration(0.2), "0 s"), (duration(99), "99 s"), (duration(100), "2 min"),
        (duration(5900), "98 min"), (duration(6000), "1 h 40 min"), (duration(90_000), "25 h 0 min"),
    ],
)  # fmt: skip
def test_numbers_as_they_are_read(said: str, expected: str) -> None:
    assert said == expected


def test_a_long_step_has_lines_too_and_nothing_that_a_terminal_obeys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where colours are forced, as CI does."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    stream = io.StringIO()
    for console in (Console(file=stream), Console(file=stream, force_terminal=True)):
        with progress_bar("a\x1b[1m [/red]", 10, unit="tokens", out=Path("o\nut"), console=console) as bar:
            bar.advance(1)
            time.sleep(0.2)
    lines = stream.getvalue().splitlines()
    assert not re.search(r"[\r\x1b\t]", stream.getvalue())
    assert lines[0] == rf"a\x1b[1m [/red] to o\nut: 0 of 10 tokens; {AGAIN}"
    assert len(lines) >= 6
    assert all(line.startswith(r"a\x1b[1m [/red] to o\nut: ") for line in lines)
    assert lines[-1].endswith(": done in 0 s")


def test_a_terminal_has_a_bar_that_takes_a_name_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    console = Console(file=stream, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    with progress_bar("score [/red]\x1b[5m", 10, unit="tokens", console=console) as bar:
        bar.advance(10)
        bar.describe("now [bold]")
    assert r"score [/red]\x1b[5m" in stream.getvalue() or "now [bold]" in stream.getvalue()
    assert "\x1b[5m" not in stream.getvalue()
    assert AGAIN not in stream.getvalue()


@pytest.mark.parametrize("steady", [True, False])
def test_a_bar_leaves_the_time_left_out_where_it_is_not_known(steady: bool) -> None:
    stream = Terminal()
    console = Console(file=stream, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    with progress_bar("write", 10, unit="turns", console=console, steady=steady) as bar:
        bar.advance(1)
    assert ("-:--:--" in stream.getvalue()) == steady, "the time left, before anything is done"
    assert ("0:00:0" in stream.getvalue()) == (not steady), "the time so far"


def test_a_bar_has_a_time_left_where_a_step_takes_minutes() -> None:
    stream, now = Terminal(), [0.0]
    terminal: dict[str, Any] = {"force_terminal": True, "width": 120, "_environ": {"TERM": "xterm"}}
    console = Console(file=stream, get_time=lambda: now[0], **terminal)
    with progress_bar("search", 10, unit="passes", console=console) as bar:
        for _ in range(3):
            now[0] += 100
            bar.advance(1)
    assert "0:11:40" in stream.getvalue(), "seven steps of 100 s"


def interrupted(*, terminal: bool, total: float | None, steps: tuple[tuple[object, ...], ...], resumes: bool) -> str:
    """The last line of work that takes `steps`, names and arguments of methods of the bar, and then Ctrl-C."""
    stream = Terminal() if terminal else io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, _environ={"TERM": "xterm"})
    options: dict[str, Any] = {"unit": "passes", "out": Path("o\nut"), "console": console, "resumes": resumes}

    def work() -> None:
        with progress_bar("refined", total, **options) as bar:
            for name, *arguments in steps:
                getattr(bar, str(name))(*arguments)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    return ["", *stream.getvalue().splitlines()][-1].removeprefix("\x1b[?25h")  # which shows the cursor again


KEEP = ("keep",)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    ("total", "steps", "said"),
    [
        (30, [("advance", 4)], f"interrupted at 4 of 30 passes; {AGAIN}"),
        (None, [], f"interrupted; {AGAIN}"),
        (None, [KEEP], AS_BEFORE),
        (None, [KEEP, ("show", 0, 30), ("show", 4.5, 30)], f"interrupted at 4.5 of 30 passes, 0 of them kept; {ANEW}"),
        (None, [KEEP, ("show", 6, 30), ("show", 8, 30)], f"interrupted at 8 of 30 passes, 6 of them kept; {AGAIN}"),
        (None, [("show", 0, 30), ("show", 9, 30), KEEP], f"interrupted at 9 of 30 passes, 9 of them kept; {AGAIN}"),
    ],
)
def test_an_interruption_says_what_is_kept_and_what_the_same_command_does(
    terminal: bool, total: float | None, steps: tuple[tuple[object, ...], ...], said: str
) -> None:
    assert interrupted(terminal=terminal, total=total, steps=steps, resumes=True) == rf"refined to o\nut: {said}"
    assert "interrupted" not in interrupted(terminal=terminal, total=total, steps=steps, resumes=False)


def test_a_dumb_terminal_has_lines() -> None:
    stream = Terminal()
    with progress_bar("score", 10, unit="tokens", console=Console(file=stream, _environ={"TERM": "dumb"})):
        pass
    assert stream.getvalue() == f"score: 0 of 10 tokens; {AGAIN}\n"


def test_a_stream_that_is_gone_or_lacks_a_character_fails_nothing() -> None:
    closed, narrow = io.StringIO(), io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    closed.close()
    for stream in (closed, narrow):
        console = Console(file=stream)
        try:
            with progress_bar("größe", 10, unit="tokens", console=console):
                pass
        except ValueError:
            pytest.fail("a closed stream ended the work")
    narrow.seek(0)
    assert narrow.read().startswith(r"gr\xf6\xdfe: 0 of 10")
