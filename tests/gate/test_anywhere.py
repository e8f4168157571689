"""The gate from any directory: `pytest --pyargs eaftgate.suite` and `eaftgate gate` are `pytest gates/`."""

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from gate_command import BASE, GATE_PACKS, ROOT, Run, eaftgate_gate, gate, pytest_command
from gate_project import hostile_project
from prepared import SMALL, TINY

from eaftgate.gate.plugin import SUITE_DIR, suite_directory


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    return hostile_project(tmp_path / "project")


def collected(*arguments: str | Path, directory: Path, tmp_path: Path) -> list[str]:
    """`module::function[id]` of every case, in order."""
    given = (f"--base={BASE}", f"--packs={GATE_PACKS}", *TINY, f"--results={tmp_path / 'run'}", "--collect-only", "-q")
    run = pytest_command(*arguments, *given, results=tmp_path / "run", directory=directory)
    assert run.code == 0, run.output
    return [line.rpartition("/")[2] for line in run.output.splitlines() if "::" in line]


def test_the_cases_are_the_same_everywhere(hostile: Path, tmp_path: Path) -> None:
    """Also below the project, where its conftest.py lies above; with -c, --rootdir; and a part of them by name."""
    cases = collected("gates/", directory=ROOT, tmp_path=tmp_path)
    assert {"test_noop.py::test_tensors", "test_noise_floor.py::test_halves[base-UNION-64]"} <= set(cases)
    assert len(cases) > 30
    installed = ("--pyargs", "eaftgate.suite")
    below = hostile / "below"
    below.mkdir()
    for directory, options in (
        (hostile, ()),
        (below, ()),
        (ROOT, ("-c", hostile / "pytest.ini", "--rootdir", hostile)),
    ):
        assert collected(*installed, *options, directory=directory, tmp_path=tmp_path) == cases
    here = collected("gates/", "-c", hostile / "pytest.ini", directory=ROOT, tmp_path=tmp_path)
    assert here == cases
    one = collected("--pyargs", "eaftgate.suite.test_noop", directory=hostile, tmp_path=tmp_path)
    assert one == [case for case in cases if case.startswith("test_noop.py")]
    path = collected(SUITE_DIR / "test_noop.py::test_tensors", directory=hostile, tmp_path=tmp_path)
    assert path == ["test_noop.py::test_tensors"]


def test_a_hostile_project_changes_neither_cells_nor_junit(
    copy_run: Run, base_copy: Path, hostile: Path, tmp_path: Path
) -> None:
    """In parallel processes, which must plan the same. `eaftgate gate` does not even read its ini file."""
    with (hostile / "pytest.ini").open("a", encoding="utf-8") as settings:
        settings.write("minversion = 99\n")
    results = shutil.copytree(copy_run.results, tmp_path / "run")  # what was collected is not collected again
    given = (f"--base={BASE}", f"--packs={GATE_PACKS}", f"--checkpoint={base_copy}", *SMALL)
    run = eaftgate_gate(results, *given, "-n", "2", directory=hostile)
    assert run.code == 0, run.output
    assert "2 workers" in run.output
    assert run.parity["cells"] == copy_run.parity["cells"]
    outcomes = [{name: case.outcome for name, case in found.junit.items()} for found in (run, copy_run)]
    assert outcomes[0] == outcomes[1]
    here, there = (
        {case.attrib["classname"] for case in ElementTree.parse(found.results.with_suffix(".xml")).iter("testcase")}
        for found in (copy_run, run)
    )
    assert there == {name.replace("gates.", "eaftgate.suite.") for name in here}
    left = {path.name for path in hostile.iterdir()}
    assert left == {"pytest.ini", "conftest.py", "gates"}


def test_exit_codes(random8: Path, bad_run: Run, tmp_path: Path) -> None:
    """Those of pytest: 1 for a verdict that is no pass, 4 for what contradicts itself or is not there."""
    given = (f"--base={BASE}", f"--packs={GATE_PACKS}", f"--checkpoint={random8}", *TINY)
    results = shutil.copytree(bad_run.results, tmp_path / "run")
    red = eaftgate_gate(results, *given, "-k", "UNION-64-ppl and test_near_lossless", directory=tmp_path)
    assert red.code == 1
    assert red.parity["verdict"] == "fail"
    for options, said in (
        ((f"--base={BASE}",), "need --packs"),
        (("--sed=1",), "no option --sed; did you mean '--seed'?"),
        (("--generate=x",), "ERROR: --generate: 'x' must be a whole number"),
    ):
        usage = eaftgate_gate(tmp_path / "usage", *options, directory=tmp_path)
        assert usage.code == 4
        assert said in usage.output
        assert len(usage.output.split("\n\n")[0].splitlines()) == 1
        assert "Traceback" not in usage.output


@pytest.mark.parametrize("without", ["-p no:xdist", "autoload"])
@pytest.mark.parametrize("how", ["gates/", "gate"])
def test_other_plugins_are_not_needed(how: str, without: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where entry points are not loaded, a clone's conftest.py and the command name the plugin."""
    if without == "autoload":
        monkeypatch.setattr("gate_command.ENVIRONMENT", {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    options = without.split() if without != "autoload" else []
    given = (*options, f"--base={BASE}", f"--packs={GATE_PACKS}", *TINY, "-k", "test_tensors")
    results = tmp_path / "run"
    if how == "gate":
        run = eaftgate_gate(results, *given, directory=tmp_path)
    else:
        run = gate(results, *given)
    assert run.junit["test_noop::test_tensors"].outcome == "passed", run.output
    assert run.parity["verdict"] == "incomplete"
    assert run.code == 1


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A directory whose conftest.py imports the suite, and another one."""
    for name, conftest in (("mine", "from eaftgate.suite.conftest import *\n"), ("other", "# eaftgate.suite\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "conftest.py").write_text(conftest)
    return tmp_path / "mine"


@pytest.mark.parametrize(
    ("arguments", "pyargs", "found"),
    [
        (["eaftgate.suite"], True, SUITE_DIR),
        (["tests", "eaftgate.suite.test_noop::test_tensors"], True, SUITE_DIR),
        (["eaftgate.suite"], False, None),  # a path, and there is none
        (["eaftgate.suites", "eaftgate"], True, None),
        ([f"{SUITE_DIR}/test_noop.py::test_tensors[a::b]"], False, SUITE_DIR),
        (["mine"], False, "mine"),
        (["mine/test_x.py::test_y"], False, "mine"),
        (["other", "mine/../other", "."], False, None),
        ([], False, None),
        (["x" * 5000, "x" * 300 + "/y", "not ppl"], False, None),
    ],
)
def test_what_names_the_suite(arguments: list[str], pyargs: bool, found: Path | str | None, mine: Path) -> None:
    directory = suite_directory(arguments, pyargs=pyargs, within=mine.parent)
    assert directory == (mine.parent / found if isinstance(found, str) else found)


def test_no_argument_names_the_directory_one_is_in(mine: Path) -> None:
    assert suite_directory([], pyargs=False, within=mine) == mine
