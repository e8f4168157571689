"""Greedy elimination with reroute: keep sets that change the output of every layer least.

Layer by layer, the experts whose removal changes the mixture's output least (squared error, weighted by token) are
dropped one at a time under the exact top-k softmax over the survivors; then single swaps until none helps. It is
sequential: a layer is judged on what the already pruned layers before it put out, and its target is what all of its
experts would have made of that. NAEE (arXiv 2402.14800) searches much the same objective exhaustively, which 20 of 32
experts are too many for.

Shapes: N positions of all blocks, T counted tokens, X positions looked at, E experts, D hidden size.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GptOssForCausalLM

from eaftgate.model.masking import keeping_experts
from eaftgate.packs.blocks import Blocks
from eaftgate.search.evaluate import BATCH_SIZE
from eaftgate.search.prefix import embedded, expert_inputs, through_layer
from eaftgate.search.reroute import eliminated, routed_tokens, swapped
from eaftgate.select.keep import KeepSets

MAX_POSITIONS = 65_536


def weighted_positions(
    blocks: Blocks, weight_T: NDArray[np.float64], *, context_weight: float, max_positions: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Flat positions to look at, ascending, and their weights, both [X].

    A position that predicts a counted token has that token's weight; a negative one would reward damage and counts as
    0. All others, which predictions depend on through attention, have `context_weight`. Positions of weight 0 are left
    out; of more than `max_positions`, so many are drawn by `seed`.
    """
    weight_N = np.full(blocks.counted_BS.size, context_weight)
    weight_N[np.flatnonzero(blocks.counted_BS) - 1] = np.maximum(weight_T, 0.0)
    position_X = np.flatnonzero(weight_N > 0)
    if len(position_X) > max_positions:
        position_X = np.sort(np.random.default_rng(seed).choice(position_X, max_positions, replace=False))
    return position_X, weight_N[position_X]


def greedy_keep_sets(
    model: GptOssForCausalLM,
    blocks: Blocks,
    weight_T: NDArray[np.float64],
    *,
    keep_n: int,
    core: Sequence[Sequence[int]] | None = None,
    context_weight: float = 0.0,
    max_positions: int = MAX_POSITIONS,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> KeepSets:
    """Keep sets from the positions of `weighted_positions`; experts `core[layer]` are always kept.

    Takes memory for the hidden states of all blocks and a Gram matrix of 4 * E^2 bytes a position looked at.
    """
    layers, experts = len(model.model.layers), model.config.num_local_experts
    device = model.lm_head.weight.device
    position_X, weight_X = weighted_positions(
        blocks, weight_T, context_weight=context_weight, max_positions=max_positions, seed=seed
    )
    prefix = embedded(model, blocks, batch_size=batch_size)
    keep: KeepSets = []
    for layer in range(layers):
        hidden_XD = expert_inputs(model, layer, prefix, position_X)
        routed = routed_tokens(model.model.layers[layer].mlp, hidden_XD, torch.from_numpy(weight_X))
        core_E = torch.zeros(experts, dtype=torch.bool, device=device)
        core_E[[] if core is None else list(core[layer])] = True
        kept_E = swapped(routed, eliminated(routed, keep_n, core_E), core_E)
        keep.append(kept_E.nonzero().flatten().tolist())
        with keeping_experts(model, [*keep, *[range(experts)] * (layers - layer - 1)]):
            prefix = through_layer(model, layer, prefix)
        if progress is not None:
            progress(layer + 1, layers)
    return keep
