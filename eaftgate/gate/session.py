"""What the process that the user started does with a gate session: keep outcomes, conclude, print, write."""

import re
import shutil
from typing import Any

import pytest

from eaftgate import __version__
from eaftgate.gate.cases import required_cases
from eaftgate.gate.models import clear_work, remove_copies
from eaftgate.gate.plan import V1, Plan
from eaftgate.gate.pytest_internals import add_junit_property
from eaftgate.gate.results import PARITY_FILE, CaseOutcome, read_cells, read_records, write_parity
from eaftgate.gate.stability import describe_stability, stability_lines, stability_note
from eaftgate.gate.table import COLOURS, has_intervals, remarks, render_cells

MAX_LINES = 8
_NODEID = re.compile(r"(?P<module>test_\w+)\.py(?P<case>::\w+(?:\[.*\])?)$")


class SessionReport:
    """A pytest plugin of its own, registered for gate sessions only and never in an xdist worker."""

    def __init__(self, config: pytest.Config, plan: Plan, session: str) -> None:
        self._config, self._plan, self._session = config, plan, session
        self._outcomes: dict[str, CaseOutcome] = {}
        self._parity: dict[str, Any] = {}

    def pytest_report_header(self) -> list[str]:
        plan = self._plan
        lengths = ", ".join(str(length) for length in dict.fromkeys(cell.seq_len for cell in plan.cells))
        what = ", ".join(plan.checkpoints) or "base only (noise floor and no-op rewrite)"
        return [
            f"eaftgate {__version__}: {what}",
            f"policy {plan.policy_name}, regime {plan.regime_name}, seq_len {lengths}",
            f"results in {plan.options.results}",
        ]

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
        self._parity = write_parity(
            self._plan,
            results,
            cells=read_cells(self._plan, results, self._session),
            stability=self._stability(),
            outcomes=list(self._outcomes.values()),
            missing=missing,
            complete=complete,
        )
        if session.exitstatus == pytest.ExitCode.OK and self._parity["verdict"] != "pass":
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _stability(self) -> dict[str, Any]:
        plan = self._plan
        over_seeds = [*plan.cells, *(cell for cells in plan.seed_cells for cell in cells)]
        return describe_stability(plan, read_records(over_seeds, plan.options.results, self._session))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._parity:
            return
        write = terminalreporter.write_line
        terminalreporter.section(f"parity with the base, {self._plan.policy_name}")
        if self._parity["cells"]:
            width = shutil.get_terminal_size().columns
            write(render_cells(self._parity["cells"], width=width, colour=terminalreporter.hasmarkup))
        said = remarks(self._parity["cells"]) + [f"not run: {case}" for case in self._parity["not_run"]]
        stable = stability_lines(self._parity["stability"], interval=has_intervals(self._parity["cells"]))
        for lines in (said, stable):
            for line in lines[:MAX_LINES]:
                write(line)
            if len(lines) > MAX_LINES:
                write(f"and {len(lines) - MAX_LINES} further ones, in {PARITY_FILE}")
        verdict, v1_verdict = self._parity["verdict"], self._parity["v1_verdict"]
        if self._parity["cells"] and self._plan.policy_name != V1:
            write(f"{V1}, the rule on point estimates, would say: {v1_verdict}")
        write(
            f"verdict: {verdict.upper()}   ({self._plan.options.results / PARITY_FILE})",
            **{COLOURS[verdict]: True},
        )


def _short(nodeid: str) -> str:
    match = _NODEID.search(nodeid)
    return f"{match['module']}{match['case']}" if match else nodeid


def _reason(report: pytest.TestReport) -> str:
    """The last line of a failure, which is its sentence; for a skip, why."""
    text = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else report.longreprtext
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("E").strip() if lines else str(report.outcome)
