"""What the process that the user started does with a gate session: keep outcomes, conclude, print, write."""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from eaftgate import __version__
from eaftgate.collect.collection import is_earlier
from eaftgate.errors import UserError
from eaftgate.files import atomic_path, write_failure, write_text
from eaftgate.gate.candidates import UNVERIFIED, kind_line, served_remarks, unknown_rows
from eaftgate.gate.cases import required_cases
from eaftgate.gate.cells import Cell
from eaftgate.gate.classes import class_lines
from eaftgate.gate.conclusion import (
    CaseOutcome,
    case_of,
    conclude,
    read_all_tasks,
    read_all_turns,
    read_floor,
    read_records,
    served_identities,
)
from eaftgate.gate.ending import cut_short, reports_of
from eaftgate.gate.identity import RunIdentity, identity_of, now
from eaftgate.gate.junit import is_file_or_free, make_red
from eaftgate.gate.luck import luck_line, luck_of
from eaftgate.gate.models import clear_work, remove_copies
from eaftgate.gate.more_blocks import more_blocks
from eaftgate.gate.options import SERVED
from eaftgate.gate.plan import V1, V2, Plan
from eaftgate.gate.plugin import DIRECTORY, RUN_MODULE, SUITE, SUITE_DIR
from eaftgate.gate.pytest_internals import add_junit_property, junit_file, junit_written_to
from eaftgate.gate.results import (
    COLLECTIONS_DIR,
    PAGE_FILE,
    PARITY_FILE,
    SUMMARY_FILE,
    CellRecord,
    Luck,
    Parity,
    copy_gates,
    write_parity,
)
from eaftgate.gate.stability import stability_lines, stability_note
from eaftgate.gate.summary import HEAD, add_step_summary, parity_markdown
from eaftgate.gate.table import COLOURS, remarks, render_cells
from eaftgate.gate.tasks_table import tasks_lines, tasks_remarks
from eaftgate.gate.turns_table import turns_lines, turns_remarks
from eaftgate.markdown import escaped
from eaftgate.visible import plain, sentence

MAX_LINES = 8
COLLECTED_AGAIN = "collected_again"
"""The property of a case that says which saved files it could not use."""
RUN_CASES = ("test_complete", "test_verdict")
PAGE_MODULE = "eaftgate.report.html"
"""Of a later room, which this one does not know: what it makes of a run is asked for by name, as the suite is."""
LISTED_ONLY = "nothing was judged: --collect-only lists the cases"


def uncaptured(config: pytest.Config) -> Callable[[], AbstractContextManager[None]]:
    """Opens a context in which what is shown of progress reaches the user, under pytest's output capture; what pytest
    has written so far of a line is ended."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")

    @contextmanager
    def opened() -> Iterator[None]:
        with nullcontext() if capture is None else capture.global_and_fixture_disabled():
            if terminal is not None and not hasattr(config, "workerinput"):
                terminal.ensure_newline()
                terminal.flush()
            yield

    return opened


class SessionReport:
    """A pytest plugin of its own, registered for gate sessions only and never in an xdist worker."""

    def __init__(self, config: pytest.Config, plan: Plan, session: str) -> None:
        self._config, self._plan, self._session = config, plan, session
        self._started = now()
        self._outcomes: dict[str, CaseOutcome] = {}
        self._collected: dict[str, int] = {}
        """The place of every case among all, in the order in which one process would run them."""
        self._began = False
        self._parity: Parity | None = None
        self._counted: pytest.Session | None = None
        """The session until it has counted the cases of test_run.py, for the progress that the terminal shows."""
        self._problem = ""
        """What kept the run from saying its verdict, in one sentence."""
        self._page = ""
        """Where the report is, or why there is none."""
        place = junit_file(config)
        self._junit = place if place is not None and is_file_or_free(place) else None

    def pytest_report_header(self) -> list[str]:
        plan = self._plan
        lengths = ", ".join(str(length) for length in dict.fromkeys(cell.seq_len for cell in plan.cells))
        what = ", ".join(plan.checkpoints) or "base only (noise floor and no-op rewrite)"
        several = (
            [] if plan.best_of == 1 else [f"best of {plan.best_of}: a PASS needs bounds at alpha / {plan.best_of}"]
        )
        lines = [
            f"eaftgate {__version__}: {what}",
            *([kind_line(plan.options.candidate_kind)] if plan.checkpoints or plan.is_served else []),
            f"policy {plan.policy_name}, regime {plan.regime_name}, seq_len {lengths}",
            *several,
            f"results in {plan.options.results}",
        ]
        return [plain(line) for line in lines]

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """The verdict of an earlier run must not stand in for this one, should it be killed."""
        self._began = True
        listing = self._config.option.collectonly
        if self._junit is not None:
            try:
                make_red(self._junit, *([LISTED_ONLY] if listing else []))
            except UserError as error:
                raise pytest.UsageError(str(error)) from None
        if not listing:
            for name in (PARITY_FILE, PAGE_FILE, SUMMARY_FILE):
                (self._plan.options.results / name).unlink(missing_ok=True)
            clear_work(self._plan.options.results)
        self._counted = session
        # Not by a case: what was not planned has none.
        add_junit_property(self._config, "stability", stability_note(self._plan))
        if self._plan.is_served:
            add_junit_property(self._config, UNVERIFIED, kind_line(SERVED))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._outcomes[report.nodeid] = CaseOutcome(report.nodeid, False, _reason(report), {})

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._collected |= {item.nodeid: place for place, item in enumerate(session.items)}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        self._collected |= {nodeid: place for place, nodeid in enumerate(ids)}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The worst of what is said of a case stands, whoever has it said again."""
        if self._counted is not None:
            self._counted.testscollected += len(RUN_CASES)
            self._counted = None
        if report.when == "call" or not report.passed:
            before = self._outcomes.get(report.nodeid)
            if before is not None and not before.passed:
                return
            reason = "" if report.passed else _reason(report)
            outcome = CaseOutcome(report.nodeid, report.passed, reason, dict(report.user_properties))
            self._outcomes[report.nodeid] = outcome

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """What is said of the run is decided before pytest writes JUnit, so that it is in there, too; JUnit is replaced
        when all of it is written."""
        if self._config.option.collectonly:
            with junit_written_to(self._config, Path(os.devnull)):
                return (yield)
        self._conclude(session)
        try:
            with ExitStack() as staged:
                if self._junit is not None:
                    whole = staged.enter_context(atomic_path(self._junit.resolve()))
                    staged.enter_context(junit_written_to(self._config, whole))
                result = yield
        except OSError as error:
            self._revoke(str(write_failure(error, self._junit or self._plan.options.results)))
            result = None
        except BaseException as error:
            self._revoke(f"the run was not brought to its end: {error!r}")
            raise
        if session.exitstatus != pytest.ExitCode.OK and self._passed:
            self._revoke(_late(session.exitstatus))
        if session.exitstatus == pytest.ExitCode.OK and not self._passed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self._write_page()
        return result

    def exit_code(self, code: int) -> int:
        """Of a session that pytest would end with `code`: 0 only for a run whose verdict is pass; and where pytest ends
        it with another, there is no such verdict."""
        if not self._began:  # --markers, and the like
            return code
        if self._config.option.collectonly:
            return code or int(self._junit is not None)
        if self._passed and code != pytest.ExitCode.OK:
            self._revoke(_late(code), in_session=False)
            print(plain(f"verdict: INCOMPLETE: {self._problem}"), file=sys.stderr)
        add_step_summary(self._summary())
        return code or int(not self._passed)

    def _summary(self) -> str:
        if self._parity is None or self._problem:
            return f"{HEAD}INCOMPLETE\n\n{escaped(self._problem or 'the run did not end')}\n"
        return parity_markdown(self._parity)

    @property
    def _passed(self) -> bool:
        return self._parity is not None and self._parity.verdict == "pass"

    def _conclude(self, session: pytest.Session) -> None:
        """Decide, write parity.json, and report the cases of test_run.py, which are in no process of their own."""
        results = self._plan.options.results
        remove_copies(results)
        # As one process would have met them: what is written of a run does not depend on which worker was first.
        outcomes = sorted(self._outcomes.values(), key=lambda of: self._collected.get(of.id, len(self._collected)))
        executed = {case_of(outcome.id) for outcome in outcomes}
        missing = [case for case in required_cases(self._plan) if case not in executed]
        short = cut_short(session, failed=any(not outcome.passed for outcome in outcomes))
        try:
            records = read_records(self._plan, self._session)
            self._parity = conclude(
                self._plan,
                records,
                outcomes=outcomes,
                missing=missing,
                complete=not short,
                luck=self._luck(records),
                floor=read_floor(self._plan, self._session),
                turns=read_all_turns(self._plan, self._session),
                served=served_identities(self._plan, outcomes),
                tasks=read_all_tasks(self._plan, self._session),
            )
            self._parity = self._parity.model_copy(update={"run": self._identity(self._parity)})
            copy_gates(results, self._plan.options.gates)
            write_parity(results, self._parity)
            write_text(results / SUMMARY_FILE, parity_markdown(self._parity))
        except UserError as error:
            self._without_verdict(str(error))
        except OSError as error:
            self._without_verdict(str(write_failure(error, results / PARITY_FILE)))
        self._config.option.maxfail = 0  # no case is stopped by these any more
        suite = import_module(f"{SUITE}.{RUN_MODULE}")
        self._judge(suite.test_complete, self._parity, short)
        self._judge(suite.test_verdict, self._parity)

    def _without_verdict(self, problem: str) -> None:
        """There is no parity.json, and what was judged is no pass."""
        self._problem = self._problem or problem
        if self._parity is not None:
            self._parity = self._parity.model_copy(update={"verdict": "incomplete", "complete": False})
        for name in (PARITY_FILE, PAGE_FILE, SUMMARY_FILE):
            with suppress(OSError):
                (self._plan.options.results / name).unlink(missing_ok=True)

    def _revoke(self, problem: str, *, in_session: bool = True) -> None:
        """What was said cannot be stood by."""
        self._without_verdict(problem)
        if self._junit is not None:
            with suppress(UserError):
                make_red(self._junit, problem)
        if in_session:
            self._report("test_verdict", problem)

    def _judge(self, case: Callable[..., None], *given: Any) -> None:
        reason = self._problem
        if not reason:
            try:
                case(*given)
            except pytest.fail.Exception as failed:
                reason = str(failed)
        self._report(case.__name__, reason)

    def _report(self, name: str, reason: str) -> None:
        directory = self._config.stash[DIRECTORY]
        place = os.path.relpath(directory, self._config.rootpath).replace(os.sep, "/")
        if directory == SUITE_DIR:
            place = SUITE.replace(".", "/")
        hook = self._config.hook
        for report in reports_of(f"{place}/{RUN_MODULE}.py", name, reason, max_lines=MAX_LINES):
            hook.pytest_runtest_logreport(report=report)

    def _identity(self, parity: Parity) -> RunIdentity:
        base = parity.cells[0].inputs.base.name if parity.cells else self._plan.options.base
        if (served := self._plan.needs.served) is not None:
            base = served.tokenizer
        arguments = [str(argument) for argument in self._config.invocation_params.args]
        undecided = parity.verdict == "inconclusive"
        return identity_of(self._plan, arguments, started=self._started, base=base, counts_tokens=undecided)

    def _write_page(self) -> None:
        """For people, when everything else is written: it is no part of the verdict, and changes nothing of it."""
        results = self._plan.options.results
        if self._parity is None or self._problem:
            return
        try:
            with uncaptured(self._config)():
                import_module(PAGE_MODULE).write_page(results, self._parity)
            self._page = f"report: {results / PAGE_FILE}"
        except (Exception, KeyboardInterrupt) as error:
            self._page = (
                f"{results / PAGE_FILE} could not be written ({sentence(str(error) or type(error).__name__)}): "
                f"eaftgate report {results} --out FILE makes it"
            )

    def _luck(self, records: Mapping[Cell, CellRecord]) -> tuple[Luck, ...]:
        """It is shown only, and no verdict waits for it."""
        with suppress(UserError):
            return luck_of(self._plan, records)
        return ()

    def _of_earlier_versions(self) -> list[str]:
        directory = self._plan.options.results / COLLECTIONS_DIR
        count = sum(map(is_earlier, directory.glob("*.safetensors")))
        said = f"{count} collections of an earlier version in {directory} were not used, but collected again"
        return [said] if count else []

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        parity = self._parity

        def write(line: str, **markup: bool) -> None:
            """Sentences hold names as they are; tables have theirs escaped, and colours."""
            terminalreporter.write_line(plain(line), **markup)

        if self._config.option.collectonly:
            write(LISTED_ONLY)
        if self._problem:
            write(self._problem, red=True)
        if parity is None:
            return
        terminalreporter.section(f"parity with the base, {self._plan.policy_name}")
        if parity.cells:
            width = shutil.get_terminal_size().columns
            colour = terminalreporter.hasmarkup
            terminalreporter.write_line(render_cells(parity.cells, width=width, colour=colour))
            for line in class_lines(parity, width=width, colour=colour):
                terminalreporter.write_line(line)
        for line in turns_lines(parity, width=shutil.get_terminal_size().columns, colour=terminalreporter.hasmarkup):
            terminalreporter.write_line(line)
        for line in tasks_lines(parity, width=shutil.get_terminal_size().columns, colour=terminalreporter.hasmarkup):
            terminalreporter.write_line(line)
        said = (
            served_remarks(parity.served)
            + unknown_rows(parity.candidates)
            + [pack.left_out for pack in (parity.run.packs if parity.run else ()) if pack.left_out]
            + [str(again) for o in self._outcomes.values() if (again := o.properties.get(COLLECTED_AGAIN))]
            + self._of_earlier_versions()
            + remarks(parity.cells)
            + turns_remarks(parity)
            + tasks_remarks(parity)
            + _shared_reasons(parity)
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
        if not self._problem and (needed := more_blocks(parity)) is not None:
            write(f"{needed.said} {needed.words}".rstrip())
        if self._page and not self._problem:
            write(self._page)
        where = "there is no parity.json" if self._problem else self._plan.options.results / PARITY_FILE
        write(
            f"verdict: {parity.verdict_shown}   ({where})",
            **{COLOURS[parity.verdict]: True},
        )


def _shared_reasons(parity: Parity) -> list[str]:
    """What several cases failed for, each once."""
    counts = Counter(case.reason for case in parity.failed)
    return [f"{count} cases failed: {reason}" for reason, count in counts.items() if count > 1]


def _late(code: int) -> str:
    return f"pytest ended with exit code {int(code)} after the verdict"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The last line of a failure, which is its sentence; for a skip, why."""
    text = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else report.longreprtext
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("E").strip() if lines else str(report.outcome)
