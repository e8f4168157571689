"""Whatever happens to a run, its exit code, its JUnit file, parity.json and the terminal say the same of it.

The runs are of the base alone, scored by a collector that needs no model (tests/third_collector); what gets in the way
is tests/meddling_plugin.py. Before every run there is a green JUnit file of another one.
"""

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import pytest
from gate_command import BASE, GATE_PACKS, Run, eaftgate_gate, pytest_command
from prepared import TINY

GREEN = '<?xml version="1.0"?><testsuite tests="1" failures="0" errors="0"><testcase name="earlier"/></testsuite>'
SUITE = (
    "-p", "third_collector_plugin", "-p", "meddling_plugin", "gates/",
    f"--base={BASE}", f"--packs={GATE_PACKS}", *TINY, "--policy=near-lossless-v1", "--collector=lengths",
)  # fmt: skip
RUN_CASES = ["test_complete", "test_verdict"]


@dataclass(frozen=True)
class Said:
    """What is left of a run: `verdict` of parity.json, if there is one; cases of JUnit by name."""

    code: int
    output: str
    verdict: str | None
    reasons: dict[str, str]
    counted: int
    junit: Path

    @property
    def red(self) -> bool:
        return any(self.reasons.values())

    def check(self) -> "Said":
        """All of them say the same."""
        assert "earlier" not in self.reasons
        assert self.red == (self.code != 0), self.output
        assert bool(self.counted) == self.red, self.output
        if self.code != pytest.ExitCode.USAGE_ERROR:  # which says nothing of a run, nor takes away what was said
            assert self.red == (self.verdict != "pass"), self.output
        assert list(self.reasons)[-2:] == RUN_CASES or list(self.reasons) == RUN_CASES[:1]
        assert not self.red or "PASS" not in "".join(re.findall("verdict: [A-Z]+", self.output)[-1:])
        return self


def said_by(run: Run, junit: Path) -> Said:
    suite = next(ElementTree.parse(junit).iter("testsuite"))
    reasons = {}
    for case in suite.iter("testcase"):
        bad = case.find("failure"), case.find("error"), case.find("skipped")
        reasons[case.attrib["name"]] = next((found.text or "?" for found in bad if found is not None), "")
    parity = run.results / "parity.json"
    verdict = json.loads(parity.read_text(encoding="utf-8"))["verdict"] if parity.exists() else None
    counted = sum(int(suite.attrib.get(name, 0)) for name in ("failures", "errors", "skipped"))
    return Said(run.code, run.output, verdict, reasons, counted, junit)


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Say":
    return Say(tmp_path, monkeypatch)


class Say:
    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._tmp_path, self._monkeypatch = tmp_path, monkeypatch

    def __call__(self, *options: str, meddle: str = "", given: tuple[str, ...] = (), junit: str = "j.xml") -> Said:
        """A run with `given`, or --junitxml as usual."""
        place = self._tmp_path / junit
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(GREEN, encoding="utf-8")
        self._monkeypatch.setattr("gate_command.ENVIRONMENT", {"MEDDLE": meddle})
        results = self._tmp_path / "run"
        words = (*SUITE, f"--results={results}", *(given or (f"--junitxml={place}",)), *options)
        run = pytest_command(*words, results=results)
        return said_by(run, place)


def test_a_run_that_passes_is_green_everywhere(say: Say) -> None:
    said = say().check()
    assert (said.code, said.verdict) == (0, "pass"), said.output
    assert "verdict: PASS" in said.output
    assert list(said.reasons)[-2:] == RUN_CASES
    assert "test_tensors" in said.reasons


@pytest.mark.parametrize(
    ("options", "code", "missing"),
    [
        (("-k", "not rerun-ppl"), 1, ["test_noise_floor::test_floor[base-UNION-64-rerun-ppl]"]),
        pytest.param(
            ("-k", "test_tensors and not test_run"),
            1,
            ["test_noise_floor::test_halves[base-UNION-64]"],
            marks=pytest.mark.slow,
        ),
        (("-k", "nothing"), 5, ["test_noop::test_tensors"]),
        pytest.param(("-m", "slow"), 5, ["test_noop::test_tensors"], marks=pytest.mark.slow),
        (("--deselect", "gates/test_noop.py"), 1, ["test_noop::test_tensors"]),
        pytest.param(
            ("--ignore-glob=*test_noise*",), 1, ["test_noise_floor::test_halves[base-UNION-64]"], marks=pytest.mark.slow
        ),
        (("--setup-only",), 1, ["test_noop::test_tensors"]),
        pytest.param(("--setup-plan",), 1, ["test_noop::test_tensors"], marks=pytest.mark.slow),
        pytest.param(("-o", "python_functions=check_*"), 5, ["test_noop::test_tensors"], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_what_was_planned_and_did_not_run_is_a_case_that_fails(
    options: tuple[str, ...], code: int, missing: list[str], say: Say
) -> None:
    said = say(*options).check()
    assert (said.code, said.verdict) == (code, "incomplete")
    assert set(missing) <= set(said.reasons["test_complete"].splitlines())
    assert "did not run" in said.reasons["test_verdict"]
    assert " failed" in said.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("meddle", "options", "code", "said"),
    [
        ("fails", (), 1, "the first result"),
        pytest.param("fails", ("-x",), 1, "planned cases did not run", marks=pytest.mark.slow),
        pytest.param("fails", ("--maxfail=1", "-n", "2"), 2, "the first result", marks=pytest.mark.slow),
        ("fails", ("--runxfail", "--tb=no", "-q", "-q", "--no-summary"), 1, "the first result"),
        ("xfail", ("-o", "xfail_strict=false"), 1, "the first result"),
        ("passes", (), 1, "test_halves"),
        pytest.param("runs twice", (), 1, "the first result", marks=pytest.mark.slow),
        ("calls twice", (), 1, "the first result"),
        pytest.param("skips", (), 1, "not today", marks=pytest.mark.slow),
        pytest.param("breaks", (), 1, "broken", marks=pytest.mark.slow),
        ("breaks after", (), 1, "broken after"),
        pytest.param("drops", (), 1, "test_halves[base-UNION-64]", marks=pytest.mark.slow),
        pytest.param("drops all", (), 5, "no case was left to run", marks=pytest.mark.slow),
        ("exits", (), 1, "did not run"),
        pytest.param("interrupts", (), 2, "the run was interrupted", marks=pytest.mark.slow),
        ("kills", (), -9, "the run did not end"),
        pytest.param("kills", ("-n", "2"), 1, "crashed while running", marks=pytest.mark.slow),
        pytest.param("terminates", (), -15, "the run did not end", marks=pytest.mark.slow),
        pytest.param("full", (), 1, "no space left for", marks=pytest.mark.slow),
        pytest.param("full at parity.json", (), 1, "no space left for", marks=pytest.mark.slow),
        ("full at j.xml", (), 1, "the run did not end"),
        pytest.param("crashes", (), 3, "pytest met an internal error", marks=pytest.mark.slow),
        ("exits last", (), 1, "the run was not brought to its end"),
        pytest.param("says 0", ("-k", "not halves"), 1, "1 planned case did not run", marks=pytest.mark.slow),
        ("says 1", (), 1, "pytest ended with exit code 1 after the verdict"),
        pytest.param("fails last", (), 1, "the run was not brought to its end", marks=pytest.mark.slow),
        ("fails at the very last", (), 1, "after the verdict"),
    ],
)  # fmt: skip
def test_whoever_meddles_with_a_run(meddle: str, options: tuple[str, ...], code: int, said: str, say: Say) -> None:
    found = say(*options, meddle=meddle).check()
    assert found.code == code, found.output
    assert found.verdict != "pass"
    assert any(said in reason for reason in found.reasons.values()), found.reasons


@pytest.mark.parametrize(
    ("options", "meddle", "said"),
    [
        (("--sed=1",), "", "there is no option --sed; did you mean '--seed'?"),
        (("--policy=unknown",), "", "unknown"),
        (("-p", "no:junitxml"), "", "unrecognized arguments: --junitxml"),
        (("-p", "no:eaftgate-report"), "", "there is no verdict without it"),
        (("-p", "no:eaftgate-session"), "", "there is no verdict without it"),
        (("gates/test_run.py::test_verdict",), "", "not found: "),
        (("--reruns=2",), "reruns", "--reruns has a case measured again"),
        (("--count=2",), "count", "--count has a case measured again"),
        (("-o", "retries=2"), "retries", "--retries has a case measured again"),
    ],
)
def test_a_command_line_that_is_refused_leaves_no_green_file(
    options: tuple[str, ...], meddle: str, said: str, say: Say
) -> None:
    found = say(*options, meddle=meddle).check()
    assert (found.code, found.red) == (pytest.ExitCode.USAGE_ERROR, True)
    assert said in found.output
    assert "Traceback" not in found.output


@pytest.mark.parametrize("mistyped", ["--maxfail=x", "-pmissing"])
def test_nor_where_pytest_refuses_it_before_there_are_plugins(mistyped: str, tmp_path: Path) -> None:
    results = tmp_path / "run"
    results.with_suffix(".xml").write_text(GREEN, encoding="utf-8")
    run = eaftgate_gate(results, mistyped, directory=tmp_path)
    assert run.code != 0
    assert run.junit["test_run::test_complete"].reason == "the run did not end"


def test_what_is_no_run_leaves_the_file_as_it_is(say: Say) -> None:
    for option in ("--markers", "--help", "--version"):
        found = say(option)
        assert (found.code, list(found.reasons)) == (0, ["earlier"]), found.output


def test_a_list_of_cases_is_no_pass(say: Say) -> None:
    found = say("--collect-only").check()
    assert (found.code, list(found.reasons)) == (1, ["test_complete"])
    assert "nothing was judged: --collect-only lists the cases" in found.output


@pytest.mark.parametrize("written", ["--junit-xml={}", "--junitxml {}", "--junitxml=elsewhere.xml --junit-xml={}"])
def test_however_the_file_is_named(written: str, say: Say, tmp_path: Path) -> None:
    place = tmp_path / "deep" / "er.xml"
    given = tuple(written.format(place).split())
    say(given=given, junit="deep/er.xml").check()
    assert say("--sed=1", given=given, junit="deep/er.xml").check().red
    assert not (tmp_path / "elsewhere.xml").exists()


def test_a_link_stays_a_link_and_what_is_no_junit_is_kept(say: Say, tmp_path: Path) -> None:
    (tmp_path / "link.xml").symlink_to(tmp_path / "j.xml")
    assert say(given=(f"--junitxml={tmp_path / 'link.xml'}",)).check().code == 0
    assert (tmp_path / "link.xml").is_symlink()
    (tmp_path / "notes.md").write_text("# mine", encoding="utf-8")
    refused = say(f"--junitxml={tmp_path / 'notes.md'}")
    assert refused.code == pytest.ExitCode.USAGE_ERROR
    assert "no JUnit file" in refused.output
    assert (tmp_path / "notes.md").read_text(encoding="utf-8") == "# mine"


@pytest.mark.parametrize("processes", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)])
def test_names_of_any_kind_are_all_found(processes: tuple[str, ...], say: Say, tmp_path: Path) -> None:
    """Cases are told apart, and none that was planned is missed, whatever a checkpoint and a pack are called."""
    names = ["new\nline", "a::b", "br[ack]et]", "'\"`", "x" * 250, "test_x.py::y[z]", "base"]
    for name in names:
        (tmp_path / "candidates" / name).parent.mkdir(exist_ok=True)
        shutil.copytree(BASE, tmp_path / "candidates" / name)
    packs = shutil.copytree(GATE_PACKS, tmp_path / "packs")
    for name in ("p\nq", "p::q[r]", "y" * 246):
        shutil.copy(packs / "chat.parquet", packs / f"{name}.parquet")
    candidates = [f"--checkpoint={tmp_path / 'candidates' / name}" for name in names]
    found = say(*candidates, f"--packs={packs}", *processes).check()
    assert (found.code, found.verdict) == (0, "pass"), found.output
    assert len([name for name in found.reasons if name.startswith("test_near_lossless")]) == len(names) * 7 * 4
