"""Greedy elimination with reroute: keep sets that change the output of every layer least.

In every layer, the experts whose removal changes the mixture's output least are dropped one at a time under the exact
top-k softmax over the survivors; then single swaps until none helps. NAEE (arXiv 2402.14800) searches much the same
objective exhaustively, which 20 of 32 experts are too many for.

A token's squared error is divided by the length of what leaves the layer there: everything that reads it normalises it,
so that an error weighs less in a longer vector. Undivided, a few long tokens decide (docs/log/2026-11-26-selection.md).

Layers are independent: each is given what the whole model gives it. Giving it what the pruned layers before it put out
lost no less (docs/log/2026-11-26-selection.md).

Shapes: T counted tokens, X positions looked at, E experts, D hidden size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks
from eaftgate.search.prefix import embedded, through_layer_seeing
from eaftgate.search.reroute import Errors, RoutedTokens, eliminated, routed_tokens, swapped
from eaftgate.search.settings import BATCH_SIZE, MAX_POSITIONS
from eaftgate.select.keep import KeepSets


@dataclass(frozen=True)
class Sample:
    """Flat positions that a search looks at (block * seq_len + position), ascending, and their weights, from 0.

    Positions that predict no scored token do not take part, although predictions depend on them through attention:
    experts specialise, and theirs would displace those of the answers.
    """

    position_X: NDArray[np.intp]
    weight_X: NDArray[np.float64]


def spread_positions(
    kind_T: NDArray[np.integer], *, max_positions: int = MAX_POSITIONS, seed: int = 0
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Which scored tokens a search looks at for several weights, ascending, and how many each stands for.

    Every class of `kind_T` gets an equal share of `max_positions`, small ones as much as they have, so that the calls
    are not lost among the answers.
    """
    rng = np.random.default_rng(seed)
    chosen, stands_for, left = [], [], max_positions
    kinds, counts = np.unique(kind_T, return_counts=True)
    for done, place in enumerate(np.argsort(counts, kind="stable")):
        number = min(counts[place], left // (len(kinds) - done))
        of_kind_X = np.flatnonzero(kind_T == kinds[place])
        chosen.append(rng.choice(of_kind_X, number, replace=False) if number < counts[place] else of_kind_X)
        stands_for.append(np.full(number, counts[place] / max(number, 1)))
        left -= number
    order = np.argsort(np.concatenate(chosen))
    return np.concatenate(chosen)[order], np.concatenate(stands_for)[order]


def greedy_keep_sets(
    model: MoeModel,
    blocks: Blocks,
    sample: Sample,
    *,
    keep_n: int,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> KeepSets:
    """The keep sets that change the layers' outputs least at `sample`, positions of `blocks`.

    Takes memory for the hidden states of all blocks and a Gram matrix of 4 * E^2 bytes a sampled position.
    """
    at: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    return greedy_selections(model, blocks, {"": sample}, keep_n=keep_n, **at)[""]


def greedy_selections(
    model: MoeModel,
    blocks: Blocks,
    samples: Mapping[str, Sample],
    *,
    keep_n: int,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, KeepSets]:
    """The same for several samples of the same positions: the experts' outputs, which cost most, are shared, and so is
    what is asked of them more than once."""
    found: dict[str, KeepSets] = {name: [] for name in samples}
    layers, experts = len(model.moe_layers), model.num_experts
    for layer, routed in enumerate(_layers(model, blocks, list(samples.values()), batch_size=batch_size)):
        errors_without = cache(routed.errors_without)
        for number, name in enumerate(samples):
            by_these = _by_weighting(errors_without, number)
            kept = swapped(by_these, experts, eliminated(by_these, experts, keep_n))
            found[name].append(sorted(kept))
        if progress is not None:
            progress(layer + 1, layers)
    return found


def _by_weighting(errors_without: Errors, number: int) -> Errors:
    return lambda kept: errors_without(kept)[number]


def _layers(model: MoeModel, blocks: Blocks, samples: Sequence[Sample], *, batch_size: int) -> Iterator[RoutedTokens]:
    """Every layer as the whole model runs it; a position weighs 1 over the length of what leaves the layer there, times
    its weight."""
    prefix = embedded(model, blocks, batch_size=batch_size)
    weight_WX = torch.from_numpy(np.stack([sample.weight_X for sample in samples]))
    for layer, place in enumerate(model.moe_layers):
        prefix, hidden_XD, norm_X = through_layer_seeing(model, layer, prefix, samples[0].position_X)
        yield routed_tokens(model.moe(place), hidden_XD, weight_WX.to(norm_X.device) / norm_X, top_k=model.top_k)
