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

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks
from eaftgate.search.prefix import embedded, through_layer_seeing
from eaftgate.search.reroute import eliminated, routed_tokens, swapped
from eaftgate.search.settings import BATCH_SIZE, MAX_POSITIONS
from eaftgate.select.keep import KeepSets


@dataclass(frozen=True)
class Sample:
    """Flat positions that a search looks at (block * seq_len + position), ascending, and their weights, above 0."""

    position_X: NDArray[np.intp]
    weight_X: NDArray[np.float64]


def sampled_positions(
    blocks: Blocks, weight_T: NDArray[np.float64], *, max_positions: int = MAX_POSITIONS, seed: int = 0
) -> Sample:
    """The positions that predict the counted tokens of `blocks`, with the weight of the token they predict.

    A negative weight would reward damage and counts as 0. Positions of weight 0 are left out; of more than
    `max_positions`, so many are drawn by `seed`. Positions that predict no counted token do not take part, although
    predictions depend on them through attention: experts specialise, and theirs would displace those of the answers.
    """
    weight_T = np.maximum(weight_T, 0.0)
    position_T = np.flatnonzero(blocks.scored_BS) - 1
    chosen_X = np.flatnonzero(weight_T > 0)
    if len(chosen_X) > max_positions:
        chosen_X = np.sort(np.random.default_rng(seed).choice(chosen_X, max_positions, replace=False))
    return Sample(position_T[chosen_X], weight_T[chosen_X])


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
    layers = len(model.moe_layers)
    prefix = embedded(model, blocks, batch_size=batch_size)
    keep: KeepSets = []
    for layer in range(layers):
        prefix, hidden_XD, norm_X = through_layer_seeing(model, layer, prefix, sample.position_X)
        weight_X = torch.from_numpy(sample.weight_X).to(norm_X) / norm_X
        routed = routed_tokens(model.moe(model.moe_layers[layer]), hidden_XD, weight_X, top_k=model.top_k)
        kept_E = swapped(routed, eliminated(routed, keep_n))
        keep.append(kept_E.nonzero().flatten().tolist())
        if progress is not None:
            progress(layer + 1, layers)
    return keep
