"""What a model with plain experts takes in memory, as a whole and one part at a time: from headers alone, no torch."""

from collections.abc import Sequence
from math import prod

import numpy as np

from eaftgate.checkpoint.checkpoint import CONFIG_FILE, Checkpoint

LOADING_LAYERS = 5
"""So many layers more are taken, at most, while transformers dequantises those that it reads at a time."""
STATES_SHARE = 4
"""Hidden states between two layers may take this part of what the experts of a layer take."""


def whole_bytes(checkpoint: Checkpoint, item_bytes: int) -> int:
    """When it is loaded."""
    return sum(_parts(checkpoint, item_bytes).values())


def loading_bytes(checkpoint: Checkpoint, item_bytes: int) -> int:
    """So much more, at most, while transformers loads it."""
    return LOADING_LAYERS * layer_bytes(checkpoint, item_bytes)


def spread_layers(checkpoint: Checkpoint, item_bytes: int, rooms: Sequence[int]) -> tuple[list[int], list[int]]:
    """Of every layer the number of its device, ascending, and what each device has of the model, in proportion to its
    room as far as layers go. What is outside the layers is on the last."""
    parts = _parts(checkpoint, item_bytes)
    layers = [parts.pop(layer) for layer in sorted(part for part in parts if isinstance(part, int))]
    outside = sum(parts.values())
    per_room = (sum(layers) + outside) / max(1, sum(rooms))
    ends, middles = np.cumsum(rooms)[:-1] * per_room, np.cumsum(layers) - np.array(layers) / 2
    device_L = np.searchsorted(ends, middles)
    shares = np.bincount(device_L, weights=layers, minlength=len(rooms)).astype(np.int64)
    shares[-1] += outside
    return device_L.tolist(), shares.tolist()


def streamed_bytes(checkpoint: Checkpoint, item_bytes: int) -> int:
    """Of the largest part, a layer or one of the tensors outside, and of hidden states; a batch's own come on top."""
    largest = max(_parts(checkpoint, item_bytes).values())
    return largest + states_tokens(checkpoint) * checkpoint.hidden_size * item_bytes


def layer_bytes(checkpoint: Checkpoint, item_bytes: int) -> int:
    """Of the largest layer."""
    return max(size for part, size in _parts(checkpoint, item_bytes).items() if isinstance(part, int))


def states_tokens(checkpoint: Checkpoint) -> int:
    """Tokens whose hidden states take STATES_SHARE of the experts of a layer."""
    return max(1, checkpoint.num_experts * 3 * checkpoint.intermediate_size // STATES_SHARE)


def _parts(checkpoint: Checkpoint, item_bytes: int) -> dict[int | str, int]:
    """Of every layer, by its number, and of every tensor outside them, by its name."""
    family, where = checkpoint.family, checkpoint.path / CONFIG_FILE
    found: dict[int | str, int] = {}
    for name, shape in family.needed(checkpoint.config, checkpoint.dimensions, is_mxfp4=False, where=where).items():
        layer = family.layer_of(name)
        part = name if layer is None else layer
        found[part] = found.get(part, 0) + prod(shape) * item_bytes
    return found
