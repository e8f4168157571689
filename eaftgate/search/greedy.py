"""Greedy elimination with reroute: keep sets that change the output of every layer least.

Layer by layer, the experts whose removal changes the mixture's output least (squared error, weighted by token) are
dropped one at a time under the exact top-k softmax over the survivors; then single swaps until none helps. NAEE (arXiv
2402.14800) searches much the same objective exhaustively, which 20 of 32 experts are too many for.

What a layer is given and what it should make of that is a choice (FOLLOW):

    whole   what the whole model gives it, and what all of its experts make of that: layers are independent
    pruned  what the pruned layers before it give it, and what all of its experts would make of that
    stream  what the pruned layers before it give it, and what leaves the layer in the whole model: an error that is
            already there counts, and may be made good

Shapes: T counted tokens, X positions looked at, E experts, D hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GptOssForCausalLM

from eaftgate.model.masking import keeping_experts
from eaftgate.packs.blocks import Blocks
from eaftgate.search.evaluate import BATCH_SIZE
from eaftgate.search.prefix import Prefix, embedded, expert_inputs, states_at, through_layer
from eaftgate.search.reroute import RoutedTokens, eliminated, routed_tokens, swapped
from eaftgate.select.keep import KeepSets

MAX_POSITIONS = 65_536
Follow = Literal["whole", "pruned", "stream"]
FOLLOW: tuple[Follow, ...] = get_args(Follow)


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
    position_T = np.flatnonzero(blocks.counted_BS) - 1
    chosen_X = np.flatnonzero(weight_T > 0)
    if len(chosen_X) > max_positions:
        chosen_X = np.sort(np.random.default_rng(seed).choice(chosen_X, max_positions, replace=False))
    return Sample(position_T[chosen_X], weight_T[chosen_X])


def greedy_keep_sets(
    model: GptOssForCausalLM,
    blocks: Blocks,
    sample: Sample,
    *,
    keep_n: int,
    core: Sequence[Sequence[int]] | None = None,
    follow: Follow = "whole",
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> KeepSets:
    """The keep sets that change the layers' outputs least at `sample`, positions of `blocks`; experts `core[layer]` are
    always kept.

    Takes memory for the hidden states of all blocks (twice for `stream`) and a Gram matrix of 4 * E^2 bytes a sampled
    position.
    """
    layers, experts = len(model.model.layers), model.config.num_local_experts
    whole = pruned = embedded(model, blocks, batch_size=batch_size)
    keep: KeepSets = []
    for layer in range(layers):
        offset_XD = None
        if follow == "stream":
            whole = through_layer(model, layer, whole)
            unpruned = through_layer(model, layer, pruned)
            offset_XD = states_at(unpruned, sample.position_X).float() - states_at(whole, sample.position_X).float()
        routed = routed_in_layer(model, layer, pruned, sample, offset_XD)
        core_E = expert_mask(model, [] if core is None else core[layer])
        kept_E = swapped(routed, eliminated(routed, keep_n, core_E), core_E)
        keep.append(kept_E.nonzero().flatten().tolist())
        given = [range(experts)] * layers if follow == "whole" else [*keep, *[range(experts)] * (layers - layer - 1)]
        with keeping_experts(model, given):
            pruned = through_layer(model, layer, pruned)
        if progress is not None:
            progress(layer + 1, layers)
    return keep


def routed_in_layer(
    model: GptOssForCausalLM, layer: int, prefix: Prefix, sample: Sample, offset_XD: torch.Tensor | None = None
) -> RoutedTokens:
    """What all experts of a layer make of the sampled positions after `prefix`; the layer must not be masked."""
    hidden_XD = expert_inputs(model, layer, prefix, sample.position_X)
    return routed_tokens(model.model.layers[layer].mlp, hidden_XD, torch.from_numpy(sample.weight_X), offset_XD)


def expert_mask(model: GptOssForCausalLM, experts: Sequence[int]) -> torch.Tensor:
    """A mask over a layer's experts, on the model's device."""
    mask_E = torch.zeros(model.config.num_local_experts, dtype=torch.bool)
    mask_E[list(experts)] = True
    return mask_E.to(model.lm_head.weight.device)
