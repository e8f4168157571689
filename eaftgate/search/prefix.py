"""Running a model layer by layer, so that what a layer sees can be looked at before its experts are chosen.

Layers are counted among those with experts, as keep sets are; one runs together with the dense layers that follow it.

Shapes: B blocks of a batch, S positions a block, D hidden size, T chosen positions of all blocks.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks


@dataclass(frozen=True)
class Prefix:
    """The states that enter a layer, batch by batch: B * S * D numbers of the model's dtype over all batches."""

    states: tuple[Tensor, ...]


@torch.inference_mode()
def embedded(model: MoeModel, blocks: Blocks, *, batch_size: int) -> Prefix:
    """What enters the first layer."""
    batches = (blocks.token_ids_BS[start : start + batch_size] for start in range(0, blocks.num_blocks, batch_size))
    ids = (torch.from_numpy(ids_BS.astype(np.int64)).to(model.device) for ids_BS in batches)
    before = range(_place(model, 0))
    return Prefix(tuple(_run(model, before, model.embed(ids_BS)) for ids_BS in ids))


@torch.inference_mode()
def through_layer(model: MoeModel, layer: int, prefix: Prefix) -> Prefix:
    """What leaves the layer, as the model is now (masked or not)."""
    places = range(_place(model, layer), _place(model, layer + 1))
    return Prefix(tuple(_run(model, places, hidden_BSD) for hidden_BSD in prefix.states))


@torch.inference_mode()
def last_states(model: MoeModel, layer: int, hidden_BSD: Tensor) -> Tensor:
    """What the layers from `layer` on make of the states that enter it, normalised: the last hidden states."""
    return model.normalised(_run(model, range(_place(model, layer), model.num_layers), hidden_BSD))


@torch.inference_mode()
def through_layer_seeing(
    model: MoeModel, layer: int, prefix: Prefix, position_T: NDArray[np.intp]
) -> tuple[Prefix, Tensor, Tensor]:
    """What leaves the layer, and at flat positions (block * S + position), ascending: what its router and experts see,
    [T, D], and the Euclidean norm of what leaves it, before any dense layer, [T], float32.

    The layer runs as a whole and its experts' input is caught: its inside stays transformers' business.
    """
    place, following = _place(model, layer), range(_place(model, layer) + 1, _place(model, layer + 1))
    inputs: list[Tensor] = []
    left, seen, norms = [], [], []
    first = 0
    with model.moe(place).seeing(inputs.append):
        for hidden_BSD in prefix.states:
            output_BSD = model.run_layer(place, hidden_BSD)
            left.append(_run(model, following, output_BSD))
            size = hidden_BSD.shape[0] * hidden_BSD.shape[1]
            begin, end = np.searchsorted(position_T, (first, first + size))
            at = torch.from_numpy(position_T[begin:end] - first).to(output_BSD.device)
            seen.append(inputs.pop().flatten(0, -2)[at])
            norms.append(output_BSD.flatten(0, -2)[at].float().norm(dim=-1))
            first += size
    return Prefix(tuple(left)), torch.cat(seen), torch.cat(norms)


def _place(model: MoeModel, layer: int) -> int:
    """Where in the model the layer is; past all of them for the one after the last."""
    return model.moe_layers[layer] if layer < len(model.moe_layers) else model.num_layers


def _run(model: MoeModel, places: range, hidden_BSD: Tensor) -> Tensor:
    for place in places:
        hidden_BSD = model.run_layer(place, hidden_BSD)
    return hidden_BSD
