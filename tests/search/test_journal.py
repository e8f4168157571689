"""What an interrupted search left is taken up by the same search only."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from eaftgate.errors import UserError
from eaftgate.records import write_model
from eaftgate.search import journal as journals
from eaftgate.search.journal import Journal, journal_path

REQUEST = {"keep_n": 20, "shape": (4, 32)}


@dataclass(frozen=True)
class State:
    layer: int
    swaps: tuple[tuple[float, str], ...] = ()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return journal_path(tmp_path / "new" / "keep20")


def test_the_last_state_is_read_back(path: Path) -> None:
    journal = Journal(path, REQUEST)
    assert journal.read(State) is None
    for layer in (1, 2):
        journal.write(State(layer, ((0.5, "x"),)))
    assert Journal(path, dict(REQUEST)).read(State) == State(2, ((0.5, "x"),))


def test_of_another_search_nothing_is_read(path: Path) -> None:
    same, other = Journal(path, REQUEST), Journal(path, REQUEST | {"keep_n": 24})
    assert (same.of_another, other.of_another) == (False, False), "there is none"
    same.write(State(1))
    assert other.read(State) is None
    assert (same.of_another, other.of_another) == (False, True)


def test_of_another_revision_of_the_search_nothing_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its start and its swaps were chosen by another loss."""
    Journal(path, REQUEST).write(State(1))
    monkeypatch.setattr(journals, "REVISION", journals.REVISION + 1)
    assert Journal(path, REQUEST).read(State) is None
    assert Journal(path, REQUEST).of_another


def test_what_was_written_before_there_were_revisions_is_not_read(path: Path) -> None:
    write_model(path, {"request": {"keep_n": 20}, "state": {"layer": 1, "swaps": []}}, sealed=True)
    assert Journal(path, {"keep_n": 20}).read(State) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b'{"request": {"keep_n": 20}}',
        b'{"state": {"layer": 1}}',
        b'{"request": {"keep_n": 20}, "state": {}}',
        b'{"request": {"keep_n": 20}, "state": {"layer": "1"}}',
        b"[" * 100_000,
    ],
    ids=lambda content: str(content[-20:]),
)
def test_a_damaged_file_is_none(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert Journal(path, {"keep_n": 20}).read(State) is None
    assert Journal(path, {"keep_n": 20}).of_another


def test_outputs_do_not_share_a_journal(tmp_path: Path) -> None:
    assert journal_path(tmp_path / "a") != journal_path(tmp_path / "b")


def test_where_it_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file"):
        Journal(tmp_path / "file" / ".x.search.json", REQUEST).write(State(1))


def test_a_changed_state_is_none(path: Path) -> None:
    Journal(path, REQUEST).write(State(1))
    whole = path.read_text()
    path.write_text(whole.replace('"layer": 1', '"layer": 2'))
    assert path.read_text() != whole
    assert Journal(path, REQUEST).read(State) is None
    path.write_text(whole)
    assert Journal(path, REQUEST).read(State) == State(1)


def test_a_directory_in_its_place_is_said_before_anything_is_searched(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(UserError, match=r"search\.json is a directory, where a search keeps how far it has come"):
        Journal(path, REQUEST)
