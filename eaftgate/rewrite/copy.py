"""Streaming byte ranges into one shard while its sha256 is computed, in constant memory.

The calling thread reads and writes; a second one hashes the buffers just written (hashlib releases the GIL),
so the hash costs wall time only where it is slower than the copy.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from eaftgate.checkpoint.read import read_all
from eaftgate.rewrite.plan import ShardPlan

CHUNK_BYTES = 1 << 20
NUM_BUFFERS = 8


def copy_shard(plan: ShardPlan, source: Path, target: Path, on_bytes: Callable[[int], None]) -> str:
    """Write the shard `plan` from the files in `source` to the new file `target`; returns its sha256.

    The file is on disk when this returns. `on_bytes` is called with the number of bytes after every
    write; an exception it raises stops the copy.
    Raises UserError when a source file has become shorter, OSError when writing fails.
    """
    digest = hashlib.sha256(plan.header)
    with ExitStack() as stack:
        files = {name: stack.enter_context(_open(source / name)) for name in {r.shard for r in plan.ranges}}
        out = stack.enter_context(target.open("xb", buffering=0))  # "x" also refuses to follow a link
        hasher = stack.enter_context(ThreadPoolExecutor(1))
        ring: deque[tuple[memoryview, Future[None] | None]] = deque(
            (memoryview(bytearray(CHUNK_BYTES)), None) for _ in range(NUM_BUFFERS)
        )
        write_all(out, memoryview(plan.header))
        on_bytes(len(plan.header))
        for item in plan.ranges:
            for begin in range(item.begin, item.end, CHUNK_BYTES):
                buffer, hashed = ring.popleft()
                if hashed is not None:
                    hashed.result()
                filled = buffer[: min(CHUNK_BYTES, item.end - begin)]
                read_all(files[item.shard], begin, filled)
                write_all(out, filled)
                ring.append((buffer, hasher.submit(digest.update, filled)))
                on_bytes(len(filled))
        for _, hashed in ring:
            if hashed is not None:
                hashed.result()
        os.fsync(out.fileno())
    return digest.hexdigest()


def write_all(out: BinaryIO, data: memoryview) -> None:
    """Write all of `data` to an unbuffered file."""
    while data:
        data = data[out.write(data) :]


def _open(path: Path) -> BinaryIO:
    return path.open("rb", buffering=0)
