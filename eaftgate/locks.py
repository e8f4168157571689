"""One process at a time where two would disturb each other.

A lock is the system's (flock), which it gives back when its holder ends, however it ends. What is written in the file
only says who that is, in the sentence that refuses the second.
"""

import fcntl
import json
import os
import re
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from eaftgate.errors import UserError

_BEGIN = b'{"process": '
_MAX_BYTES = 2000
_WORD = re.compile(r"[A-Za-z][\w-]{0,31}", re.ASCII)


class Taken(Exception):
    """Another process holds the lock; the message says who, since when."""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock `path` while in the block; the file is removed after it.

    Raises Taken, UserError when something else is at `path`, and OSError when no file can be made there.
    """
    descriptor = _lock(path)
    try:
        with suppress(OSError):  # a full disk is no reason not to try
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _holder())
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def holder(path: Path) -> str | None:
    """Who holds the lock `path`; None when nobody does. Touches nothing."""
    if path.is_symlink() or not path.is_file():
        return None
    with suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _said(file.read(_MAX_BYTES))
    return None


def _lock(path: Path) -> int:
    """An open file, locked, that is the one at `path`: who held the lock before may have just removed another."""
    while True:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise _in_the_way(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            content = os.pread(descriptor, _MAX_BYTES, 0)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not (content == b"" or content.startswith(_BEGIN)):
                raise _in_the_way(path)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                return descriptor
            os.close(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            raise Taken(_said(content)) from None
        except BaseException:
            with suppress(OSError):
                os.close(descriptor)
            raise


def _in_the_way(path: Path) -> UserError:
    return UserError(f"{path} is in the way, and no run has made it: remove it or choose another place")


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    return False


def _holder() -> bytes:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    told = {"process": os.getpid(), "host": socket.gethostname(), "since": now, "command": _command()}
    return json.dumps(told).encode() + b"\n"


def _command() -> str:
    """Like `eaftgate prune`: no option, which may hold what is nobody's business."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    words = [word for word in sys.argv[1:2] if _WORD.fullmatch(word)]
    return " ".join([name, *words])


def _said(content: bytes) -> str:
    try:
        told = json.loads(content)
        text = f"{told['command']}, process {told['process']} on {told['host']}, since {told['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "which does not say who it is"
    return " ".join(text.split())
