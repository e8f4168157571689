"""Refinement: an expert swapped wherever the pruned model then loses less of what the gate judges.

The calibration blocks are cut into two halves. Of every layer those swaps are asked about that change its output least
(eaftgate.search.greedy): first on a few blocks of one half, the most promising then on all of it, and the best of
these on the other half, too. It is made if the loss (eaftgate.search.objective) falls on both, on the other by more
than its standard error; again, until none is. So no swap is accepted by the tokens that proposed it alone: swaps that
were fitted to the calibration blocks' noise lost on others (docs/log/2026-11-26-selection.md).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eaftgate.collect.collection import Collection
from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks
from eaftgate.search.evaluate import collected, collected_after
from eaftgate.search.objective import Objective, gated_margins
from eaftgate.search.prefix import embedded, through_layer
from eaftgate.select.keep import KeepSets, replaced

NEAR = 16
"""Of every layer, so many swaps are asked about."""
CHECKED = 3
"""So many of them, which promise most on a few blocks, are measured on a whole half."""
FEW_TOKENS = 16_384
"""Scored tokens of the few blocks, or a quarter of the half: an answer only has to promise."""
MIN_BLOCKS = 4
"""Two a half: one alone would have no standard error to check a swap by."""
TURNS = 2
"""Either half proposes once."""

NearSwaps = Sequence[Sequence[tuple[int, int]]]
"""By layer: (add, drop), the least change first."""


@dataclass(frozen=True)
class Swap:
    """`gain`: by how much the loss fell on the half that did not propose the swap."""

    layer: int
    add: int
    drop: int
    gain: float


@dataclass(frozen=True)
class Refinement:
    """How far it has come: the keep sets, the swaps that made them, in order, and the layers that are done with, those
    of either turn counted."""

    keep: KeepSets
    swaps: tuple[Swap, ...] = ()
    layers: int = 0


def can_refine(blocks: Blocks) -> bool:
    """Whether enough blocks score tokens."""
    return blocks.num_blocks >= MIN_BLOCKS


@dataclass(frozen=True)
class Half:
    """Some blocks and what the whole model says of them."""

    blocks: Blocks
    objective: Objective

    def few(self) -> "Half":
        """Evenly spread blocks of it with FEW_TOKENS."""
        share = max(FEW_TOKENS / self.blocks.num_scored, 0.25)
        number = min(math.ceil(share * self.blocks.num_blocks), self.blocks.num_blocks)
        chosen = np.arange(number) * self.blocks.num_blocks // number
        whole = self.objective.whole
        kept_T = np.isin(whole.block_T, chosen)
        return Half(
            self.blocks.reordered(chosen),
            Objective(whole.select(kept_T), self.objective.pack_R, self.objective.margins),
        )


def halves_of(model: MoeModel, blocks: Blocks, pack_R: NDArray[np.integer], *, batch_size: int) -> tuple[Half, Half]:
    """`blocks` must be such that `can_refine`. `pack_R` numbers the pack of every row from 0."""
    middle, margins = blocks.num_blocks // 2, gated_margins()
    parts = blocks.reordered(np.arange(middle)), blocks.reordered(np.arange(middle, blocks.num_blocks))
    first, second = (
        Half(part, Objective(collected(model, part, batch_size=batch_size), pack_R, margins)) for part in parts
    )
    return first, second


def best_start(
    model: MoeModel, halves: tuple[Half, Half], starts: "dict[str, KeepSets]", *, batch_size: int, finalists: int = 3
) -> str:
    """The name of the keep sets that lose least: on a few blocks, and of the `finalists` on all."""
    few = halves[0].few()

    def loss(name: str, half: Half, *, messages: bool) -> float:
        with model.keeping(starts[name]):
            found = collected(model, half.blocks, batch_size=batch_size)
        return half.objective.loss(found, messages=messages)

    last = sorted(starts, key=lambda name: loss(name, few, messages=True))[:finalists]
    return (
        min(last, key=lambda name: sum(loss(name, half, messages=True) for half in halves))
        if len(last) > 1
        else last[0]
    )


def refinements(
    model: MoeModel, halves: tuple[Half, Half], near: NearSwaps, begun: Refinement, *, batch_size: int
) -> Iterator[Refinement]:
    """How far it has come after every layer that `begun` is not done with. Any of these can be begun with.

    Takes memory for the hidden states of all blocks, one and a half times.
    """
    keep, swaps, done = begun.keep, begun.swaps, begun.layers
    for turn in range(done // len(keep), TURNS):
        begin = done % len(keep)
        first, second = halves if turn == 0 else halves[::-1]
        parts = tuple(_Part(model, half, keep, begin, batch_size) for half in (first.few(), first, second))
        for layer in range(begin, len(keep)):
            while swap := _best_swap(layer, keep[layer], near[layer], *parts):
                swaps = (*swaps, swap)
                keep = replaced(keep, layer, _swapped(keep[layer], swap.add, swap.drop))
                for part in parts:
                    part.move_to(keep, layer)
            for part in parts:
                part.pass_layer(layer)
            done += 1
            yield Refinement(keep, swaps, done)


class _Part:
    """Some blocks under the keep sets as they are now, run up to the layer that is looked at."""

    def __init__(self, model: MoeModel, half: Half, keep: KeepSets, layer: int, batch_size: int) -> None:
        self._model, self._blocks, self._keep = model, half.blocks, keep
        self.objective = half.objective
        self._prefix = embedded(model, half.blocks, batch_size=batch_size)
        for before in range(layer):
            self.pass_layer(before)
        self.move_to(keep, layer)

    def move_to(self, keep: KeepSets, layer: int) -> None:
        """The keep sets change in `layer`, which the blocks have been run up to."""
        self._keep, self.now = keep, self._measured(keep, layer)

    def pass_layer(self, layer: int) -> None:
        with self._model.keeping(self._keep):
            self._prefix = through_layer(self._model, layer, self._prefix)

    def having(self, layer: int, kept: list[int]) -> Collection:
        """What the model says when `layer` keeps `kept` instead."""
        return self._measured(replaced(self._keep, layer, kept), layer)

    def _measured(self, keep: KeepSets, layer: int) -> Collection:
        with self._model.keeping(keep):
            return collected_after(self._model, layer, self._prefix, self._blocks)


def _best_swap(
    layer: int, kept: list[int], near: Sequence[tuple[int, int]], few: _Part, proposing: _Part, checking: _Part
) -> Swap | None:
    def fall(part: _Part, swap: tuple[int, int], *, messages: bool) -> float:
        before, after = part.now, part.having(layer, _swapped(kept, *swap))
        loss = part.objective.loss
        return loss(before, messages=messages) - loss(after, messages=messages)

    possible = [(add, drop) for add, drop in near if add not in kept and drop in kept]
    promised = sorted(((fall(few, swap, messages=False), swap) for swap in possible), reverse=True)
    measured = [(fall(proposing, swap, messages=True), swap) for gain, swap in promised[:CHECKED] if gain > 0]
    if not measured or max(measured)[0] <= 0:
        return None
    add, drop = max(measured)[1]
    change = checking.objective.change(checking.now, checking.having(layer, _swapped(kept, add, drop)))
    return Swap(layer, add, drop, -change.value) if change.value < -change.standard_error else None


def _swapped(kept: list[int], add: int, drop: int) -> list[int]:
    return sorted({*kept, add} - {drop})
