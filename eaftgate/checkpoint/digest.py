"""Identity of a checkpoint by content, independent of where it lies and of what its shards are called."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from filelock import FileLock

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.checkpoint.stamps import Stamp, stamp_of
from eaftgate.errors import UserError
from eaftgate.files import sha256_file, sha256_json, write_json
from eaftgate.progress import progress_bar
from eaftgate.records import Record
from eaftgate.strict_json import read_object

TOKENIZER_FILE = "tokenizer.json"
_MAX_THREADS = 8
SHOWN_BYTES = 1 << 30
"""From this size on it is shown how far hashing is."""


class ModelIdentity(Record):
    """A model in a file: how it was named, and the digest of what it was."""

    name: str
    digest: str


def checkpoint_digest(checkpoint: Checkpoint, cache: Path | None = None) -> str:
    """sha256 (hex) over the configuration's content and the sha256 of every shard, independent of file names.

    `cache` names a JSON file that remembers the shards' sha256 by resolved path, size, times and inode, so that a
    second session does not read gigabytes again; it is created when missing and rebuilt when unreadable.
    Raises UserError when a shard cannot be read or changes while it is being read.
    """
    shards = [shard.resolve() for shard in checkpoint.shards]
    known = _read_cache(cache)
    with _shown(checkpoint) as advance, ThreadPoolExecutor(min(_MAX_THREADS, len(shards), os.cpu_count() or 1)) as pool:
        found = pool.map(lambda shard: _hash(shard, known, advance), shards)
        records = dict(zip(map(str, shards), found, strict=True))
    if cache is not None and any(known.get(shard) != record for shard, record in records.items()):
        _update_cache(cache, records)
    return sha256_json({"config": checkpoint.config, "shards": sorted(sha for _, sha in records.values())})


def hashing_is_shown(checkpoint: Checkpoint) -> bool:
    """Whether it takes so long that its progress is shown."""
    return checkpoint.nbytes >= SHOWN_BYTES


def tokenizer_digest(checkpoint: Checkpoint) -> str:
    """sha256 (hex) of tokenizer.json as a JSON value: key order and white space do not matter.

    Raises UserError when the file is missing or malformed.
    """
    return sha256_json(read_object(checkpoint.path / TOKENIZER_FILE, what="the tokenizer"))


@contextmanager
def _shown(checkpoint: Checkpoint) -> Iterator[Callable[[int], None]]:
    """Gets the bytes that were read; what takes no time is not shown."""
    if not hashing_is_shown(checkpoint):
        yield lambda _: None
        return
    with progress_bar(f"hash {checkpoint.name}", None, unit="B", resumes=False) as bar:
        read, lock = 0, Lock()

        def advance(nbytes: int) -> None:
            nonlocal read
            with lock:
                read += nbytes
                bar.show(read, checkpoint.nbytes)

        yield advance


def _hash(shard: Path, known: dict[str, tuple[Stamp, str]], advance: Callable[[int], None]) -> tuple[Stamp, str]:
    try:
        stamp = stamp_of(shard)
        record = known.get(str(shard))
        if record is not None and record[0] == stamp:
            return record
        sha256 = sha256_file(shard, advance)
        unchanged = stamp_of(shard) == stamp
    except OSError as error:
        raise UserError(f"shard {shard} cannot be read ({error.strerror}); check the checkpoint") from None
    if not unchanged:
        raise UserError(f"shard {shard} changed while it was being hashed; wait for its writer and try again")
    return stamp, sha256


def _read_cache(cache: Path | None) -> dict[str, tuple[Stamp, str]]:
    """What the cache knows; nothing when it is missing or not of our making (it can always be rebuilt)."""
    if cache is None:
        return {}
    try:
        value = json.loads(cache.read_text(encoding="utf-8"))
        return {
            path: (list(stamp), str(sha256))
            for path, (stamp, sha256, checksum) in value.items()
            if checksum == _checksum(path, stamp, sha256)
        }
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def _checksum(path: str, stamp: Stamp, sha256: str) -> str:
    return sha256_json([path, stamp, sha256])


def _update_cache(cache: Path, records: dict[str, tuple[Stamp, str]]) -> None:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cache.with_name(f"{cache.name}.lock")):
            known = (_read_cache(cache) | records).items()
            write_json(cache, {path: [*record, _checksum(path, *record)] for path, record in known})
    except OSError as error:
        raise UserError(f"the digest cache {cache} cannot be written ({error.strerror}); give another place") from None
