"""Refinement: experts swapped wherever the pruned model then loses less of what the gate judges.

The calibration blocks are cut into two halves. In every layer, on a few blocks of one half, it is measured what putting
back each dropped expert wins and dropping each kept one loses, whose sums foretell all swaps (correlation 0.99,
docs/log/2026-11-26-selection.md), and what keeping there what other good starts keep does. Where a layer keeps as many
as a token is routed to, every swap is measured: with one fewer it is another mixture. What promises most is
measured on more and more of the half (successive halving, arXiv 1502.07943), and the best of it on the other. One is
made if the loss (eaftgate.search.objective) falls on both, on the whole other half by more than its standard error;
again, until none is. So no swap is accepted by the tokens that proposed it alone: swaps that were fitted to the
calibration blocks' noise lost on others.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest

import numpy as np
from numpy.typing import NDArray

from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks
from eaftgate.search.evaluate import referred
from eaftgate.search.half import Half
from eaftgate.search.objective import Objective, gated_margins
from eaftgate.search.parts import DOUBTED, STAGES, TURNS
from eaftgate.select.keep import KeepSets, replaced

OTHERS = 8
"""The best starts, of which a layer may take what they keep there."""
FINALISTS = 3
"""So many starts are measured on the last stage's part, after all were on that of the stage before; so many by messages
and tokens, because tokens alone do not tell what loses the calls, and by tokens alone, because messages are few."""
MIN_BLOCKS = 4
"""Two a half: one alone would have no standard error to check a swap by."""

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


def lack_of_blocks(blocks: Blocks) -> str:
    """Says that too few blocks score tokens, where that is so, and what to do."""
    scored = len(_scored(blocks))
    if scored >= MIN_BLOCKS:
        return ""
    return (
        f"refined needs {MIN_BLOCKS} calibration blocks with answers, and has {scored}: profile more rows "
        "(--num-rows), or in shorter blocks (--seq-len)"
    )


def halves_of(model: MoeModel, blocks: Blocks, pack_R: NDArray[np.integer], *, batch_size: int) -> tuple[Half, Half]:
    """`blocks` must not lack any (`lack_of_blocks`); one without a scored token is in neither. `pack_R` numbers the
    pack of every row from 0."""
    blocks = blocks.reordered(_scored(blocks))
    whole = Objective(blocks, referred(model, blocks, batch_size=batch_size), pack_R, gated_margins())
    halves = np.split(np.arange(blocks.num_blocks), [blocks.num_blocks // 2])
    first, second = (Half(model, whole.of_blocks(half), batch_size=batch_size) for half in halves)
    return first, second


def _scored(blocks: Blocks) -> NDArray[np.intp]:
    """The blocks with a scored token: long prompts fill whole ones."""
    return np.flatnonzero(blocks.scored_BS.any(axis=1))


def ranked_starts(
    halves: tuple[Half, Half], starts: Mapping[str, KeepSets], *, progress: Callable[[float], None] = lambda _: None
) -> list[str]:
    """Their names, what loses least first: on a part of both halves, and on a larger one the FINALISTS by that, with
    those by the tokens alone. `progress` gets the share that is done, where the two choose the same FINALISTS."""
    *_, (some, _), (most, _) = STAGES
    measured, expected = 0.0, len(starts) * some + FINALISTS * most

    def ranked(names: Iterable[str], share: float, *, messages: bool = True) -> list[str]:
        nonlocal measured
        losses = {}
        for name in names:
            losses[name] = sum(half.loss(starts[name], share, messages=messages) for half in halves)
            measured += share if messages else 0  # else what was measured before is looked at
            progress(min(measured / expected, 1))
        return sorted(losses, key=losses.__getitem__)

    for half in halves:
        half.begin(some, most)
    found = ranked(starts, some)
    finalists = dict.fromkeys([*found[:FINALISTS], *ranked(found, some, messages=False)[:FINALISTS]])
    found = [*ranked(finalists, most), *(name for name in found if name not in finalists)]
    for half in halves:
        half.forget_all_but(starts[found[0]])
    return found


def layers_of(starts: Sequence[KeepSets]) -> Layers:
    """By layer, what they keep there, each once."""
    return [[list(kept) for kept in dict.fromkeys(map(tuple, of_layer))] for of_layer in zip(*starts, strict=True)]


def refinements(halves: tuple[Half, Half], others: Layers, begun: Refinement) -> Iterator[Refinement]:
    """`begun`, once it is come to, and how far it has come after every layer that it is not done with. Any of these can
    be begun with; with the last there is nothing to do. `others` are what other starts keep.

    Takes memory for the hidden states of all blocks, once and for those of a layer on the way.
    """
    keep, swaps, done = begun.keep, begun.swaps, begun.layers
    for turn in range(done // len(keep), TURNS):
        proposing, checking = halves if turn == 0 else halves[::-1]
        proposing.begin(*(share for share, _ in STAGES))
        checking.begin(DOUBTED, 1)
        for layer in range(len(keep)):
            if turn * len(keep) + layer == begun.layers:
                yield begun
            if turn * len(keep) + layer >= begun.layers:
                while found := _best_move(layer, keep, others[layer], proposing, checking):
                    kept, gain = found
                    swaps = (*swaps, _swap(layer, keep[layer], kept, gain))
                    keep = replaced(keep, layer, kept)
                for half in halves:
                    half.forget_all_but(keep)
                done += 1
                yield Refinement(keep, swaps, done)
            if layer < len(keep) - 1:
                for half in halves:
                    half.pass_layer(keep)


def _best_move(
    layer: int, keep: KeepSets, others: list[list[int]], proposing: Half, checking: Half
) -> tuple[list[int], float] | None:
    """What the layer had better keep, and by how much the loss falls on the half that checks."""

    def fall(on: Half, kept: Iterable[int], share: float, *, messages: bool = True) -> float:
        other = replaced(keep, layer, sorted(kept))
        return on.loss(keep, share, messages=messages) - on.loss(other, share, messages=messages)

    (few, go_on), *stages = STAGES
    falls = _foretold(lambda kept: fall(proposing, kept, few, messages=False), keep[layer], others, proposing)
    for share, then_go_on in stages:
        falls = {move: fall(proposing, move, share) for move in _best(falls, go_on)}
        go_on = then_go_on
    for move in _best(falls, go_on):
        if fall(checking, move, DOUBTED) > 0:
            change = checking.change(keep, replaced(keep, layer, list(move)))
            if change.value < -change.standard_error:
                return list(move), -change.value
    return None


def _best(falls: Mapping[tuple[int, ...], float], number: int) -> list[tuple[int, ...]]:
    """Those by which the loss falls most, if it does."""
    return [move for move in nlargest(number, falls, key=falls.__getitem__) if falls[move] > 0]


def _foretold(
    fall: Callable[[Iterable[int]], float], kept: list[int], others: list[list[int]], on: Half
) -> dict[tuple[int, ...], float]:
    """By how much the loss falls if the layer keeps something else: of a swap the sum of what coming and going do, as
    long as enough are left without the one that goes."""
    swaps = {(add, drop): {*kept, add} - {drop} for add in range(on.num_experts) if add not in kept for drop in kept}
    if len(kept) > on.top_k:
        coming = {add: fall({*kept, add}) for add in {add for add, _ in swaps}}
        going = {drop: fall({*kept} - {drop}) for drop in kept}
        falls = {_kept(swap): coming[add] + going[drop] for (add, drop), swap in swaps.items()}
    else:
        falls = {_kept(swap): fall(swap) for swap in swaps.values()}
    return falls | {_kept(other): fall(other) for other in others if other != kept}


def _kept(experts: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(experts))


def _swap(layer: int, before: list[int], after: list[int], gain: float) -> Swap:
    added, dropped = (tuple(sorted({*one} - {*other})) for one, other in ((after, before), (before, after)))
    return Swap(layer, added, dropped, gain)
