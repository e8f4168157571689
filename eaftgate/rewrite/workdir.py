"""The working directory of a rewrite: nothing under the final name until all of it is there.

Beside `out` lies `.<out name>.partial/` with `request.json` (what is being made), `shards.json` (what is
done), `lock`, and `payload/`, which becomes `out` by one rename.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock, Timeout

from eaftgate.errors import UserError
from eaftgate.files import sha256_file, write_json
from eaftgate.rewrite.manifest import FileRecord

_REQUEST, _SHARDS, _LOCK, _PAYLOAD = "request.json", "shards.json", "lock", "payload"


@dataclass(frozen=True)
class WorkDir:
    """A locked working directory whose payload holds only finished shards of the same request."""

    root: Path
    out: Path
    finished: dict[str, FileRecord]
    """Shards that need not be written again."""
    _guard: Lock

    @property
    def payload(self) -> Path:
        return self.root / _PAYLOAD

    def record(self, name: str, shard: FileRecord) -> None:
        """Remember that the payload's file `name` is complete and on disk (from any thread)."""
        with self._guard:
            self.finished[name] = shard
            write_json(self.root / _SHARDS, {key: value.model_dump() for key, value in self.finished.items()})

    def publish(self) -> None:
        """Flush the payload to disk and give it its final name."""
        for file in self.payload.iterdir():
            _sync(file)
        _sync(self.payload)
        self.payload.rename(self.out)
        _sync(self.out.parent)
        shutil.rmtree(self.root)


@contextmanager
def open_workdir(out: Path, base: Path, request: dict[str, Any]) -> Iterator[WorkDir]:
    """Lock and prepare the working directory for making `out` by `request` (a JSON object of every input).

    One left over from the same request is taken up again, any other is emptied. Raises UserError when `out`
    exists or lies in the checkpoint `base`, and when another process is making it.
    """
    refuse_existing(out)
    out = out.resolve()
    root = out.with_name(f".{out.name}.partial")
    base = base.resolve()
    if out == base or base in out.parents or root == base or root in base.parents:
        raise UserError(f"{out} lies in the base checkpoint {base}; choose another --out")
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise UserError(f"{root} is in the way of the working directory; remove it or choose another --out")
    if root.exists() and not _is_ours(root):
        raise UserError(f"{root} holds files that no rewrite made; remove it or choose another --out")
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / _LOCK, timeout=0):
            refuse_existing(out)
            yield WorkDir(root, out, _take_up(root, request), Lock())
    except Timeout:
        raise UserError(f"another process is writing {out}; wait for it or choose another --out") from None


def refuse_existing(out: Path) -> None:
    """Raises UserError when something is at `out` already (an empty directory is nothing)."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise UserError(f"{out} already exists; choose another --out or remove it")


def _is_ours(root: Path) -> bool:
    known = {_REQUEST, _SHARDS, _LOCK, _PAYLOAD}
    entries = list(root.iterdir())
    return not any(entry.is_symlink() for entry in entries) and all(
        entry.name in known or entry.suffix == ".tmp" for entry in entries
    )


def _take_up(root: Path, request: dict[str, Any]) -> dict[str, FileRecord]:
    """Empty the working directory of everything but finished shards of the same request."""
    same = _load(root / _REQUEST) == json.loads(json.dumps(request))
    records = _load(root / _SHARDS) if same else None
    finished = {}
    for name, value in (records if isinstance(records, dict) else {}).items():
        record = _finished(root / _PAYLOAD / name, value)
        if record is not None:
            finished[name] = record
    for entry in list(root.iterdir()):
        if entry.name not in (_LOCK, _PAYLOAD):
            entry.unlink()
    (root / _PAYLOAD).mkdir(exist_ok=True)
    for entry in list((root / _PAYLOAD).iterdir()):
        if entry.name not in finished:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    write_json(root / _SHARDS, {name: record.model_dump() for name, record in finished.items()})
    write_json(root / _REQUEST, request)
    return finished


def _finished(path: Path, value: object) -> FileRecord | None:
    """The record, if the file still is what it says."""
    try:
        record = FileRecord.model_validate(value)
        if path.is_symlink() or path.stat().st_size != record.size or sha256_file(path) != record.sha256:
            return None
    except (OSError, ValueError):
        return None
    return record


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
