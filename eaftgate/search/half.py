"""What the model says of a half of the calibration blocks under one keep set after another, and nothing of it twice.

The blocks are put into an order whose beginnings are the parts that are asked about, so that a part is measured by what
was not measured of it before. What layers that no question is about make of the blocks is kept as well.
"""

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks
from eaftgate.parity.clusters import Estimate
from eaftgate.search.evaluate import predicted_after
from eaftgate.search.objective import Objective, Predictions
from eaftgate.search.prefix import Prefix, embedded, through_layer
from eaftgate.select.keep import KeepSets

FEWEST_TOKENS = 2_048
"""Scored tokens of a part."""


def part_sizes(blocks: Blocks, shares: Iterable[float]) -> dict[float, int]:
    """How many blocks of a half the part is that is such a share of it, descending."""
    fewest = FEWEST_TOKENS / blocks.num_scored
    return {share: math.ceil(min(max(share, fewest), 1) * blocks.num_blocks) for share in sorted(shares, reverse=True)}


def nested_order(sizes: Iterable[int]) -> NDArray[np.intp]:
    """Of as many blocks as the first size says: the first ones, as many as any of the sizes, which descend, are spread
    evenly over those of the size before."""
    part, rings = np.arange(0), []
    for size in sizes:
        larger, part = part, (part[np.arange(size) * len(part) // size] if len(part) else np.arange(size))
        rings.append(np.setdiff1d(larger, part))
    return np.concatenate([part, *reversed(rings)])


_Key = tuple[tuple[int, ...], ...]
_NOTHING = Predictions(np.zeros(0), np.zeros(0, bool))


class Half:
    """`whole` is on blocks in `nested_order` of the `sizes` of its parts.

    Holds the hidden states that enter the layer that was come to, of as many blocks as were begun with.
    """

    def __init__(self, model: MoeModel, whole: Objective, sizes: Mapping[float, int], *, batch_size: int) -> None:
        self._model, self._whole, self._sizes, self._batch_size = model, whole, sizes, batch_size
        self._end_B = np.concatenate([[0], np.cumsum(whole.blocks.scored_BS.sum(axis=1))])
        self._layer = 0
        self._states: tuple[Tensor, ...] = ()
        self._known: dict[_Key, Predictions] = {}
        self._slices: dict[tuple[int, int], Objective] = {}

    @property
    def num_experts(self) -> int:
        return self._model.num_experts

    def begin(self, share: float) -> None:
        """Before the first layer, to be asked about no larger part than that."""
        ends = sorted({0, *(size for size in self._sizes.values() if size <= self._sizes[share])})
        rings = [self._slice(begin, end).blocks for begin, end in pairwise(ends)]
        prefixes = [embedded(self._model, ring, batch_size=self._batch_size) for ring in rings]
        self._layer, self._states = 0, tuple(states for prefix in prefixes for states in prefix.states)

    def pass_layer(self, keep: KeepSets) -> None:
        """On to the next one. From then on only keep sets may be asked about that are `keep` in those passed."""
        with self._model.keeping(keep):
            self._states = through_layer(self._model, self._layer, Prefix(self._states)).states
        self._layer += 1

    def forget_all_but(self, keep: KeepSets) -> None:
        """What was measured under other keep sets."""
        self._known = {key: found for key, found in self._known.items() if key == _key(keep)}

    def part(self, share: float) -> Objective:
        return self._slice(0, self._sizes[share])

    def loss(self, keep: KeepSets, share: float, *, messages: bool = True) -> float:
        """Of the model under `keep`, on that part."""
        return self.part(share).loss(self.predictions(keep, share), messages=messages)

    def change(self, keep: KeepSets, other: KeepSets) -> Estimate:
        """By how much the loss on all of the half is larger under `other`."""
        return self.part(1).change(self.predictions(keep, 1), self.predictions(other, 1))

    def predictions(self, keep: KeepSets, share: float) -> Predictions:
        """What the model says of that part under `keep`."""
        size = self._sizes[share]
        known = self._known.get(_key(keep), _NOTHING)
        done = int(np.searchsorted(self._end_B, len(known.first_T)))
        if done < size:
            known = self._known[_key(keep)] = known.followed_by(self._measured(keep, done, size))
        return known.at(slice(self._end_B[size]))

    def _measured(self, keep: KeepSets, begin: int, end: int) -> Predictions:
        on = self._slice(begin, end)
        ends = np.cumsum([len(states) for states in self._states])
        there = slice(*np.searchsorted(ends, (begin, end), side="right"))
        with self._model.keeping(keep):
            return predicted_after(self._model, self._layer, Prefix(self._states[there]), on.blocks, on.base)

    def _slice(self, begin: int, end: int) -> Objective:
        if (begin, end) not in self._slices:
            self._slices[begin, end] = self._whole.of_blocks(np.arange(begin, end))
        return self._slices[begin, end]


def _key(keep: KeepSets) -> _Key:
    return tuple(map(tuple, keep))
