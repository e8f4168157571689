"""A pytest plugin that gets in the way of a gate run, in the way that $MEDDLE says."""

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WAY = os.environ.get("MEDDLE", "")
CASE = "test_halves"
"""The case that is meddled with; $MEDDLED says how often it was called."""


def pytest_addoption(parser: pytest.Parser) -> None:
    if WAY == "reruns":
        parser.addoption("--reruns", type=int)
    if WAY == "count":
        parser.addoption("--count", type=int, default=1)
    if WAY == "retries":
        parser.addini("retries", "as pytest-retry has it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if WAY == "xfail":
            item.add_marker(pytest.mark.xfail(reason="known", raises=BaseException, strict=False))
    if WAY == "drops":
        items[:] = [item for item in items if not item.name.startswith(CASE)]
    if WAY == "drops all":
        items.clear()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.name.startswith(CASE):
        if WAY == "skips":
            pytest.skip("not today")
        if WAY == "breaks":
            raise RuntimeError("broken")


def pytest_runtest_teardown(item: pytest.Item) -> None:
    if item.name.startswith(CASE) and WAY == "breaks after":
        raise RuntimeError("broken after")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    if not pyfuncitem.name.startswith(CASE):
        return
    called = int(os.environ.get("MEDDLED", "0"))
    os.environ["MEDDLED"] = str(called + 1)
    if WAY in ("fails", "xfail", "passes", "runs twice", "calls twice") and called == 0:
        pytest.fail("the first result", pytrace=False)
    if WAY == "exits":
        pytest.exit("enough", returncode=0)
    if WAY == "interrupts":
        raise KeyboardInterrupt
    if WAY == "kills":
        os.kill(os.getpid(), signal.SIGKILL)
    if WAY == "terminates":
        os.kill(os.getpid(), signal.SIGTERM)
    if WAY == "leaves":
        os._exit(0)
    if WAY == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """As pytest-rerunfailures does it."""
    if WAY != "runs twice" or not item.name.startswith(CASE):
        return None
    from _pytest.runner import runtestprotocol

    runtestprotocol(item, log=False, nextitem=nextitem)
    item._initrequest()  # type: ignore[attr-defined]
    for report in runtestprotocol(item, log=False, nextitem=nextitem):
        item.ihook.pytest_runtest_logreport(report=report)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """As pytest-retry does it; or simply not true."""
    report: Any = yield
    if item.name.startswith(CASE) and report.when == "call" and report.failed:
        if WAY == "calls twice":
            again = pytest.CallInfo.from_call(item.runtest, "call")
            return pytest.TestReport.from_item_and_call(item, again)  # type: ignore[return-value]
        if WAY == "passes":
            report.outcome, report.longrepr = "rerun", None
            item.ihook.pytest_runtest_logreport(report=report)
            report.outcome = "passed"
    return report  # type: ignore[no-any-return]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if WAY == "crashes" and CASE in report.nodeid:
        raise RuntimeError("a reporter's own fault")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if WAY == "exits last":
        pytest.exit("enough", returncode=0)
    if WAY == "says 0":
        session.exitstatus = pytest.ExitCode.OK
    if WAY == "says 1":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if WAY == "fails last":
        raise RuntimeError("late")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    if WAY == "fails at the very last":
        raise RuntimeError("later still")


if WAY.startswith("full at "):
    moved = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if target.name == WAY.removeprefix("full at ") and "MEDDLED" in os.environ:  # not at the start
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return moved(path, target)

    Path.replace = replace  # type: ignore[method-assign,assignment]
