"""How a session ended, as pytest tells it, and the reports of cases that no process runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from eaftgate.visible import plain

_ENDED = {
    pytest.ExitCode.INTERRUPTED: "the run was interrupted",
    pytest.ExitCode.INTERNAL_ERROR: "pytest met an internal error",
    pytest.ExitCode.NO_TESTS_COLLECTED: "no case was left to run",
}


def cut_short(session: pytest.Session, *, failed: bool) -> str:
    """What kept a session from ending by itself, or nothing. `failed`: some case did."""
    code = session.exitstatus
    if code == pytest.ExitCode.OK or (code == pytest.ExitCode.TESTS_FAILED and failed):
        return ""
    said = _ENDED.get(pytest.ExitCode(code)) if code in set(pytest.ExitCode) else None
    reasons = [reason for reason in (session.shouldstop, session.shouldfail) if isinstance(reason, str)]
    return f"{said or f'pytest was ended with exit code {int(code)}'}{': ' if reasons else ''}{'; '.join(reasons)}"


@dataclass(frozen=True)
class Reason:
    """Of a failure: JUnit has all its lines, the terminal some."""

    text: str
    max_lines: int

    @property
    def reprcrash(self) -> Any:
        """What pytest's short summary shows."""
        return SimpleNamespace(message=plain(self.text.partition("\n")[0]))

    def __str__(self) -> str:
        return self.text

    def toterminal(self, terminal: Any) -> None:
        lines = self.text.splitlines()
        for line in lines[: self.max_lines + 1]:
            terminal.line(plain(line))
        if len(lines) > self.max_lines + 1:
            terminal.line(f"and {len(lines) - self.max_lines - 1} further ones")


def reports_of(file: str, name: str, reason: str, *, max_lines: int) -> Iterator[pytest.TestReport]:
    """Of a case that failed for `reason`, or passed where there is none, as pytest makes them of one that it runs."""
    for when, said in (("call", reason), ("teardown", "")):
        yield pytest.TestReport(
            nodeid=f"{file}::{name}",
            location=(file, None, name),
            keywords={name: 1},
            outcome="failed" if said else "passed",
            longrepr=Reason(said, max_lines) if said else None,  # type: ignore[arg-type]
            when=when,  # type: ignore[arg-type]
        )
