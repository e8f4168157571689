"""The harness sees what it is there for: a command that hangs, writes elsewhere, dies, or says too much."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from attacks import run as harness
from attacks.attack import Attack, Box, Expected
from eaftgate.commands import app as cli
from eaftgate.errors import UserError


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    def run(main: Callable[[], object], expected: Expected = "refused", says: str = "") -> list[str]:
        monkeypatch.setattr(cli, "main", main)
        attack = Attack("a", lambda box: ["x", box.file("in", "content")], expected, says)
        return [problem.kind for problem in harness.run(attack, Box(tmp_path / "box", tmp_path))]

    return run


def refuse(text: str = "error: in is no file", code: int = 2) -> None:
    typer.echo(text, err=True)
    sys.exit(code)


def after(act: Callable[[], object]) -> Callable[[], None]:
    """Refuses, and has done something before."""

    def main() -> None:
        act()
        refuse()

    return main


def raise_(error: BaseException) -> None:
    raise error


def test_a_refusal_in_one_sentence_is_right(problems: Callable[..., list[str]]) -> None:
    assert problems(refuse, says="in is") == []


@pytest.mark.parametrize(
    ("main", "found"),
    [
        (lambda: raise_(KeyError("a")), "tracebacks"),
        (lambda: raise_(UserError("not caught")), "tracebacks"),
        (lambda: raise_(KeyboardInterrupt()), "tracebacks"),
        (lambda: refuse(code=1), "refused_wrongly"),
        (lambda: sys.exit(0), "accepted_wrongly"),
        (lambda: refuse("error: one\nerror: two"), "not_one_sentence"),
        (lambda: refuse("it went wrong"), "not_one_sentence"),
        (after(lambda: print("half a table")), "not_one_sentence"),
        (after(lambda: os.write(2, b"a library's warning\n")), "not_one_sentence"),
        (after(lambda: Path("half").touch()), "outside"),
        (after(lambda: Path("in").write_text("changed", encoding="utf-8")), "outside"),
        (after(lambda: Path("in").unlink()), "outside"),
        (after(lambda: Path("../elsewhere").mkdir()), "outside"),
    ],
)
def test_all_else_is_not(problems: Callable[..., list[str]], main: Callable[[], object], found: str) -> None:
    assert problems(main) == [found]


def test_what_is_not_named_is_seen(problems: Callable[..., list[str]]) -> None:
    assert problems(refuse, says="--seed") == ["not_one_sentence"]


def test_what_is_accepted_may_write_its_output_alone(problems: Callable[..., list[str]]) -> None:
    assert problems(lambda: Path("out").mkdir(), "accepted") == []


def test_a_refusal_of_what_is_sound_is_seen(problems: Callable[..., list[str]]) -> None:
    assert problems(refuse, "accepted") == ["refused_wrongly"]


def test_a_hang_is_cut_short(monkeypatch: pytest.MonkeyPatch, problems: Callable[..., list[str]]) -> None:
    monkeypatch.setattr(harness, "HANGS_AFTER_SECONDS", 0.2)
    assert problems(lambda: time.sleep(60)) == ["hangs"]
