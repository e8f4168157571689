"""Refinement: the best of several selections, with an expert swapped wherever the pruned model predicts better for it.

The calibration blocks are cut into two halves. On one, layer by layer, it is measured what putting back each dropped
expert wins and what dropping each kept one loses; the swaps with the best sums are then measured on the other half,
too, and the best one is made if the loss falls on both, on the other by more than its standard error; again, until none
does. Then the halves change roles, once. So no swap is accepted by the tokens that proposed it alone: swaps that were
fitted the calibration blocks' noise and lost on others (docs/selection.md).

The loss is the nll of the tokens themselves, which is what the gate looks at, not a distance from the whole model.
Tokens of a pack that loses more than all tokens do weigh more (eaftgate.search.objective), as much more as it loses
under the keep sets that a layer is begun with.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from itertools import product

import numpy as np
from numpy.typing import NDArray
from transformers import GptOssForCausalLM

from eaftgate.collect.collection import Collection
from eaftgate.model.masking import keeping_experts
from eaftgate.packs.blocks import Blocks
from eaftgate.parity.clusters import Estimate
from eaftgate.search.evaluate import collected, collected_after, nll_increase
from eaftgate.search.objective import pack_losses
from eaftgate.search.prefix import embedded, through_layer
from eaftgate.select.keep import KeepSets, replaced

CHECKED = 4
"""Of the swaps in a layer, so many that promise most are measured."""
SCREENING_TOKENS = 16_384
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
    model: GptOssForCausalLM,
    blocks: Blocks,
    starts: Mapping[str, KeepSets],
    *,
    pack_R: NDArray[np.integer],
    batch_size: int,
) -> str:
    """The name of the keep sets with the least objective on `blocks`; the first of equals. `pack_R` numbers the pack of
    every row from 0."""
    base = collected(model, blocks, batch_size=batch_size)

    def objective(name: str) -> float:
        with keeping_experts(model, starts[name]):
            return pack_losses([(base, collected(model, blocks, batch_size=batch_size))], pack_R).objective

    return min(starts, key=objective)


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
    model: GptOssForCausalLM, blocks: Blocks, begun: Refinement, *, pack_R: NDArray[np.integer], batch_size: int
) -> Iterator[Refinement]:
    """How far it has come after every layer that `begun` is not done with. Any of these can be begun with.

    `pack_R` numbers the pack of every row from 0. `blocks` must be such that `can_refine`. Takes memory for the hidden
    states of all blocks, and up to 40 runs over half of them, through the layers from the one that is looked at on, for
    every layer of 32 experts, turn and swap.
    """
    blocks = _counting(blocks)
    middle = blocks.num_blocks // 2
    halves = blocks.reordered(np.arange(middle)), blocks.reordered(np.arange(middle, blocks.num_blocks))
    keep, swaps, done = begun.keep, begun.swaps, begun.layers
    for turn in range(done // len(keep), TURNS):
        first, second = halves if turn == 0 else halves[::-1]
        begin = done % len(keep)
        proposing, checking = (_Part(model, half, keep, begin, pack_R, batch_size) for half in (first, second))
        few = _few(first)
        screening = proposing if few is first else _Part(model, few, keep, begin, pack_R, batch_size)
        parts = {screening, proposing, checking}
        for layer in range(begin, len(keep)):
            weight_P = pack_losses((part.whole_and_now for part in (proposing, checking)), pack_R).weight_P
            for part in parts:
                part.weigh(weight_P)
            while swap := _best_swap(layer, keep[layer], screening, proposing, checking):
                swaps = (*swaps, swap)
                keep = replaced(keep, layer, _swapped(keep[layer], swap.add, swap.drop))
                for part in parts:
                    part.move_to(keep, layer)
            for part in parts:
                part.pass_layer(layer)
            done += 1
            yield Refinement(keep, swaps, done)


def _counting(blocks: Blocks) -> Blocks:
    return blocks.counting(np.ones(blocks.num_counted, bool))


def _few(blocks: Blocks) -> Blocks:
    """Evenly spread blocks with SCREENING_TOKENS, all of them if there are no more."""
    share = SCREENING_TOKENS / blocks.num_counted
    if share >= 1:
        return blocks
    number = math.ceil(share * blocks.num_blocks)
    return blocks.reordered(np.arange(number) * blocks.num_blocks // number)


class _Part:
    """Some blocks under the keep sets as they are now, run up to the layer that is looked at."""

    def __init__(
        self,
        model: GptOssForCausalLM,
        blocks: Blocks,
        keep: KeepSets,
        layer: int,
        pack_R: NDArray[np.integer],
        batch_size: int,
    ) -> None:
        self._model, self._blocks, self._keep = model, blocks, keep
        self._whole = collected(model, blocks, batch_size=batch_size)
        self._pack_T = pack_R[self._whole.row_T]
        self._prefix = embedded(model, blocks, batch_size=batch_size)
        self.num_experts: int = model.config.num_local_experts
        for before in range(layer):
            self.pass_layer(before)
        self.move_to(keep, layer)

    def move_to(self, keep: KeepSets, layer: int) -> None:
        """The keep sets change in `layer`, which the blocks have been run up to."""
        self._keep, self._now = keep, self._measured(keep, layer)

    def pass_layer(self, layer: int) -> None:
        with keeping_experts(self._model, self._keep):
            self._prefix = through_layer(self._model, layer, self._prefix)

    @property
    def whole_and_now(self) -> tuple[Collection, Collection]:
        return self._whole, self._now

    def weigh(self, weight_P: NDArray[np.float64]) -> None:
        """What a token of each pack counts from now on."""
        self._weight_T = weight_P[self._pack_T]

    def loss(self, layer: int, kept: list[int]) -> Estimate:
        """By how much the weighted mean nll rises, nats a token, when `layer` keeps `kept` instead."""
        return nll_increase(self._now, self._measured(replaced(self._keep, layer, kept), layer), self._weight_T)

    def _measured(self, keep: KeepSets, layer: int) -> Collection:
        with keeping_experts(self._model, keep):
            return collected_after(self._model, layer, self._prefix, self._blocks)


def _best_swap(layer: int, kept: list[int], screening: _Part, proposing: _Part, checking: _Part) -> Swap | None:
    dropped = sorted(set(range(screening.num_experts)) - set(kept))
    with_E = {e: screening.loss(layer, sorted([*kept, e])).value for e in dropped}
    without_E = {e: screening.loss(layer, [k for k in kept if k != e]).value for e in kept}
    promising = nsmallest(CHECKED, product(dropped, kept), key=lambda pair: with_E[pair[0]] + without_E[pair[1]])
    found = list(_holding(layer, kept, promising, proposing, checking))
    return min(found, key=lambda both: both[0])[1] if found else None


def _holding(
    layer: int, kept: list[int], pairs: list[tuple[int, int]], proposing: _Part, checking: _Part
) -> Iterator[tuple[float, Swap]]:
    """The swaps that hold on both halves, with the sum of what they change there."""
    for add, drop in pairs:
        proposed = proposing.loss(layer, _swapped(kept, add, drop)).value
        if proposed < 0:
            checked = checking.loss(layer, _swapped(kept, add, drop))
            if checked.value < -checked.standard_error:
                yield proposed + checked.value, Swap(layer, add, drop, -checked.value)


def _swapped(kept: list[int], add: int, drop: int) -> list[int]:
    return sorted({*kept, add} - {drop})
