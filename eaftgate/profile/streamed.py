"""A group of batches through a model of which one layer is in memory at a time; their hidden states are, in between.

Every batch is what it is when the whole model runs, and so is every weight: the observations are the same bit for bit.
"""

from collections.abc import Callable, Sequence

import torch

from eaftgate.families.family import Dimensions
from eaftgate.families.model import Observe
from eaftgate.model.stream import StreamedModel
from eaftgate.packs.blocks import BoolArray, IntArray
from eaftgate.profile.observe import Observation, Watched


def group_tokens(dimensions: Dimensions) -> int:
    """Tokens whose hidden states take as much memory as the experts of a layer: so that reading all layers, once for
    each group, is soon done compared with running them, and memory is bounded by the model's size alone."""
    return max(1, dimensions.num_experts * 3 * dimensions.intermediate_size)


@torch.inference_mode()
def observe_streamed(
    stream: StreamedModel, batches: Sequence[tuple[IntArray, BoolArray]], advance: Callable[[int], None]
) -> list[Observation]:
    """Of every batch (token_ids_BS, scored_BS) of a group. `advance` gets the tokens of each, shared out among the
    layers."""
    model = stream.model
    watched = [Watched(stream.device, *batch) for batch in batches]
    with stream.embedding():
        states = [model.embed(batch.ids_BS) for batch in watched]
    for layer in range(model.num_layers):
        with stream.layer(layer):
            for place, batch in enumerate(watched):
                observers: list[Observe] = [batch.record] * len(model.moe_layers)
                with model.observing(observers):
                    states[place] = model.run_layer(layer, states[place])
                tokens = batch.ids_BS.numel()
                advance(tokens * (layer + 1) // model.num_layers - tokens * layer // model.num_layers)
    with stream.head():
        return [
            batch.observation(model.normalised(hidden_BSD), model.head_VD)
            for batch, hidden_BSD in zip(watched, states, strict=True)
        ]
