"""How an output that is a directory is built: in `.NAME.partial` (unfinished.py) beside its place, and it has its name
by one rename when all of it is on disk.

What an interrupted run has left is taken up by the next one with the same request, and emptied by one with another.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eaftgate.errors import UserError
from eaftgate.files import sha256_json, write_failures, write_json
from eaftgate.locks import Taken, held
from eaftgate.made_from import record_files
from eaftgate.outputs import busy, check_free
from eaftgate.strict_json import read_object
from eaftgate.unfinished import Unfinished, is_temporary, unfinished


@contextmanager
def build(
    out: Path, request: Any = None, *, made_from: Mapping[str, Any] | None = None, needs: str = ""
) -> Iterator[Unfinished]:
    """Build the directory `out` in the payload of what this yields; `out` is there once the block has ended.

    `request` is every input, as JSON, by which an interrupted run is taken up; without one, nothing is left of a run
    that fails. `made_from` is what `up_to_date` compares, later. `needs` may say what space it takes.

    Raises UserError when something is at `out`, for what `check_directory` refuses, when another process is building
    `out`, and when the disk fails.
    """
    check_free(out)
    out = out.resolve()
    work = unfinished(out)
    with write_failures(out, needs):
        try:
            with _locked(work):
                try:
                    check_free(out)  # another process may have made it since
                    _take_up(work, request)
                    yield work
                    if made_from is not None:
                        record_files(work.payload, made_from)
                    _publish(work, out)
                finally:
                    if request is None or not any(path.is_file() for path in work.payload.rglob("*")):
                        shutil.rmtree(work.root, ignore_errors=True)
        except Taken as taken:
            raise busy(out, taken) from None


@contextmanager
def joined(out: Path) -> Iterator[Unfinished]:
    """Take part in what another process builds."""
    with write_failures(out):
        yield unfinished(out)


@contextmanager
def _locked(work: Unfinished) -> Iterator[None]:
    """The lock in a directory that who held it before may be about to remove."""
    while True:
        work.root.mkdir(exist_ok=True)
        lock = held(work.lock)
        try:
            lock.__enter__()
        except FileNotFoundError:
            continue
        break
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _take_up(work: Unfinished, request: Any) -> None:
    """Empty the directory, but for the payload and the state of the same request, without temporary files and links: no
    command of ours makes one."""
    wanted = {"digest": sha256_json(request)}
    if request is None or _read(work.request) != wanted:
        shutil.rmtree(work.payload, ignore_errors=True)
        work.state.unlink(missing_ok=True)
        write_json(work.request, wanted)
    work.payload.mkdir(exist_ok=True)
    for path in [*work.root.iterdir(), *_inside(work.payload)]:
        if path.is_symlink() or (is_temporary(path) and not path.is_dir()):
            path.unlink(missing_ok=True)
        elif is_temporary(path):
            shutil.rmtree(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_object(path, what="unfinished output")
    except UserError:
        return None


def _publish(work: Unfinished, out: Path) -> None:
    """Flush the payload to disk and give it its name."""
    for path in (*_inside(work.payload), work.payload):
        _sync(path)
    work.payload.rename(out)
    _sync(out.parent)


def _inside(directory: Path) -> Iterator[Path]:
    for place, directories, files in os.walk(directory):
        yield from (Path(place) / name for name in (*directories, *files))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
