"""A collector, and a writer, whose checkpoint is looked at: is it there as it was, and why is a number not finite?"""

from collections.abc import Iterator, Sequence
from typing import Any

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.checkpoint.finite import check_finite
from eaftgate.checkpoint.unchanged import check_unchanged
from eaftgate.collect.collection import TokenStats, count_not_finite
from eaftgate.collect.collector import Collector
from eaftgate.collect.writer import Writer
from eaftgate.packs.blocks import Blocks
from eaftgate.packs.turns import Ending, IntArray


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


class WatchedWriter:
    """`writer`, which writes with `checkpoint`, whose digest is `digest`."""

    def __init__(self, writer: Writer, checkpoint: Checkpoint, digest: str) -> None:
        self._writer, self._checkpoint, self._digest = writer, checkpoint, digest

    def settings(self) -> dict[str, Any]:
        return self._writer.settings()

    def write(self, prompts: Sequence[IntArray], *, ending: Ending, max_tokens: int) -> Iterator[tuple[int, list[int]]]:
        """Raises UserError when the checkpoint is replaced meanwhile."""
        for written in self._writer.write(prompts, ending=ending, max_tokens=max_tokens):
            check_unchanged(self._checkpoint, self._digest)
            yield written
