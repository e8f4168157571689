"""A source is a directory or a hub id; everything else is refused with one sentence."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tiny_checkpoint import write_tiny_checkpoint

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.source import resolve
from eaftgate.errors import UserError


class Hub:
    """Stands in for snapshot_download."""

    def __init__(self, result: Path | BaseException) -> None:
        self.result = result
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, repo: str, **options: Any) -> str:
        self.calls.append((repo, options))
        if isinstance(self.result, BaseException):
            raise self.result
        return str(self.result)


def without_response(kind: type[Exception], text: str) -> Exception:
    """A Hub error as it is caught, without the HTTP response it is made from."""
    error = kind.__new__(kind)
    error.args = (text,)
    return error


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise AssertionError("the Hub must not be asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


def test_directory_as_it_is(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve(tmp_path) == tmp_path


def test_directory_wins_over_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openai" / "gpt-oss-20b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("openai/gpt-oss-20b") == Path("openai/gpt-oss-20b")


@pytest.mark.parametrize(
    "source",
    ["nowhere", "./a/b", "/a/b", "a/b/c", "../b", "~/b", "", "a//b", "a/b@", "a b/c", "x" * 5000, "a\0b"],
)
def test_no_directory_and_no_hub_id(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # where nothing lies, nor beside it
    with pytest.raises(UserError):
        resolve(source or "missing")


def test_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="is a file"):
        resolve(str(tmp_path / "model.safetensors"))


def test_missing_path_object_is_never_a_hub_id() -> None:
    with pytest.raises(UserError, match="not an existing directory"):
        resolve(Path("openai/gpt-oss-20b"))


@pytest.mark.parametrize(("source", "revision"), [("openai/tiny", None), ("openai/tiny@abc123", "abc123")])
def test_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, revision: str | None) -> None:
    write_tiny_checkpoint(tmp_path / "snapshot")
    hub = Hub(tmp_path / "snapshot")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    checkpoint = open_checkpoint(source)
    assert (checkpoint.name, checkpoint.path) == (source, tmp_path / "snapshot")
    ((repo, options),) = hub.calls
    assert (repo, options["revision"]) == ("openai/tiny", revision)
    assert "original/*" in options["ignore_patterns"]
    assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in options["allow_patterns"])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            without_response(RepositoryNotFoundError, "404\nClient Error"),
            "neither an existing directory nor a repository",
        ),
        (without_response(RevisionNotFoundError, "404"), "no revision 'v9'"),
        (LocalEntryNotFoundError("offline"), "the Hub cannot be reached"),
        (OfflineModeIsEnabled("offline"), "the Hub cannot be reached"),
        (OSError(28, "No space left on device"), "No space left"),
        (RuntimeError("odd\nthings"), "odd things"),
    ],
)
def test_hub_failures(monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Hub(error))
    with pytest.raises(UserError) as caught:
        resolve("openai/tiny@v9")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
