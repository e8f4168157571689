"""What the plugin is to everybody else in an environment with eaftgate: nothing, until the suite is named."""

import subprocess
import sys
from pathlib import Path

import pytest
from gate_command import ROOT

PROJECT = {
    "conftest.py": """
import pytest

def pytest_addoption(parser):
    parser.addoption("--seed", type=int)
    parser.addoption("--bases", dest="base")

@pytest.fixture
def run():
    return "theirs"
""",
    "gates/test_collection.py": """
import sys

def test_collection(run, pytestconfig):
    assert run == "theirs"
    assert pytestconfig.getoption("--seed") == 3
    assert not {"numpy", "pydantic", "pyarrow", "scipy", "torch", "transformers"} & sys.modules.keys()
    assert "eaftgate.gate.plugin" in sys.modules
    assert "eaftgate.gate.hooks" not in sys.modules
""",
    # What pytest loads when everything is parsed: it may define what it likes, too.
    "gates/deep/conftest.py": 'def pytest_addoption(parser): parser.addoption("--checkpoint")',
    "gates/deep/test_artifact.py": "def test_artifact(collection_case=None): pass",
}


def run_pytest(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "pytest", "-p", "eaftgate.gate.plugin", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("arguments", [(), ("gates/",), ("-n", "1", "-k", " or ".join(["x" * 300, "test"]))])
def test_a_project_with_gates_and_options_of_its_own(project: Path, arguments: tuple[str, ...]) -> None:
    ended = run_pytest("--seed=3", *arguments, directory=project)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout
    assert "eaftgate 0" not in ended.stdout


def test_the_help_of_pytest_shows_the_options_that_are_nobody_elses(project: Path) -> None:
    ended = run_pytest("--help", directory=project)
    assert ended.returncode == 0, ended.stderr
    group = ended.stdout.split("near-lossless gate (pytest --pyargs eaftgate.suite ...):")[1].split("\n\n")[0]
    assert "--checkpoint=CKPT" in group
    assert "--seed=" not in group


@pytest.mark.parametrize("options", [("--checkpoint=x",), ("--checkpoint", "x"), ("--sequential", "--seed=3")])
def test_an_option_of_the_gate_without_the_suite_is_a_usage_error(project: Path, options: tuple[str, ...]) -> None:
    """A CI step that forgot the path would otherwise run other tests and gate nothing."""
    ended = run_pytest(*options, directory=project)
    assert ended.returncode == 4
    assert f"{options[0].partition('=')[0]} is an option of eaftgate's gate, which must be named" in ended.stderr
    assert "pytest --pyargs eaftgate.suite" in ended.stderr


def test_another_options_value_names_no_suite(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text("def test_x(): pass")
    options = ("--deselect", str(ROOT / "gates"), "test_x.py")
    ended = run_pytest(*options, directory=tmp_path)
    assert (ended.returncode, "1 passed" in ended.stdout) == (0, True)
    ended = run_pytest(*options, "--policy=x", directory=tmp_path)
    assert ended.returncode == 4
    assert "--policy is an option of eaftgate's gate" in ended.stderr


def test_the_command_line_asks_and_no_ini_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --pyargs eaftgate.suite\n")
    ended = run_pytest(directory=tmp_path)
    assert ended.returncode == 4
    assert "eaftgate.suite is named in an ini file" in ended.stderr
    monkeypatch.setenv("PYTEST_ADDOPTS", "--pyargs eaftgate.suite")
    ended = run_pytest("--regime=none", directory=tmp_path)
    assert ended.returncode == 4
    assert "--regime is 'none'" in ended.stderr


def test_cases_are_not_collected_in_passing() -> None:
    """`pytest .` in a clone is no gate."""
    ended = run_pytest("--collect-only", "-q", ".", "--ignore=tests", "--ignore=benchmarks", directory=ROOT)
    assert "::" not in ended.stdout
    assert "no tests collected" in ended.stdout
