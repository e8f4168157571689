"""A group of batches through a model of which one layer is in memory at a time; their hidden states are, in between.

Every batch is what it is when the whole model runs, and so is every weight: the observations are the same bit for bit.
"""

import time
from collections.abc import Callable, Sequence

import torch

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.families.model import Observe
from eaftgate.model.load import DTYPES, ModelSettings
from eaftgate.model.memory import free_bytes
from eaftgate.model.stream import StreamedModel
from eaftgate.model.weights import layer_bytes, states_tokens
from eaftgate.packs.blocks import BoolArray, IntArray
from eaftgate.profile.observe import Observation, Watched

READINGS = 10.0
"""A layer runs for so many times as long as it took to read, where there are blocks and memory enough."""


LEAST_TOKENS = 1 << 16
"""Of a group, whatever memory they take: a small model's take little, and its layers are soon run."""


def group_tokens(base: Checkpoint, settings: ModelSettings) -> int:
    """The most tokens of a group: their hidden states take a part of what a layer takes, or, on a GPU, half of what is
    free beside two layers, where that is more. (A CPU's time is up before.)"""
    least = max(LEAST_TOKENS, states_tokens(base))
    if torch.device(settings.device).type != "cuda":
        return least
    item_bytes = DTYPES[settings.dtype].itemsize
    room = (free_bytes(settings.device) or 0) - 2 * layer_bytes(base, item_bytes)
    return max(least, room // 2 // (base.hidden_size * item_bytes))


@torch.inference_mode()
def observe_streamed(
    stream: StreamedModel,
    batches: Sequence[tuple[IntArray, BoolArray]],
    advance: Callable[[int], None],
    *,
    seconds: float,
) -> list[Observation]:
    """Of the first of the batches (token_ids_BS, scored_BS): as many as take `seconds`, or, where that is longer, as
    make reading the layers a small part of the time. `advance` gets the tokens of each, shared out among the layers.
    """
    model = stream.model
    watched = [Watched(stream.device, *batch) for batch in batches]
    with stream.embedding():
        states = [model.embed(batch.ids_BS) for batch in watched]
    layers_done: list[Callable[[], None]] = []
    for layer in range(model.num_layers):
        # A GPU runs one layer while the next is read: were it further behind, what was read for it would pile up, and
        # what is said to be done would not be.
        for done in layers_done[-2:-1]:
            done()
        begun = time.perf_counter()
        with stream.layer(layer):
            read = time.perf_counter()
            for place, batch in enumerate(watched, 1):
                observers: list[Observe] = [batch.record] * len(model.moe_layers)
                with model.observing(observers):
                    states[place - 1] = model.run_layer(layer, states[place - 1])
                tokens = batch.ids_BS.numel()
                advance(tokens * (layer + 1) // model.num_layers - tokens * layer // model.num_layers)
                enough = max(seconds / model.num_layers, READINGS * (read - begun))
                if layer == 0:
                    work_done(stream.device)()
                    if time.perf_counter() - read > enough:
                        del watched[place:], states[place:]
                        break
        layers_done.append(work_done(stream.device))
    with stream.head():
        return [
            batch.observation(model.normalised(hidden_BSD), model.head_VD)
            for batch, hidden_BSD in zip(watched, states, strict=True)
        ]


def work_done(device: torch.device) -> Callable[[], None]:
    """Returns when the device has done all that it has been given before this was called."""
    if device.type != "cuda":
        return lambda: None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event.synchronize
