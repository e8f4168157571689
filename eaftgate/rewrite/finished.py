"""Which shards of an unfinished rewrite are complete, so that they need not be written again."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from eaftgate.errors import UserError
from eaftgate.files import sha256_file, write_json
from eaftgate.rewrite.manifest import FileRecord
from eaftgate.strict_json import read_object
from eaftgate.unfinished import Unfinished


@dataclass(frozen=True)
class FinishedShards:
    """`records` by name. `state` is the file that remembers them."""

    state: Path
    records: dict[str, FileRecord]
    _guard: Lock = field(default_factory=Lock)

    def add(self, name: str, record: FileRecord) -> None:
        """Remember that the shard `name` is complete and on disk (from any thread)."""
        with self._guard:
            self.records[name] = record
            write_json(self.state, {key: value.model_dump() for key, value in self.records.items()})


def finished_shards(work: Unfinished) -> FinishedShards:
    """Those that still are what the state says of them; all else is removed from the payload."""
    records = {
        name: record
        for name, value in _state(work.state).items()
        if (record := _unchanged(work.payload / name, value)) is not None
    }
    for entry in list(work.payload.iterdir()):
        if entry.name not in records:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return FinishedShards(work.state, records)


def _state(path: Path) -> dict[str, object]:
    try:
        return dict(read_object(path, what="unfinished rewrite"))
    except UserError:
        return {}


def _unchanged(path: Path, value: object) -> FileRecord | None:
    """The record, if the file still is what it says."""
    try:
        record = FileRecord.model_validate(value)
        if path.stat().st_size != record.size or sha256_file(path) != record.sha256:
            return None
    except (OSError, ValueError):
        return None
    return record
