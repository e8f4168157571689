"""Refinement: experts swapped wherever the pruned model then loses less of what the gate judges.

The calibration blocks are cut into two halves. In every layer, on a few blocks of one half, it is measured what putting
back each dropped expert wins and dropping each kept one loses, whose sums foretell all swaps (correlation 0.99,
docs/log/2026-11-26-selection.md), and what keeping there what other good starts keep does. What promises most is
measured on more and more of the half (successive halving, arXiv 1502.07943), and the best of it on the other. One is
made if the loss (eaftgate.search.objective) falls on both, on the whole other half by more than its standard error;
again, until none is. So no swap is accepted by the tokens that proposed it alone: swaps that were fitted to the
calibration blocks' noise lost on others.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest

import numpy as np
from numpy.typing import NDArray

from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks
from eaftgate.search.evaluate import predicted, predicted_after, referred
from eaftgate.search.objective import Objective, Predictions, gated_margins
from eaftgate.search.prefix import embedded, through_layer
from eaftgate.select.keep import KeepSets, replaced

OTHERS = 8
"""The best starts, of which a layer may take what they keep there."""
STAGES = ((1 / 32, 8), (1 / 8, 3), (1 / 2, 1))
"""Of one half, on which part of the blocks is measured, and how many of a layer's swaps go on from there."""
DOUBTED = 1 / 4
"""The part of the other half on which a move must lower the loss before it is measured on all of that."""
FEWEST_TOKENS = 2_048
"""Scored tokens of a part."""
FINALISTS = 3
"""So many starts are measured on the last stage's part, after all were on that of the stage before, where the messages
are counted already: tokens alone do not tell what loses the calls."""
MIN_BLOCKS = 4
"""Two a half: one alone would have no standard error to check a swap by."""
TURNS = 2
"""Either half proposes once."""

Layers = list[list[list[int]]]
"""By layer, several sets of experts that it may keep."""


@dataclass(frozen=True)
class Swap:
    """Of as many experts as came, `add`, for as many that went, `drop`. `gain`: by how much the loss fell on the half
    that did not propose the swap."""

    layer: int
    add: tuple[int, ...]
    drop: tuple[int, ...]
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


def _part_of(half: Objective, share: float) -> Objective:
    """On evenly spread blocks."""
    blocks = half.blocks
    number = math.ceil(min(max(share, FEWEST_TOKENS / blocks.num_scored), 1) * blocks.num_blocks)
    return half.of_blocks(np.arange(number) * blocks.num_blocks // number)


def ranked_starts(
    model: MoeModel, halves: tuple[Objective, Objective], starts: Mapping[str, KeepSets], *, batch_size: int
) -> list[str]:
    """Their names, what loses least first: on a part of both halves, and the FINALISTS on a larger one."""

    def ranked(names: Iterable[str], share: float) -> list[str]:
        parts = [_part_of(half, share) for half in halves]
        losses = {name: sum(loss(name, part) for part in parts) for name in names}
        return sorted(losses, key=losses.__getitem__)

    def loss(name: str, on: Objective) -> float:
        with model.keeping(starts[name]):
            return on.loss(predicted(model, on.blocks, on.base, batch_size=batch_size))

    *_, (some, _), (most, _) = STAGES
    found = ranked(starts, some)
    return [*ranked(found[:FINALISTS], most), *found[FINALISTS:]]


def layers_of(starts: Sequence[KeepSets]) -> Layers:
    """By layer, what they keep there, each once."""
    return [[list(kept) for kept in dict.fromkeys(map(tuple, of_layer))] for of_layer in zip(*starts, strict=True)]


def refinements(
    model: MoeModel, halves: tuple[Objective, Objective], others: Layers, begun: Refinement, *, batch_size: int
) -> Iterator[Refinement]:
    """How far it has come after every layer that `begun` is not done with. Any of these can be begun with. `others` are
    what other starts keep.

    Takes memory for the hidden states of all blocks, once and for those of a layer on the way.
    """
    keep, swaps, done = begun.keep, begun.swaps, begun.layers
    for turn in range(done // len(keep), TURNS):
        begin = done % len(keep)
        first, second = halves if turn == 0 else halves[::-1]
        sizes = [_part_of(first, share) for share, _ in STAGES], [_part_of(second, DOUBTED), second]
        stages, checks = ([_Part(model, part, keep, begin, batch_size) for part in half] for half in sizes)
        for layer in range(begin, len(keep)):
            while found := _best_move(layer, keep[layer], others[layer], stages, checks):
                kept, gain = found
                swaps = (*swaps, _swap(layer, keep[layer], kept, gain))
                keep = replaced(keep, layer, kept)
                for part in (*stages, *checks):
                    part.move_to(keep, layer)
            for part in (*stages, *checks):
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

    @property
    def num_experts(self) -> int:
        return self._model.num_experts

    def fall(self, layer: int, kept: list[int], *, messages: bool) -> float:
        """Of the loss, then."""
        loss = self.objective.loss
        return loss(self.now, messages=messages) - loss(self.having(layer, kept), messages=messages)

    def _measured(self, keep: KeepSets, layer: int) -> Predictions:
        with self._model.keeping(keep):
            return predicted_after(self._model, layer, self._prefix, self.objective.blocks, self.objective.base)


def _best_move(
    layer: int, kept: list[int], others: list[list[int]], stages: Sequence[_Part], checks: Sequence[_Part]
) -> tuple[list[int], float] | None:
    """What the layer had better keep, and by how much the loss falls on the half that checks."""
    falls = _foretold(stages[0], layer, kept, others)
    for (_, go_on), part in zip(STAGES[:-1], stages[1:], strict=True):
        falls = {move: part.fall(layer, list(move), messages=True) for move in _best(falls, go_on)}
    doubting, checking = checks
    for move in map(list, _best(falls, STAGES[-1][1])):
        if doubting.fall(layer, move, messages=True) > 0:
            change = checking.objective.change(checking.now, checking.having(layer, move))
            if change.value < -change.standard_error:
                return move, -change.value
    return None


def _best(falls: Mapping[tuple[int, ...], float], number: int) -> list[tuple[int, ...]]:
    """Those by which the loss falls most, if it does."""
    return [move for move in nlargest(number, falls, key=falls.__getitem__) if falls[move] > 0]


def _foretold(part: _Part, layer: int, kept: list[int], others: list[list[int]]) -> dict[tuple[int, ...], float]:
    """By how much the loss falls if the layer keeps something else: of a swap the sum of what coming and going do."""

    def fall(move: Iterable[int]) -> float:
        return part.fall(layer, sorted(move), messages=False)

    coming = {add: fall({*kept, add}) for add in range(part.num_experts) if add not in kept}
    going = {drop: fall({*kept} - {drop}) for drop in kept}
    swaps = {tuple(sorted({*kept, add} - {drop})): coming[add] + going[drop] for add in coming for drop in going}
    return swaps | {tuple(other): fall(other) for other in others if other != kept}


def _swap(layer: int, before: list[int], after: list[int], gain: float) -> Swap:
    added, dropped = (tuple(sorted({*one} - {*other})) for one, other in ((after, before), (before, after)))
    return Swap(layer, added, dropped, gain)
