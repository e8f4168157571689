"""One process at a time, and who it is."""

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
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
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


def test_a_holder_that_says_nothing_is_a_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path):
        path.write_text("")
        assert holder(path) == "which does not say who it is"
