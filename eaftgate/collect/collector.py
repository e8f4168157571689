"""What a collector is: token statistics of one model, batch after batch."""

from collections.abc import Iterator
from typing import Any, Protocol

from eaftgate.collect.collection import TokenStats
from eaftgate.packs.blocks import Blocks


class Collector(Protocol):
    """Scores blocks with one model. Made cheaply: the model loads when the first batch is asked for."""

    def settings(self) -> dict[str, Any]:
        """Everything besides model and blocks that decides the numbers; part of the cache key."""
        ...

    def batches(self, blocks: Blocks, first_block: int) -> Iterator[tuple[int, TokenStats]]:
        """Yield (number of blocks, their token statistics) from `first_block` on, in block order."""
        ...
