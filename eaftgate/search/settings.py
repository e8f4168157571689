"""What a search may be told. Imports nothing that is slow: the command line shows the defaults."""

from dataclasses import dataclass

MAX_POSITIONS = 32_768
BATCH_SIZE = 8


@dataclass(frozen=True)
class SearchSettings:
    """`seed` draws the positions when there are more than `max_positions`, and the keep sets of the random method."""

    max_positions: int = MAX_POSITIONS
    seed: int = 0
    batch_size: int = BATCH_SIZE
