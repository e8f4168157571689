"""A collector whose checkpoint is looked at: is it still there as it was, and why is a number not finite?"""

from collections.abc import Iterator
from typing import Any

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.checkpoint.finite import check_finite
from eaftgate.checkpoint.unchanged import check_unchanged
from eaftgate.collect.collection import TokenStats, count_not_finite
from eaftgate.collect.collector import Collector
from eaftgate.packs.blocks import Blocks


class WatchedCollector:
    """`collector`, which scores `checkpoint`, whose digest is `digest`."""

    def __init__(self, collector: Collector, checkpoint: Checkpoint, digest: str) -> None:
        self._collector, self._checkpoint, self._digest = collector, checkpoint, digest

    def settings(self) -> dict[str, Any]:
        return self._collector.settings()

    def batches(self, blocks: Blocks, first_block: int) -> Iterator[tuple[int, TokenStats]]:
        """Raises UserError when the checkpoint is replaced while it is loaded or scored, or a stored tensor is why
        numbers are not finite; it is named."""
        for count, stats in self._collector.batches(blocks, first_block):
            check_unchanged(self._checkpoint, self._digest)
            if count_not_finite(stats):
                check_finite(self._checkpoint)
            yield count, stats
