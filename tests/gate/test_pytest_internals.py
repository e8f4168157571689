"""The parts of pytest and pytest-xdist that are not documented and that the gate uses: here is what breaks first."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gate_command import ROOT
from xdist.scheduler import LoadScopeScheduling

from eaftgate.gate.schedule import GateScheduling

PLUGIN = """
import pytest
from eaftgate.gate import pytest_internals as internals

def pytest_addoption(parser, pluginmanager):
    config = internals.config_of(pluginmanager)
    assert [str(argument) for argument in config.invocation_params.args][-1] == "inner/test_x.py"
    assert internals.is_free(parser, "--nobody")
    for option in ("--junitxml", "--collect-only", "--durations"):
        assert not internals.is_free(parser, option), option

@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config, parser, args):
    known = internals.parse_early(early_config, parser, ["-q", "--strange", "inner/test_x.py"])
    assert known.file_or_dir == ["inner/test_x.py"]
    with pytest.raises(pytest.UsageError, match=r"^--durations: invalid int value: 'x'$"):
        internals.parse_early(early_config, parser, ["--durations=x"])
    assert early_config.known_args_namespace.confcutdir == str(early_config.rootpath)
    assert args[:2] == ["--durations=7", "-v"] == early_config.getini("addopts")
    del args[:2]
    internals.load_conftest_of(early_config, known, early_config.invocation_params.dir / "inner")

def pytest_configure(config):
    assert config.option.maxworkerrestart is None
    assert (config.option.loadscopereorder, config.option.numprocesses) == (True, None)
    assert (config.option.durations, config.option.verbose) == (None, 0)
    assert config.getini("xfail_strict") is True
    assert config.getini("python_files") == ["nothing"]
    internals.use_settings(config, config.option, {"junit_family": "xunit1", "junit_suite_name": "x"})
    assert config.getini("junit_family") == "xunit1"
    assert config.getini("junit_suite_name") == "given"  # on the command line
    assert not config.getini("xfail_strict")
    assert config.getini("python_files") == ["test_*.py", "*_test.py"]
    assert config.getini("addopts") == []
    config.addinivalue_line("markers", "more")

def pytest_sessionstart(session):
    internals.add_junit_property(session.config, "said", "of the whole")

def pytest_terminal_summary(terminalreporter):
    assert terminalreporter.hasmarkup is False
    capture = terminalreporter.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        terminalreporter.write_line("seen to the end", green=True)
"""
INI = """[pytest]
addopts = --durations=7 -v
python_files = nothing
xfail_strict = true
junit_family = xunit2
unknown = 1
filterwarnings = error
"""


def test_every_use_of_pytests_insides(tmp_path: Path) -> None:
    """In a session of the installed pytest: what fails below is to be mended in pytest_internals.py."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "conftest.py").write_text("raise AssertionError('above the directory that was named')")
    (tmp_path / "inner" / "conftest.py").write_text("def pytest_report_header(): return 'the conftest.py within'")
    (tmp_path / "inner" / "test_x.py").write_text("def test_x(record_property): record_property('a', 1)")
    (tmp_path / "insides.py").write_text(PLUGIN)
    (tmp_path / "pytest.ini").write_text(INI)
    options = ["-p", "insides", "--junitxml=junit.xml", "-o", "junit_suite_name=given", "inner/test_x.py"]
    command = [sys.executable, "-m", "pytest", *options]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "seen to the end" in ended.stdout
    assert "the conftest.py within" in ended.stdout
    assert "1 passed" in ended.stdout
    assert "warning" not in ended.stdout
    junit = (tmp_path / "junit.xml").read_text()
    assert '<testsuite name="given"' in junit
    assert '<property name="said" value="of the whole"' in junit
    assert '<property name="a" value="1"' in junit


@pytest.mark.parametrize("family", ["xunit1", "xunit2"])
def test_cases_have_properties_in_a_family_that_knows_them(tmp_path: Path, family: str) -> None:
    (tmp_path / "insides.py").write_text(
        "import pathlib, pytest\n"
        "from eaftgate.gate import pytest_internals as internals\n"
        "@pytest.hookimpl(wrapper=True, trylast=True)\n"
        "def pytest_sessionfinish(session):\n"
        "    internals.add_junit_property(session.config, 'said', 'of the whole')\n"
        "    with internals.junit_written_to(session.config, pathlib.Path('whole.xml')):\n"
        "        return (yield)\n"
    )
    (tmp_path / "test_x.py").write_text("def test_x(request): request.node.user_properties.append(('a', 1))")
    options = ["-p", "insides", "--junitxml=junit.xml", "-o", f"junit_family={family}", "test_x.py"]
    subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=tmp_path, check=True, capture_output=True, timeout=120
    )
    junit = (tmp_path / "whole.xml").read_text()
    assert '<property name="said" value="of the whole"' in junit
    assert '<testcase classname="test_x" name="test_x"' in junit
    assert ('<property name="a" value="1"' in junit) == (family == "xunit1")


def test_what_the_scheduler_overrides_is_there_to_be_overridden() -> None:
    for name in ("_split_scope", "_assign_work_unit"):
        own, theirs = (inspect.signature(getattr(kind, name)) for kind in (GateScheduling, LoadScopeScheduling))
        assert list(own.parameters) == list(theirs.parameters)
    source = inspect.getsource(LoadScopeScheduling)
    for used in ("self._split_scope(", "self._assign_work_unit(", "self.workqueue.popitem(last=False)"):
        assert used in source
    assert "config.option.loadscopereorder" in source


def test_nobody_else_uses_them() -> None:
    """A module's config is transformers'."""
    private = re.compile(r"\b_pytest\b|(?<!module\.)\bconfig\._\w|\bparser\._\w|reporter\._\w|\binicfg\b")
    used = {path.name for path in (ROOT / "eaftgate").rglob("*.py") if private.search(path.read_text("utf-8"))}
    assert used == {"pytest_internals.py"}
