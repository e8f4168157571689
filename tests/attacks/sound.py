"""The sound inputs that attacks are made from: a tiny checkpoint, packs, a profile, a pruned checkpoint, a run."""

import contextlib
import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from results import parity_cell, parity_of
from tiny_checkpoint import Size, write_tiny_checkpoint

from eaftgate.gate.results import write_parity

KEEP_N = 4
LAYERS = Size.layers
EXPERTS = Size.experts


def conversation(number: int, pack: str = "chat") -> str:
    return (
        f"<|start|>user<|message|>question {number} of {pack}<|end|>"
        f"<|start|>assistant<|channel|>final<|message|>answer {number} of many<|return|>"
    )


def make_sound(directory: Path) -> None:
    """Everything that a Box copies from."""
    write_tiny_checkpoint(directory / "base", num_shards=2)
    (directory / "packs").mkdir()
    for pack in ("chat", "code"):
        rows = [conversation(number, pack) for number in range(24)]
        pq.write_table(pa.table({"text": rows}), directory / "packs" / f"{pack}.parquet")
    base, profile = directory / "base", directory / "profile"
    _eaftgate("profile", base, "--packs", directory / "packs", "--seq-len", 64, "--out", profile)
    _eaftgate(
        "prune", base, "--profile", profile, "--keep-n", KEEP_N, "--method", "eaft-reap", "--out", directory / "pruned"
    )
    (directory / "run").mkdir()
    write_parity(directory / "run", parity_of(parity_cell(checkpoint="pruned", name="pruned")))


def _eaftgate(*words: object) -> None:
    from eaftgate.commands.app import main

    argv = sys.argv
    try:
        sys.argv = ["eaftgate", *map(str, words)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            main()
    finally:
        sys.argv = argv
