import pytest

from kill.jobs import inputs  # noqa: F401


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--moments", type=int, help="at how many moments every command is killed")
