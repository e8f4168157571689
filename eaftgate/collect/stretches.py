"""Long work over blocks, batch after batch: what of it is still to be done, and when what is done is put away.

Results are put away by stretches of consecutive blocks, so that a killed run loses the work of a few seconds and the
next one does the stretches that are missing.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Result = TypeVar("Result")


def missing_stretches(share: range, held: Iterable[range]) -> list[range]:
    """The stretches of `share` that none of `held` covers; a run with other shares may have left any."""
    gaps, start = [], share.start
    for done in sorted(held, key=lambda blocks: blocks.start):
        if start < min(done.start, share.stop):
            gaps.append(range(start, min(done.start, share.stop)))
        start = max(start, done.stop)
    return [*gaps, range(start, share.stop)] if start < share.stop else gaps


def finished_stretches(
    batches: Iterable[tuple[int, Result]], first_block: int, *, seconds: float, advance: Callable[[int], None]
) -> Iterator[tuple[range, list[Result]]]:
    """Blocks and the results of their batches, whenever `seconds` have passed, and at the end.

    `batches` gives (number of blocks, result) from `first_block` on; `advance` gets the number of blocks of each.
    """
    pending: list[Result] = []
    start = now = first_block
    put_away = time.perf_counter()
    for count, result in batches:
        pending.append(result)
        now += count
        advance(count)
        if time.perf_counter() - put_away > seconds:
            yield range(start, now), pending
            pending, start, put_away = [], now, time.perf_counter()
    if pending:
        yield range(start, now), pending
