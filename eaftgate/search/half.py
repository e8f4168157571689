"""What the model says of a half of the calibration blocks under one keep set after another, and nothing of it twice.

A block that was run under a keep set for one part of the half is not run again for another, nor is anything before the
layer that is looked at.
"""

import math

import numpy as np
from torch import Tensor, stack

from eaftgate.families.model import MoeModel
from eaftgate.parity.clusters import Estimate
from eaftgate.search.evaluate import predicted_after
from eaftgate.search.objective import Objective, Predictions
from eaftgate.search.parts import FEWEST_TOKENS
from eaftgate.search.prefix import Prefix, embedded, through_layer
from eaftgate.select.keep import KeepSets


class Half:
    """Parts of it are told by their share of `whole`, the half.

    Holds the hidden states that enter the layer that was come to, of the parts that were begun with.
    """

    def __init__(self, model: MoeModel, whole: Objective, *, batch_size: int) -> None:
        self._model, self._whole, self._batch_size = model, whole, batch_size
        self._layer = 0
        self._states: dict[int, Tensor] = {}
        self._known: dict[tuple[tuple[int, ...], ...], dict[int, Predictions]] = {}
        self._objectives: dict[tuple[int, ...], Objective] = {}

    @property
    def num_experts(self) -> int:
        return self._model.num_experts

    @property
    def top_k(self) -> int:
        return self._model.top_k

    def begin(self, *shares: float) -> None:
        """Before the first layer, to be asked about no other parts than these."""
        places = tuple(sorted({place for share in shares for place in self._places(share)}))
        entering = embedded(self._model, self._on(places).blocks, batch_size=self._batch_size)
        self._layer, self._states = 0, dict(zip(places, _each_block(entering), strict=True))

    def pass_layer(self, keep: KeepSets) -> None:
        """On to the next one. From then on only keep sets may be asked about that are `keep` in those passed."""
        with self._model.keeping(keep):
            for batch in self._batches(tuple(self._states)):
                left = through_layer(self._model, self._layer, Prefix((self._entering(batch),)))
                self._states |= dict(zip(batch, _each_block(left), strict=True))
        self._layer += 1

    def forget_all_but(self, keep: KeepSets) -> None:
        """What was measured under other keep sets."""
        self._known = {key: found for key, found in self._known.items() if key == _key(keep)}

    def part(self, share: float) -> Objective:
        """On evenly spread blocks."""
        return self._on(self._places(share))

    def loss(self, keep: KeepSets, share: float, *, messages: bool = True) -> float:
        """Of the model under `keep`, on that part."""
        return self.part(share).loss(self.predictions(keep, share), messages=messages)

    def change(self, keep: KeepSets, other: KeepSets) -> Estimate:
        """By how much the loss on all of the half is larger under `other`."""
        return self.part(1).change(self.predictions(keep, 1), self.predictions(other, 1))

    def predictions(self, keep: KeepSets, share: float) -> Predictions:
        """What the model says of that part under `keep`."""
        known, places = self._known.setdefault(_key(keep), {}), self._places(share)
        if missing := tuple(place for place in places if place not in known):
            known |= self._measured(keep, missing)
        return Predictions(
            np.concatenate([known[place].divergence_T for place in places]),
            np.concatenate([known[place].lead_T for place in places]),
        )

    def _measured(self, keep: KeepSets, places: tuple[int, ...]) -> dict[int, Predictions]:
        on = self._on(places)
        entering = (self._entering(batch) for batch in self._batches(places))
        with self._model.keeping(keep):
            found = predicted_after(self._model, self._layer, entering, on.blocks, on.base)
        ends = np.cumsum(on.blocks.scored_BS.sum(axis=1))[:-1]
        of_blocks = zip(np.split(found.divergence_T, ends), np.split(found.lead_T, ends), strict=True)
        return {place: Predictions(*of_block) for place, of_block in zip(places, of_blocks, strict=True)}

    def _places(self, share: float) -> tuple[int, ...]:
        blocks = self._whole.blocks
        number = math.ceil(min(max(share, FEWEST_TOKENS / blocks.num_scored), 1) * blocks.num_blocks)
        return tuple((np.arange(number) * blocks.num_blocks // number).tolist())

    def _on(self, places: tuple[int, ...]) -> Objective:
        if places not in self._objectives:
            self._objectives[places] = self._whole.of_blocks(np.array(places))
        return self._objectives[places]

    def _batches(self, places: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [places[start : start + self._batch_size] for start in range(0, len(places), self._batch_size)]

    def _entering(self, places: tuple[int, ...]) -> Tensor:
        return stack([self._states[place] for place in places])


def _each_block(prefix: Prefix) -> list[Tensor]:
    return [states_SD for states_BSD in prefix.states for states_SD in states_BSD]


def _key(keep: KeepSets) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, keep))
