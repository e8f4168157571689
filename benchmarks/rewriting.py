"""What the rewrite benchmarks run: the rewrite, copying the same bytes with cp, and the memory of a rewrite alone.

As a script it is the process whose memory is measured:

    python benchmarks/rewriting.py BASE OUT KEEP_N       # or with BASE only: imports, and no rewrite
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.rewrite.keep_n import resolve_keep_n
from eaftgate.rewrite.rewrite import rewrite_checkpoint

ANY_DIGEST = "0" * 64
"""Stands for the base's digest, which a command line session computes once and remembers."""


def random_keep(base: Checkpoint, keep_n: int) -> list[list[int]]:
    """Random keep sets: kept experts lie in short runs, as a selection's do."""
    rng = random.Random(0)
    return [sorted(rng.sample(range(base.num_experts), keep_n)) for _ in range(base.num_layers)]


def three_quarters(base: Checkpoint) -> int:
    """keep_n of keep_frac 0.75: 24 of 32."""
    return resolve_keep_n(base.num_experts, base.top_k, keep_frac=0.75)


def rewrite(base: Checkpoint, keep_n: int, out: Path) -> None:
    """The rewrite as it is, sha256 of every written file included, the base's digest given."""
    rewrite_checkpoint(base, random_keep(base, keep_n), out, provenance={}, base_digest=ANY_DIGEST)


def copy_directory(source: Path, target: Path, *, flush: bool) -> None:
    """cp of a directory; with `flush` each file is on disk at the end, as it is after a rewrite."""
    subprocess.run(["cp", "-r", "--reflink=never", source, target], check=True)
    if flush:
        for path in [*target.iterdir(), target]:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


@contextmanager
def no_flush() -> Iterator[None]:
    """Nothing waits for the disk while the context is open."""
    with mock.patch("os.fsync"):
        yield


def settle(*removed: Path) -> None:
    """Remove outputs of the round before and let the disk finish, so that a round pays for its own bytes only."""
    for path in removed:
        shutil.rmtree(path, ignore_errors=True)
    os.sync()


def read_through(directory: Path) -> None:
    """Bring the files into the page cache, as far as they fit."""
    buffer = bytearray(1 << 24)
    for path in directory.iterdir():
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def directory_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def peak_memory(base: Path, out: Path, keep_n: int) -> int:
    """Bytes that a rewrite adds to the peak resident memory of a fresh interpreter with the same imports."""

    def peak(*arguments: object) -> int:
        command = [sys.executable, __file__, *map(str, arguments)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return peak(base, out, keep_n) - peak(base)


def _own_peak() -> int:
    """VmHWM and not getrusage's ru_maxrss: on Linux a child's ru_maxrss starts at its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        rewrite(open_checkpoint(sys.argv[1]), int(sys.argv[3]), Path(sys.argv[2]))
    print(_own_peak())
