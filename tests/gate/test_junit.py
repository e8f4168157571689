"""The JUnit file before the run has ended: eaftgate/gate/junit.py."""

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from eaftgate.errors import UserError
from eaftgate.gate.junit import is_file_or_free, junit_path, make_red


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], None),
        (["--junitxml=a.xml", "--junit-xml", "b.xml"], "b.xml"),
        (["-k", "x", "--junitxml", "/tmp/a.xml"], "/tmp/a.xml"),
        (["--junitxml=$HERE/a.xml"], "/here/a.xml"),
        (["--junitxml="], None),
        (["--junitxml"], None),
        (["--junit=a.xml"], None),
        (["@missing"], None),
    ],
)
def test_where_pytest_would_write_it(words: list[str], found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "/here")
    assert junit_path(words, within=Path("/in")) == (None if found is None else Path("/in", found))


def test_a_red_file_has_one_failure(tmp_path: Path) -> None:
    path = tmp_path / "new" / "j.xml"
    make_red(path, 'says "<&\n')
    suite = ElementTree.parse(path).getroot()[0]
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("1", "1")
    assert suite[0][0].tag == "failure"
    assert suite[0][0].text == 'says "<&\n'
    make_red(path)
    assert "the run did not end" in path.read_text(encoding="utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["j.xml"]


@pytest.mark.parametrize(
    "content", ["{}", "not xml", "\0", "<!doctype html>", "<?xml version='1.0'?>\n<svg/>", "<svg>"]
)
def test_what_is_no_junit_is_not_overwritten(content: str, tmp_path: Path) -> None:
    path = tmp_path / "parity.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="no JUnit file"):
        make_red(path)
    assert path.read_text(encoding="utf-8") == content


@pytest.mark.parametrize("content", ["", "  \n<testsuite/>", "\ufeff<?xml"])
def test_what_may_be_one_is(content: str, tmp_path: Path) -> None:
    path = tmp_path / "j.xml"
    path.write_text(content, encoding="utf-8")
    make_red(path)
    assert 'failures="1"' in path.read_text(encoding="utf-8")


def test_devices_and_pipes_are_written_through(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    places = [Path("/dev/stdout"), Path("/proc/self/fd/1"), tmp_path, tmp_path / "pipe"]
    assert not any(is_file_or_free(place) for place in places)
    assert all(is_file_or_free(tmp_path / name) for name in ("free", "dangling", "no/such/directory"))


def test_a_place_that_cannot_be_written_keeps_no_green_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.xml"
    path.write_text("<testsuite/>", encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("eaftgate.gate.junit.write_text", full)
    with pytest.raises(UserError, match="no space left"):
        make_red(path)
    assert not path.exists()
