"""Numbers that are not finite, traced to the stored tensor that is not."""

from collections.abc import Iterator
from typing import Any

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.checkpoint.finite import check_finite
from eaftgate.collect.collection import TokenStats, count_not_finite
from eaftgate.collect.collector import Collector
from eaftgate.packs.blocks import Blocks


class TracedCollector:
    """`collector`, which scores `checkpoint`. Reads the weights only where a number of theirs is not finite."""

    def __init__(self, collector: Collector, checkpoint: Checkpoint) -> None:
        self._collector, self._checkpoint = collector, checkpoint

    def settings(self) -> dict[str, Any]:
        return self._collector.settings()

    def batches(self, blocks: Blocks, first_block: int) -> Iterator[tuple[int, TokenStats]]:
        """Raises UserError that names the tensor."""
        for count, stats in self._collector.batches(blocks, first_block):
            if count_not_finite(stats):
                check_finite(self._checkpoint)
            yield count, stats
