"""One process at a time, and who it is."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eaftgate.errors import UserError
from eaftgate.locks import Taken, held, holder

HOLDS = "import sys, time; from pathlib import Path; from eaftgate.locks import held\n"
HOLDS += "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_the_second_is_told_who_is_first_and_a_killed_holder_is_none(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with another_process(path) as process:
        content = path.read_bytes()
        with pytest.raises(Taken) as caught, held(path):
            raise AssertionError
        said = rf"-c.*, process {process.pid} on .+, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
        assert re.fullmatch(said, str(caught.value))
        assert holder(path) == str(caught.value)
        assert path.read_bytes() == content
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert path.exists()
        assert holder(path) is None
        with held(path):
            assert f'"process": {os.getpid()}' in path.read_text()
    assert not path.exists()
    assert holder(path) is None


@pytest.mark.parametrize("kind", ["file", "json", "link", "dangling link", "directory", "fifo"])
def test_what_no_lock_is_stays_as_it_was(tmp_path: Path, kind: str) -> None:
    path, precious = tmp_path / "lock", tmp_path / "precious"
    precious.write_text("precious")
    if kind == "link":
        path.symlink_to(precious)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_text("precious" if kind == "file" else '{"precious": 1}')
    assert holder(path) is None
    with pytest.raises(UserError, match="lock is in the way, and no run has made it"), held(path):
        raise AssertionError
    assert precious.read_text() == "precious"
    assert not path.is_file() or "precious" in path.read_text()
    assert not (tmp_path / "nowhere").exists()


def test_a_lock_that_its_holder_removes_is_not_taken_for_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the file and locking it, the holder may end and another begin, with a file of its own."""
    import fcntl

    path, real = tmp_path / "lock", fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        path.unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with held(path), pytest.raises(Taken), held(path):
        raise AssertionError


def test_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to another lock, nor where it was made since somebody looked."""
    link = tmp_path / "link"
    link.symlink_to("lock")
    with held(tmp_path / "lock"):
        assert holder(link) is None
    looks = iter([False])
    monkeypatch.setattr(Path, "is_symlink", lambda _: next(looks))
    with pytest.raises(OSError, match="symbolic links"), held(link):
        raise AssertionError
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("content", ["", '{"process": 1}', '{"process": ', '{"process": ' + "[" * 1900])
def test_a_holder_that_says_nothing_is_a_holder(tmp_path: Path, content: str) -> None:
    path = tmp_path / "lock"
    with held(path):
        path.write_text(content)
        assert holder(path) == "which does not say who it is"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/env/bin/eaftgate", "prune", "BASE", "--token=secret"], "eaftgate prune"),
        (["/env/eaftgate/__main__.py", "gate", "--base=B"], "eaftgate gate"),
        (["/env/bin/pytest", "--base=secret"], "pytest"),
        (["/env/bin/pytest", "gates/secret"], "pytest"),
    ],
)
def test_a_holder_is_named_by_its_command_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    """Its options may hold what is nobody's business."""
    monkeypatch.setattr(sys, "argv", words)
    with held(tmp_path / "lock"):
        assert str(holder(tmp_path / "lock")).startswith(f"{said}, process {os.getpid()} on ")
        assert "secret" not in (tmp_path / "lock").read_text()


def test_what_a_holder_says_is_one_line_and_its_own(tmp_path: Path) -> None:
    """Nothing is left of one that said more before it was killed."""
    path = tmp_path / "lock"
    path.write_text('{"process": 1, "command": "' + "long" * 300)
    with held(path):
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "command": "two\nlines"}))
        assert str(holder(path)).startswith("two lines, process ")


def test_a_full_disk_is_no_reason_not_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "ftruncate", full)
    with held(tmp_path / "lock"), pytest.raises(Taken, match="which does not say who it is"), held(tmp_path / "lock"):
        raise AssertionError
