"""What a gate run compares, by name: a checkpoint with the base, on a pack's blocks or turns, or on a task."""

from dataclasses import dataclass

from eaftgate.visible import file_stem

BASE = "base"
NOOP = "noop"
RERUN, BATCH, ULP = "rerun", "batch", "ulp"
"""Tiers of the noise floor: the base measured again; in other batches and another block order; off by one ulp."""


@dataclass(frozen=True)
class Cell:
    """One comparison of a checkpoint with the base: pack x seq_len, on the rows' order for `seed`."""

    checkpoint: str
    pack: str
    seq_len: int
    num_blocks: int
    primary: bool
    seed: int | None

    @property
    def id(self) -> str:
        return f"{self.checkpoint}-{self.pack}-{self.seq_len}"

    @property
    def record_file(self) -> str:
        """In RUN_DIR/cells."""
        return f"{file_stem(f'{self.id}-{self.seed}')}.json"


@dataclass(frozen=True)
class TurnCell:
    """What a checkpoint writes, compared with what the base does: over a pack's turns, or in UNION all packs'."""

    checkpoint: str
    pack: str

    @property
    def id(self) -> str:
        return f"{self.checkpoint}-{self.pack}-turns"

    @property
    def record_file(self) -> str:
        """In RUN_DIR/cells."""
        return f"turns/{file_stem(self.id)}.json"


@dataclass(frozen=True)
class TaskCell:
    """What a checkpoint makes of a task, compared with what the base does."""

    checkpoint: str
    task: str

    @property
    def id(self) -> str:
        return f"{self.checkpoint}-{self.task}-task"

    @property
    def record_file(self) -> str:
        """In RUN_DIR/cells."""
        return f"tasks/{file_stem(self.id)}.json"
