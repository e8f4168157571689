"""Refinement: the best of several selections, with an expert swapped wherever the pruned model predicts better for it.

The calibration blocks are cut into two halves. On one, layer by layer, it is measured what putting back each dropped
expert wins and what dropping each kept one loses; the swaps with the best sums are then measured on the other half,
too, and the best one is made if the loss falls on both, on the other by more than its standard error; again, until none
does. Then the halves change roles, once. So no swap is accepted by the tokens that proposed it alone: swaps that were
fitted the calibration blocks' noise and lost on others (docs/log/2026-11-26-selection.md).

The loss is the nll of the tokens themselves, which is what the gate looks at, not a distance from the whole model.
Tokens of a pack that loses more than all tokens do weigh more (eaftgate.search.pack_weights), by what it loses under
the keep sets that a layer is begun with.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from itertools import product

import numpy as np
from numpy.typing import NDArray

from eaftgate.collect.collection import Collection
from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks
from eaftgate.parity.clusters import Estimate
from eaftgate.search.evaluate import collected, collected_after, nll_increase
from eaftgate.search.pack_weights import row_weights
from eaftgate.search.prefix import embedded, through_layer
from eaftgate.select.class_weights import TokenWeights
from eaftgate.select.keep import KeepSets, replaced

CHECKED = 4
"""Of the swaps in a layer, so many that promise most are measured."""
SCREENING_TOKENS = 32_768
"""Counted tokens, of the proposing half, that are asked about every single expert: an answer only has to promise."""
MIN_BLOCKS = 4
"""Two a half: one alone would have no standard error to check a swap by."""
TURNS = 2
"""Either half proposes once."""


@dataclass(frozen=True)
class Swap:
    """`gain`: by how much the weighted mean nll fell, nats a token, on the half that did not propose the swap."""

    layer: int
    add: int
    drop: int
    gain: float


def best_start(
    model: MoeModel, blocks: Blocks, starts: Mapping[str, KeepSets], *, weights: TokenWeights, batch_size: int
) -> str:
    """The name of the keep sets with the least nll on `blocks`; the first of equals."""

    def nll(name: str) -> float:
        with model.keeping(starts[name]):
            found = collected(model, blocks, batch_size=batch_size)
        return -float(np.mean(_weight_T(weights, found) * found.stats.logprob_T, dtype=np.float64))

    return min(starts, key=nll)


def can_refine(blocks: Blocks) -> bool:
    """Whether enough blocks count tokens."""
    return _counting(blocks).num_blocks >= MIN_BLOCKS


@dataclass(frozen=True)
class Refinement:
    """How far it has come: the keep sets, the swaps that made them, in order, and the layers that are done with, those
    of either turn counted."""

    keep: KeepSets
    swaps: tuple[Swap, ...] = ()
    layers: int = 0


def refinements(
    model: MoeModel,
    blocks: Blocks,
    begun: Refinement,
    *,
    pack_R: NDArray[np.integer],
    pack_excess: float,
    weights: TokenWeights,
    batch_size: int,
) -> Iterator[Refinement]:
    """How far it has come after every layer that `begun` is not done with. Any of these can be begun with.

    `pack_R` numbers the pack of every row from 0. `blocks` must be such that `can_refine`. Takes memory for the hidden
    states of all blocks, and up to 40 runs over half of them, through the layers from the one that is looked at on, for
    every layer of 32 experts, turn and swap.
    """
    blocks = _counting(blocks)
    middle = blocks.num_blocks // 2
    halves = blocks.reordered(np.arange(middle)), blocks.reordered(np.arange(middle, blocks.num_blocks))
    wholes = tuple(collected(model, half, batch_size=batch_size) for half in halves)
    keep, swaps, done = begun.keep, begun.swaps, begun.layers
    for turn in range(done // len(keep), TURNS):
        first, second = halves if turn == 0 else halves[::-1]
        whole = wholes if turn == 0 else wholes[::-1]
        begin = done % len(keep)
        proposing, checking = (_Part(model, half, keep, begin, weights, batch_size) for half in (first, second))
        few = _few(first)
        screening = proposing if few is first else _Part(model, few, keep, begin, weights, batch_size)
        parts = {screening, proposing, checking}
        for layer in range(begin, len(keep)):
            now = zip(whole, (proposing.now, checking.now), strict=True)
            weight_R = row_weights(now, pack_R, pack_excess=pack_excess)
            while swap := _best_swap(layer, keep[layer], weight_R, screening, proposing, checking):
                swaps = (*swaps, swap)
                keep = replaced(keep, layer, _swapped(keep[layer], swap.add, swap.drop))
                for part in parts:
                    part.move_to(keep, layer)
            for part in parts:
                part.pass_layer(layer)
            done += 1
            yield Refinement(keep, swaps, done)


def _weight_T(weights: TokenWeights, found: Collection) -> NDArray[np.float64]:
    roles = found.roles
    return weights.of(roles.kind, found.token_T, roles.content)


def _counting(blocks: Blocks) -> Blocks:
    return blocks.scoring(np.ones(blocks.num_scored, bool))


def _few(blocks: Blocks) -> Blocks:
    """Evenly spread blocks with SCREENING_TOKENS, all of them if there are no more."""
    share = SCREENING_TOKENS / blocks.num_scored
    if share >= 1:
        return blocks
    number = math.ceil(share * blocks.num_blocks)
    return blocks.reordered(np.arange(number) * blocks.num_blocks // number)


class _Part:
    """Some blocks under the keep sets as they are now, run up to the layer that is looked at."""

    def __init__(
        self, model: MoeModel, blocks: Blocks, keep: KeepSets, layer: int, weights: TokenWeights, batch_size: int
    ) -> None:
        self._weights = weights
        self._model, self._blocks, self._keep = model, blocks, keep
        self._prefix = embedded(model, blocks, batch_size=batch_size)
        self.num_experts = model.num_experts
        for before in range(layer):
            self.pass_layer(before)
        self.move_to(keep, layer)

    def move_to(self, keep: KeepSets, layer: int) -> None:
        """The keep sets change in `layer`, which the blocks have been run up to."""
        self._keep, self.now = keep, self._measured(keep, layer)
        self._weight_T = _weight_T(self._weights, self.now)

    def pass_layer(self, layer: int) -> None:
        with self._model.keeping(self._keep):
            self._prefix = through_layer(self._model, layer, self._prefix)

    def loss(self, layer: int, kept: list[int], weight_R: NDArray[np.float64]) -> Estimate:
        """By how much the weighted mean nll rises, nats a token, when `layer` keeps `kept` instead."""
        other = self._measured(replaced(self._keep, layer, kept), layer)
        return nll_increase(self.now, other, weight_R[self.now.row_T] * self._weight_T)

    def _measured(self, keep: KeepSets, layer: int) -> Collection:
        with self._model.keeping(keep):
            return collected_after(self._model, layer, self._prefix, self._blocks)


def _best_swap(
    layer: int,
    kept: list[int],
    weight_R: NDArray[np.float64],
    screening: _Part,
    proposing: _Part,
    checking: _Part,
) -> Swap | None:
    dropped = sorted(set(range(screening.num_experts)) - set(kept))
    with_E = {e: screening.loss(layer, sorted([*kept, e]), weight_R).value for e in dropped}
    without_E = {e: screening.loss(layer, [k for k in kept if k != e], weight_R).value for e in kept}
    promising = nsmallest(CHECKED, product(dropped, kept), key=lambda pair: with_E[pair[0]] + without_E[pair[1]])
    found = list(_holding(layer, kept, weight_R, promising, proposing, checking))
    return min(found, key=lambda both: both[0])[1] if found else None


def _holding(
    layer: int,
    kept: list[int],
    weight_R: NDArray[np.float64],
    pairs: list[tuple[int, int]],
    proposing: _Part,
    checking: _Part,
) -> Iterator[tuple[float, Swap]]:
    """The swaps that hold on both halves, with the sum of what they change there."""
    for add, drop in pairs:
        proposed = proposing.loss(layer, _swapped(kept, add, drop), weight_R).value
        if proposed < 0:
            checked = checking.loss(layer, _swapped(kept, add, drop), weight_R)
            if checked.value < -checked.standard_error:
                yield proposed + checked.value, Swap(layer, add, drop, -checked.value)


def _swapped(kept: list[int], add: int, drop: int) -> list[int]:
    return sorted({*kept, add} - {drop})
