"""Running a model layer by layer, so that what a layer sees can be looked at before its experts are chosen.

Shapes: B blocks of a batch, S positions a block, D hidden size, T chosen positions of all blocks.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GptOssForCausalLM

from eaftgate.packs.blocks import Blocks


@dataclass(frozen=True)
class Prefix:
    """The states that enter a layer, batch by batch: B * S * D numbers of the model's dtype over all batches."""

    states: tuple[Tensor, ...]


@torch.inference_mode()
def embedded(model: GptOssForCausalLM, blocks: Blocks, *, batch_size: int) -> Prefix:
    """What enters the first layer."""
    device = model.lm_head.weight.device
    batches = (blocks.token_ids_BS[start : start + batch_size] for start in range(0, blocks.num_blocks, batch_size))
    ids = (torch.from_numpy(ids_BS.astype(np.int64)).to(device) for ids_BS in batches)
    return Prefix(tuple(model.model.embed_tokens(ids_BS) for ids_BS in ids))


@torch.inference_mode()
def through_layer(model: GptOssForCausalLM, layer: int, prefix: Prefix) -> Prefix:
    """What leaves the layer, as the model is now (masked or not)."""
    return Prefix(tuple(_run(model, layer, hidden_BSD) for hidden_BSD in prefix.states))


@torch.inference_mode()
def last_states(model: GptOssForCausalLM, layer: int, hidden_BSD: Tensor) -> Tensor:
    """What the layers from `layer` on make of the states that enter it, normalised: the last hidden states."""
    for following in range(layer, len(model.model.layers)):
        hidden_BSD = _run(model, following, hidden_BSD)
    normalised: Tensor = model.model.norm(hidden_BSD)
    return normalised


@torch.inference_mode()
def through_layer_seeing(
    model: GptOssForCausalLM, layer: int, prefix: Prefix, position_T: NDArray[np.intp]
) -> tuple[Prefix, Tensor, Tensor]:
    """What leaves the layer, and at flat positions (block * S + position), ascending: what its router and experts see,
    [T, D], and the Euclidean norm of what leaves it, [T], float32.

    The layer runs as a whole and its MLP's input is caught: its inside stays transformers' business.
    """
    inputs: list[Tensor] = []
    hook = model.model.layers[layer].mlp.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    left, seen, norms = [], [], []
    first = 0
    try:
        for hidden_BSD in prefix.states:
            left.append(_run(model, layer, hidden_BSD))
            size = hidden_BSD.shape[0] * hidden_BSD.shape[1]
            begin, end = np.searchsorted(position_T, (first, first + size))
            at = torch.from_numpy(position_T[begin:end] - first).to(hidden_BSD.device)
            seen.append(inputs.pop().flatten(0, -2)[at])
            norms.append(left[-1].flatten(0, -2)[at].float().norm(dim=-1))
            first += size
    finally:
        hook.remove()
    return Prefix(tuple(left)), torch.cat(seen), torch.cat(norms)


def _run(model: GptOssForCausalLM, layer: int, hidden_BSD: Tensor) -> Tensor:
    position_ids = torch.arange(hidden_BSD.shape[1], device=hidden_BSD.device)[None]
    rotary = model.model.rotary_emb(hidden_BSD, position_ids)
    # No mask tensor: the attention knows its patterns (model.load.hidden_states).
    output: Tensor = model.model.layers[layer](
        hidden_BSD, attention_mask=None, position_embeddings=rotary, position_ids=position_ids, use_cache=False
    )
    return output
