"""Rewriting three quarters of the experts, against cp of a directory that holds exactly the kept bytes.

Both read from the page cache (as far as the files fit into it) and write new files; outputs are removed and the disk
settles before each, so that neither pays for the other's bytes.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measuring import Compare, Figure, Report
from benchmarks.rewriting import (
    copy_directory,
    directory_bytes,
    no_flush,
    peak_memory,
    read_through,
    rewrite,
    settle,
    three_quarters,
)
from eaftgate.checkpoint.checkpoint import open_checkpoint


@pytest.mark.parametrize("flush", [True, False], ids=["fsync", "no-fsync"])
def test_rewrite(rewrite_base: Path, flush: bool, tmp_path: Path, compare: Compare, report: Report) -> None:
    base = open_checkpoint(rewrite_base)
    keep_n = three_quarters(base)
    kept, out, copy = tmp_path / "kept", tmp_path / "out", tmp_path / "copy"
    rewrite(base, keep_n, kept)
    read_through(base.path)
    read_through(kept)
    with nullcontext() if flush else no_flush():
        rounds = compare(
            lambda: rewrite(base, keep_n, out),
            lambda: copy_directory(kept, copy, flush=flush),
            before=lambda: settle(out, copy),
        )
    nbytes = directory_bytes(kept)
    settle(kept, out, copy)
    report(
        Figure(
            f"{nbytes / rounds.subject / 1e9:.2f} GB/s, keep {keep_n} of {base.num_experts}",
            f"{nbytes / rounds.reference / 1e9:.2f} GB/s, cp",
            rounds.relative_speed,
            at_least=0.5,
            note=f"{nbytes / 1e9:.3f} GB, sha256 included",
        )
    )


def test_rewrite_memory(rewrite_base: Path, tmp_path: Path, benchmark: Any, report: Report) -> None:
    base = open_checkpoint(rewrite_base)
    out = tmp_path / "out"
    added = benchmark.pedantic(lambda: peak_memory(base.path, out, three_quarters(base)), rounds=1)
    settle(out)
    report(Figure("peak RSS of a fresh process", "less the same imports", added / 2**30, "GiB", at_most=1.0))
