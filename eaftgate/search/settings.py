"""What a search may be told. Imports nothing that is slow: the command line shows the defaults."""

import math
from dataclasses import dataclass

from eaftgate.errors import UserError

MAX_POSITIONS = 32_768
PACK_EXCESS = 6.0
"""A token of a pack that loses half as much again as all do weighs four times as much as one of a pack that does not
lose more than they do (docs/log/2026-11-26-selection.md)."""
BATCH_SIZE = 8


@dataclass(frozen=True)
class SearchSettings:
    """`seed` draws the positions when there are more than `max_positions`, and the keep sets of the random method.
    `pack_excess` is a refinement's (eaftgate.search.pack_weights)."""

    max_positions: int = MAX_POSITIONS
    seed: int = 0
    pack_excess: float = PACK_EXCESS
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        if not (math.isfinite(self.pack_excess) and self.pack_excess >= 0):
            raise UserError(f"--pack-excess is {self.pack_excess}: it must be a finite number from 0")
