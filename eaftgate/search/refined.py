"""Refinement: an expert swapped wherever the pruned model then loses less of what the gate judges.

The calibration blocks are cut into two halves. Of every layer those swaps are asked about that change its output least
(eaftgate.search.greedy): first on a few blocks of one half, the most promising then on all of it, and the best of
these on the other half, too. One is made if the loss (eaftgate.search.objective) falls on both, on the other by more
than its standard error; again, until none is. So no swap is accepted by the tokens that proposed it alone: swaps that
were fitted to the calibration blocks' noise lost on others (docs/log/2026-11-26-selection.md).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest, nsmallest

import numpy as np
from numpy.typing import NDArray

from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks
from eaftgate.search.evaluate import predicted, predicted_after, referred
from eaftgate.search.objective import Objective, Predictions, gated_margins
from eaftgate.search.prefix import embedded, through_layer
from eaftgate.select.keep import KeepSets, replaced

NEAR = 16
"""Of every layer, so many swaps are asked about."""
CHECKED = 3
"""So many of them, which promise most on a few blocks, are measured on a whole half."""
FEW_TOKENS = 16_384
"""Scored tokens of the few blocks: an answer only has to promise."""
FINALISTS = 4
"""Starts that lose least on a few blocks are measured on all."""
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
    return len(_scored(blocks)) >= MIN_BLOCKS


def halves_of(
    model: MoeModel, blocks: Blocks, pack_R: NDArray[np.integer], *, batch_size: int
) -> tuple[Objective, Objective]:
    """`blocks` must be such that `can_refine`; one without a scored token is in neither. `pack_R` numbers the pack of
    every row from 0."""
    blocks = blocks.reordered(_scored(blocks))
    whole = Objective(blocks, referred(model, blocks, batch_size=batch_size), pack_R, gated_margins())
    middle = blocks.num_blocks // 2
    return whole.of_blocks(np.arange(middle)), whole.of_blocks(np.arange(middle, blocks.num_blocks))


def _scored(blocks: Blocks) -> NDArray[np.intp]:
    """The blocks with a scored token: long prompts fill whole ones."""
    return np.flatnonzero(blocks.scored_BS.any(axis=1))


def _few(half: Objective) -> Objective:
    """On evenly spread blocks with FEW_TOKENS, on all of them if there are no more."""
    blocks = half.blocks
    number = math.ceil(min(FEW_TOKENS / blocks.num_scored, 1) * blocks.num_blocks)
    return half.of_blocks(np.arange(number) * blocks.num_blocks // number)


def best_start(
    model: MoeModel, halves: tuple[Objective, Objective], starts: Mapping[str, KeepSets], *, batch_size: int
) -> str:
    """The name of the keep sets that lose least: on a few blocks, and of FINALISTS on all."""

    def loss(name: str, on: Objective, *, messages: bool) -> float:
        with model.keeping(starts[name]):
            return on.loss(predicted(model, on.blocks, on.base, batch_size=batch_size), messages=messages)

    few = _few(halves[0])
    last = nsmallest(FINALISTS, starts, key=lambda name: loss(name, few, messages=False))
    return min(last, key=lambda name: sum(loss(name, half, messages=True) for half in halves))


def refinements(
    model: MoeModel, halves: tuple[Objective, Objective], near: NearSwaps, begun: Refinement, *, batch_size: int
) -> Iterator[Refinement]:
    """How far it has come after every layer that `begun` is not done with. Any of these can be begun with.

    Takes memory for the hidden states of all blocks, one and a half times.
    """
    keep, swaps, done = begun.keep, begun.swaps, begun.layers
    for turn in range(done // len(keep), TURNS):
        begin = done % len(keep)
        first, second = halves if turn == 0 else halves[::-1]
        parts = tuple(_Part(model, half, keep, begin, batch_size) for half in (_few(first), first, second))
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

    def __init__(self, model: MoeModel, objective: Objective, keep: KeepSets, layer: int, batch_size: int) -> None:
        self._model, self.objective, self._keep = model, objective, keep
        self._prefix = embedded(model, objective.blocks, batch_size=batch_size)
        for before in range(layer):
            self.pass_layer(before)
        self.move_to(keep, layer)

    def move_to(self, keep: KeepSets, layer: int) -> None:
        """The keep sets change in `layer`, which the blocks have been run up to."""
        self._keep, self.now = keep, self._measured(keep, layer)

    def pass_layer(self, layer: int) -> None:
        with self._model.keeping(self._keep):
            self._prefix = through_layer(self._model, layer, self._prefix)

    def having(self, layer: int, kept: list[int]) -> Predictions:
        """What the model says when `layer` keeps `kept` instead."""
        return self._measured(replaced(self._keep, layer, kept), layer)

    def _measured(self, keep: KeepSets, layer: int) -> Predictions:
        with self._model.keeping(keep):
            return predicted_after(self._model, layer, self._prefix, self.objective.blocks, self.objective.base)


def _best_swap(
    layer: int, kept: list[int], near: Sequence[tuple[int, int]], few: _Part, proposing: _Part, checking: _Part
) -> Swap | None:
    def fall(part: _Part, swap: tuple[int, int], *, messages: bool) -> float:
        before, after = part.now, part.having(layer, _swapped(kept, *swap))
        loss = part.objective.loss
        return loss(before, messages=messages) - loss(after, messages=messages)

    possible = [(add, drop) for add, drop in near if add not in kept and drop in kept]
    promised = nlargest(CHECKED, ((fall(few, swap, messages=False), swap) for swap in possible))
    measured = [(fall(proposing, swap, messages=True), swap) for gain, swap in promised if gain > 0]
    for gain, (add, drop) in sorted(measured, reverse=True):
        if gain <= 0:
            break
        change = checking.objective.change(checking.now, checking.having(layer, _swapped(kept, add, drop)))
        if change.value < -change.standard_error:
            return Swap(layer, add, drop, -change.value)
    return None


def _swapped(kept: list[int], add: int, drop: int) -> list[int]:
    return sorted({*kept, add} - {drop})
