"""What the process that the user started does with a gate session: keep outcomes, conclude, print, write."""

import re
import shutil
from collections.abc import Mapping
from contextlib import suppress

import pytest

from eaftgate import __version__
from eaftgate.errors import UserError
from eaftgate.gate.candidates import kind_line, unknown_rows
from eaftgate.gate.cases import required_cases
from eaftgate.gate.classes import class_lines
from eaftgate.gate.conclusion import CaseOutcome, conclude, read_records
from eaftgate.gate.luck import luck_line, luck_of
from eaftgate.gate.models import clear_work, remove_copies
from eaftgate.gate.plan import V1, V2, Cell, Plan
from eaftgate.gate.pytest_internals import add_junit_property
from eaftgate.gate.results import PARITY_FILE, CellRecord, Luck, Parity, write_parity
from eaftgate.gate.stability import stability_lines, stability_note
from eaftgate.gate.table import COLOURS, remarks, render_cells
from eaftgate.visible import plain

MAX_LINES = 8
COLLECTED_AGAIN = "collected_again"
"""The property of a case that says which saved files it could not use."""
_NODEID = re.compile(r"(?P<module>test_\w+)\.py(?P<case>::\w+(?:\[.*\])?)$")


class SessionReport:
    """A pytest plugin of its own, registered for gate sessions only and never in an xdist worker."""

    def __init__(self, config: pytest.Config, plan: Plan, session: str) -> None:
        self._config, self._plan, self._session = config, plan, session
        self._outcomes: dict[str, CaseOutcome] = {}
        self._parity: Parity | None = None

    def pytest_report_header(self) -> list[str]:
        plan = self._plan
        lengths = ", ".join(str(length) for length in dict.fromkeys(cell.seq_len for cell in plan.cells))
        what = ", ".join(plan.checkpoints) or "base only (noise floor and no-op rewrite)"
        several = (
            [] if plan.best_of == 1 else [f"best of {plan.best_of}: a PASS needs bounds at alpha / {plan.best_of}"]
        )
        lines = [
            f"eaftgate {__version__}: {what}",
            *([kind_line(plan.options.candidate_kind)] if plan.checkpoints else []),
            f"policy {plan.policy_name}, regime {plan.regime_name}, seq_len {lengths}",
            *several,
            f"results in {plan.options.results}",
        ]
        return [plain(line) for line in lines]

    def pytest_sessionstart(self) -> None:
        """The verdict of an earlier run must not stand in for this one, should it be killed."""
        if not self._config.option.collectonly:
            (self._plan.options.results / PARITY_FILE).unlink(missing_ok=True)
            clear_work(self._plan.options.results)
        # Not by a case: what was not planned has none.
        add_junit_property(self._config, "stability", stability_note(self._plan))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            reason = "" if report.passed else _reason(report)
            outcome = CaseOutcome(report.nodeid, report.passed, reason, dict(report.user_properties))
            self._outcomes[report.nodeid] = outcome

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._config.option.collectonly:
            return
        results = self._plan.options.results
        remove_copies(results)
        executed = {_short(nodeid) for nodeid in self._outcomes}
        missing = [case for case in required_cases(self._plan) if case not in executed]
        complete = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        records = read_records(self._plan, self._session)
        self._parity = conclude(
            self._plan,
            records,
            outcomes=list(self._outcomes.values()),
            missing=missing,
            complete=complete,
            luck=self._luck(records),
        )
        write_parity(results, self._parity)
        if session.exitstatus == pytest.ExitCode.OK and self._parity.verdict != "pass":
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _luck(self, records: Mapping[Cell, CellRecord]) -> tuple[Luck, ...]:
        """It is shown only, and no verdict waits for it."""
        with suppress(UserError):
            return luck_of(self._plan, records)
        return ()

    def _left_out(self) -> list[str]:
        """Which rows of the packs are no conversations; what keeps a pack from being read, its cases say."""
        if self._plan.options.packs is None:
            return []
        from eaftgate.packs.pack import read_packs

        with suppress(UserError):
            return [pack.left_out for pack in read_packs(self._plan.options.packs) if pack.left_out]
        return []

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        parity = self._parity
        if parity is None:
            return

        def write(line: str, **markup: bool) -> None:
            """Sentences hold names as they are; tables have theirs escaped, and colours."""
            terminalreporter.write_line(plain(line), **markup)

        terminalreporter.section(f"parity with the base, {self._plan.policy_name}")
        if parity.cells:
            width = shutil.get_terminal_size().columns
            colour = terminalreporter.hasmarkup
            terminalreporter.write_line(render_cells(parity.cells, width=width, colour=colour))
            for line in class_lines(parity, width=width, colour=colour):
                terminalreporter.write_line(line)
        said = (
            unknown_rows(parity.candidates)
            + self._left_out()
            + [str(again) for o in self._outcomes.values() if (again := o.properties.get(COLLECTED_AGAIN))]
            + remarks(parity.cells)
            + [f"not run: {case}" for case in parity.not_run]
        )
        stable = [] if parity.stability is None else stability_lines(parity.stability, interval=parity.has_intervals)
        for lines in (said, stable):
            for line in lines[:MAX_LINES]:
                write(line)
            if len(lines) > MAX_LINES:
                write(f"and {len(lines) - MAX_LINES} further ones, in {PARITY_FILE}")
        if parity.asked.best_of > 1:
            write(f"best of {parity.asked.best_of}: the bounds that a pass needs are at alpha / {parity.asked.best_of}")
        if (luck := luck_line(parity)) is not None:
            write(luck)
        if parity.cells and self._plan.policy_name != V1:
            write(f"{V1}, the rule on point estimates, would say: {parity.v1_verdict}")
        if self._plan.policy_name != V2 and parity.v2_verdict not in (None, parity.verdict):
            write(f"{V2} would have said: {parity.v2_verdict} (--policy={V2} asks it, and is how to pin a policy)")
        write(
            f"verdict: {parity.verdict.upper()}   ({self._plan.options.results / PARITY_FILE})",
            **{COLOURS[parity.verdict]: True},
        )


def _short(nodeid: str) -> str:
    match = _NODEID.search(nodeid)
    return f"{match['module']}{match['case']}" if match else nodeid


def _reason(report: pytest.TestReport) -> str:
    """The last line of a failure, which is its sentence; for a skip, why."""
    text = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else report.longreprtext
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("E").strip() if lines else str(report.outcome)
