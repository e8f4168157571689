"""Swap refinement: a kept expert is exchanged for a dropped one when the loss on calibration rows falls.

The error of a layer's output only stands in for the loss, so here it merely proposes: layer by layer, the swaps that
leave the smallest error are tried on the masked model. A try runs the layers from the swapped one on and the head,
because what enters that layer is known.

Shapes: T counted tokens, B blocks of a batch, S positions a block, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import GptOssForCausalLM

from eaftgate.collect.token_stats import token_stats
from eaftgate.model.masking import keeping_experts
from eaftgate.packs.blocks import Blocks
from eaftgate.search.evaluate import BATCH_SIZE
from eaftgate.search.greedy import Sample, expert_mask, routed_in_layer
from eaftgate.search.prefix import Prefix, embedded, through_layer
from eaftgate.search.reroute import after, swaps
from eaftgate.select.keep import KeepSets


@dataclass(frozen=True)
class Refinement:
    """Losses are means of -ln p over the counted tokens of the calibration blocks, nats."""

    keep: KeepSets
    loss_before: float
    loss: float
    tried: int
    accepted: int


def refined_keep_sets(
    model: GptOssForCausalLM,
    blocks: Blocks,
    sample: Sample,
    keep: Sequence[Sequence[int]],
    *,
    evaluations: int,
    core: Sequence[Sequence[int]] | None = None,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> Refinement:
    """`keep` after every swap that lowered the loss on `blocks`. At most `evaluations` are tried, spread evenly over
    the layers, in the order of the error they leave at `sample`. Experts `core[layer]` stay."""
    chosen = [list(kept) for kept in keep]
    prefix = embedded(model, blocks, batch_size=batch_size)
    before = loss = _loss(model, blocks, prefix, 0, chosen)
    tried = accepted = 0
    for layer in range(len(chosen)):
        routed = routed_in_layer(model, layer, prefix, sample)
        core_E = expert_mask(model, [] if core is None else core[layer])
        kept_E = expert_mask(model, chosen[layer])
        proposals = swaps(routed, kept_E, core_E)
        for _ in range(evaluations * (layer + 1) // len(chosen) - evaluations * layer // len(chosen)):
            if not proposals:
                break
            proposed_E = after(kept_E, proposals.pop(0))
            kept = proposed_E.nonzero().flatten().tolist()
            proposed = [*chosen[:layer], kept, *chosen[layer + 1 :]]
            proposed_loss = _loss(model, blocks, prefix, layer, proposed)
            tried += 1
            if proposed_loss < loss:
                kept_E, chosen, loss, accepted = proposed_E, proposed, proposed_loss, accepted + 1
                proposals = swaps(routed, kept_E, core_E)
        with keeping_experts(model, chosen):
            prefix = through_layer(model, layer, prefix)
        if progress is not None:
            progress(layer + 1, len(chosen))
    return Refinement(chosen, before, loss, tried, accepted)


@torch.inference_mode()
def _loss(model: GptOssForCausalLM, blocks: Blocks, prefix: Prefix, layer: int, keep: Sequence[Sequence[int]]) -> float:
    """Mean -ln p of the counted tokens when `prefix` enters `layer` of the model masked to `keep`."""
    with keeping_experts(model, keep):
        for later in range(layer, len(keep)):
            prefix = through_layer(model, later, prefix)
    total, first = 0.0, 0
    for hidden_BSD in prefix.states:
        batch = slice(first, first := first + len(hidden_BSD))
        counted_T = torch.from_numpy(np.flatnonzero(blocks.counted_BS[batch])).to(hidden_BSD.device)
        target_T = torch.from_numpy(blocks.token_ids_BS[batch].astype(np.int64)).to(hidden_BSD.device).flatten()
        state_TD = model.model.norm(hidden_BSD.flatten(0, 1)[counted_T - 1])
        logprob_T, *_ = token_stats(state_TD, target_T[counted_T], model.lm_head, top_k=1)
        total -= float(logprob_T.sum(dtype=torch.float64))
    return total / blocks.num_counted
