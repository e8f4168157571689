"""A project that is in the way of a gate run within it: by its settings, hooks, fixtures, options and directories."""

from pathlib import Path

INI = """[pytest]
addopts = -k nothing --strict-markers --strict-config -W error --import-mode=importlib --junit-prefix=theirs
python_files = check_*.py
python_functions = check_*
testpaths = gates
usefixtures = theirs
filterwarnings = error
junit_family = legacy
empty_parameter_set_mark = xfail
markers = ours: the only one
required_plugins = theirs
unknown_setting = 1
"""
CONFTEST = """
import pytest

def pytest_addoption(parser):
    parser.addoption("--seed")
    parser.addoption("--device")

@pytest.fixture(scope="session")
def run():
    raise AssertionError("this project's")

decide = record_verdict = record_floor = record_property = run

def pytest_collection_modifyitems(items):
    items.clear()

def pytest_runtest_setup(item):
    pytest.skip("not here")
"""


def hostile_project(directory: Path) -> Path:
    (directory / "gates").mkdir(parents=True)
    (directory / "pytest.ini").write_text(INI, encoding="utf-8")
    (directory / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (directory / "gates" / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    case = "def test_collection(): raise AssertionError\n"
    (directory / "gates" / "test_collection.py").write_text(case, encoding="utf-8")
    return directory
