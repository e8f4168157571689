"""Where a command puts what it makes: never over, into or through anything that no command of ours has made.

A directory is built in `.NAME.partial` beside its place, and has its name by one rename when all of it is on disk:

    .NAME.partial/lock            one process builds at a time
                  request.json    what is being built, as a digest
                  state.json      for whoever takes up what is there, if that needs more than the payload
                  payload/        becomes NAME

What an interrupted run has left is taken up by the next one with the same request, and emptied by one with another.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from eaftgate.errors import UserError
from eaftgate.files import sha256_json, write_failure, write_json
from eaftgate.strict_json import read_object

_LOCK, _REQUEST, _STATE, _PAYLOAD = "lock", "request.json", "state.json", "payload"


@dataclass(frozen=True)
class Unfinished:
    """The directory `.NAME.partial`."""

    root: Path

    @property
    def payload(self) -> Path:
        return self.root / _PAYLOAD

    @property
    def state(self) -> Path:
        return self.root / _STATE


def check_new_file(out: Path, *, option: str = "--out") -> None:
    """Raises UserError when something is at `out`, or it lies in a checkpoint that is not one of ours: a base."""
    if out.is_symlink() or out.exists():
        raise _exists(out, option)
    check_outside_checkpoints(out, option=option, bases_only=True)


def check_new_directory(out: Path, *, option: str = "--out") -> None:
    """Raises UserError when something is at `out` (an empty directory is nothing) or in the way of building it, or when
    it lies in a checkpoint."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise _exists(out, option)
    check_outside_checkpoints(out, option=option)
    root = unfinished(out).root
    if root.is_symlink() or (root.exists() and not (root.is_dir() and _is_ours(root))):
        raise UserError(f"{root} is in the way, and no run has made it: remove it or choose another {option}")


def check_outside_checkpoints(out: Path, *, option: str = "--out", bases_only: bool = False) -> None:
    """Raises UserError when `out` lies in the directory of a checkpoint; `bases_only`: of one that is not ours."""
    for parent in out.resolve().parents:
        weights = (parent / "config.json").is_file() and any(parent.glob("*.safetensors"))
        if weights and not (bases_only and (parent / "manifest.json").is_file()):
            raise UserError(f"{out} lies in the checkpoint {parent}: choose another {option}")


def unfinished(out: Path) -> Unfinished:
    out = out.resolve()
    return Unfinished(out.with_name(f".{out.name}.partial"))


@contextmanager
def build(out: Path, request: Any = None, *, needs: str = "") -> Iterator[Unfinished]:
    """Build the directory `out` in the payload of what this yields; `out` is there once the block has ended.

    `request` is every input, as JSON, by which an interrupted run is taken up; without one, nothing is left of a run
    that fails. `needs` may say what space it takes.

    Raises UserError for what `check_new_directory` refuses, when another process is building `out`, and when the disk
    fails.
    """
    check_new_directory(out)
    out = out.resolve()
    work = unfinished(out)
    with _write_failures(out, needs):
        work.root.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(work.root / _LOCK, timeout=0):
                try:
                    check_new_directory(out)  # another process may have made it since
                    _take_up(work, request)
                    yield work
                    _publish(work, out)
                finally:
                    if request is None or not (work.payload.is_dir() and any(work.payload.iterdir())):
                        shutil.rmtree(work.root, ignore_errors=True)
        except Timeout:
            raise UserError(f"another process is writing {out}: wait for it or choose another --out") from None


@contextmanager
def joined(out: Path) -> Iterator[Unfinished]:
    """Take part in what another process builds."""
    with _write_failures(out):
        yield unfinished(out)


@contextmanager
def _write_failures(out: Path, needs: str = "") -> Iterator[None]:
    """Turns what the system says of a failing disk into a UserError about `out`."""
    try:
        yield
    except OSError as error:
        raise write_failure(error, out, needs=needs) from None


def _exists(out: Path, option: str) -> UserError:
    return UserError(f"{out} already exists: choose another {option} or remove it")


def _is_ours(root: Path) -> bool:
    """Whether `root` holds nothing but what `build` puts there, or next to nothing: it was killed at once."""
    entries = [entry for entry in root.iterdir() if not _is_temporary(entry)]
    names = {entry.name for entry in entries} - {_LOCK}
    if any(entry.is_symlink() for entry in entries):
        return False
    return not names or (_REQUEST in names and names <= {_REQUEST, _STATE, _PAYLOAD})


def _is_temporary(path: Path) -> bool:
    """Whether it is what a killed process leaves of a file that it was writing, or of a directory."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def _take_up(work: Unfinished, request: Any) -> None:
    """Empty the directory, but for the payload and the state of the same request, without temporary files and links: no
    command of ours makes one."""
    wanted = {"digest": sha256_json(request)}
    if request is None or _read(work.root / _REQUEST) != wanted:
        shutil.rmtree(work.payload, ignore_errors=True)
        work.state.unlink(missing_ok=True)
        write_json(work.root / _REQUEST, wanted)
    work.payload.mkdir(exist_ok=True)
    for path in [*work.root.iterdir(), *_inside(work.payload)]:
        if path.is_symlink() or (_is_temporary(path) and not path.is_dir()):
            path.unlink(missing_ok=True)
        elif _is_temporary(path):
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
