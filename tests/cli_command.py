"""`eaftgate ARGUMENTS` in the process of the test, as its user sees it end."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from eaftgate.commands import app as cli


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def eaftgate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`eaftgate ARGUMENTS` in this process."""

    def command(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["eaftgate", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        return Ended(int(exit_info.value.code or 0), *capsys.readouterr())

    return command


def refused(ended: Ended, said: str) -> None:
    """Exit code 2, nothing on stdout, one sentence on stderr that says `said`."""
    assert ended.code == 2
    assert ended.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", ended.err)
    assert said in ended.err
