"""A run directory belongs to one run at a time, and a run touches nothing in it that no run has made."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from gate_command import BASE, GATE_PACKS, gate, pytest_command
from tiny_checkpoint import write_tiny_checkpoint

from eaftgate.errors import UserError
from eaftgate.gate.junit import make_red
from eaftgate.gate.run_directory import check_junit, check_run_directory, run_in
from eaftgate.report.html import write_report


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_second_run_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    results = tmp_path / "run"
    with run_in(results):
        (results / "parity.json").write_text('{"schema_version": 3}')
        (results / "work").mkdir()
        (results / "work" / ".eaftgate").touch()
        make_red(results.with_suffix(".xml"))  # as the first run has it until it ends
        before = contents(tmp_path)
        second = gate(results)
        assert second.code == 4
        said = f"another run is going on in {results} ("
        assert said in second.output
        assert f"process {os.getpid()} on " in second.output
        assert "wait for it or choose another --results" in second.output
        for log in tmp_path.glob("*.log"):
            log.unlink()
        assert contents(tmp_path) == before
        listed = pytest_command("gates/", "--collect-only", "-q", f"--results={results}", results=results)
        assert listed.code == 0, listed.output
        with run_in(tmp_path / "another"):
            pass
    assert sorted(path.name for path in results.iterdir()) == ["parity.json", "work"]


def test_nothing_is_removed_or_written_through_that_no_run_has_made(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".eaftgate").touch()
    (elsewhere / "precious").write_text("precious")

    def link(name: str) -> Callable[[Path], None]:
        return lambda results: (results / name).symlink_to(elsewhere / name)

    def user_parity(results: Path) -> None:
        (results / "parity.json").write_text('{"precious": 1}')

    def user_work(results: Path) -> None:
        (results / "work").mkdir()
        (results / "work" / "precious").touch()

    def fifo(results: Path) -> None:
        os.mkfifo(results / "cells")

    names = ("work", "cells", "collections", "generations", "parity.json", "digests.json", "report.html")
    for number, plant in enumerate([*map(link, names), user_parity, user_work, fifo]):
        results = tmp_path / f"run{number}"
        results.mkdir()
        plant(results)
        with pytest.raises(UserError, match="was not made by a gate run, which needs that place: remove it, or choose"):
            check_run_directory(results)
    whole = tmp_path / "link"
    whole.symlink_to(elsewhere)
    with pytest.raises(UserError, match="which is a link: give the directory itself"):
        check_run_directory(whole)
    (tmp_path / "other things").mkdir()
    (tmp_path / "other things" / "notes.txt").touch()
    check_run_directory(tmp_path / "other things")
    (tmp_path / "other things" / "made_from.json").write_text("{}")  # a profile, a split
    with pytest.raises(UserError, match="which another command has made: choose another --results"):
        check_run_directory(tmp_path / "other things")


def test_it_lies_in_no_checkpoint_and_in_no_packs(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "base")
    for place in ("base", "base/run", "packs/../base/run"):
        (tmp_path / "packs").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=r"lies in the checkpoint .*base: choose another --results"):
            check_run_directory(tmp_path / place)
    with pytest.raises(UserError, match="packs, which it is made from: choose another --results"):
        check_run_directory(tmp_path / "packs" / "run", [tmp_path / "packs"])
    with pytest.raises(UserError, match="typo does not exist: correct --results, or make it with mkdir -p"):
        check_run_directory(tmp_path / "typo" / "run")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("base/junit.xml", "lies in the checkpoint"),
        ("base/tokenizer.json", "lies in the checkpoint"),
        ("packs/junit.xml", "which it is made from"),
        ("run/parity.json", "where the run puts a file of its own"),
        ("run/../run/run.lock", "where the run puts a file of its own"),
        ("packs", "which it is made from"),
        ("run", "which is a directory"),
    ],
)
def test_a_junit_file_replaces_nothing_else(tmp_path: Path, place: str, said: str) -> None:
    write_tiny_checkpoint(tmp_path / "base")
    (tmp_path / "packs").mkdir()
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=f"--junitxml.*|{said}") as caught:
        check_junit(tmp_path / place, tmp_path / "run", [tmp_path / "packs"])
    assert said in str(caught.value)
    for name in ("junit.xml", "run/junit.xml", "deep/junit.xml"):
        check_junit(tmp_path / name, tmp_path / "run", [tmp_path / "packs"])
    (tmp_path / "junit.xml").write_text('<?xml version="1.0" encoding="utf-8"?><testsuites/>')
    check_junit(tmp_path / "junit.xml", tmp_path / "run")


def test_the_gate_refuses_a_junit_file_in_its_base(tmp_path: Path) -> None:
    junit = BASE / "junit.xml"
    given = (f"--base={BASE}", f"--packs={GATE_PACKS}", f"--results={tmp_path / 'run'}", f"--junitxml={junit}")
    run = pytest_command("gates/", *given, results=tmp_path / "run")
    assert run.code == 4
    assert "lies in the checkpoint" in run.output
    assert not junit.exists()
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_is_not_reported(tmp_path: Path) -> None:
    with (
        run_in(tmp_path / "run"),
        pytest.raises(UserError, match=r"a run is going on in .* since .*: wait for it to end"),
    ):
        write_report(tmp_path / "run", tmp_path / "report.html")


def test_an_empty_name_of_a_junit_file_is_no_wish_for_none(tmp_path: Path) -> None:
    """A variable that is not set."""
    run = pytest_command("gates/", f"--results={tmp_path / 'run'}", "--junitxml=", results=tmp_path / "run")
    assert run.code == 4
    assert "--junitxml is empty: give a file, or leave it out" in run.output
