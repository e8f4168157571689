"""A pytest plugin that puts a directory where the gate's report is to be, while the run goes on."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    (session.config.getoption("--results") / "report.html").mkdir()
