"""Where a whole model is: on one device, as transformers loads it, or where that does not do, its layers on several.

Layers of several devices run one after another, hidden states go along (eaftgate.families): for what does not fit into
one, not for speed.
"""

from dataclasses import dataclass

import torch

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.errors import UserError
from eaftgate.families.model import MoeModel
from eaftgate.model.load import DTYPES, ModelSettings, load_model
from eaftgate.model.memory import lack_of_memory, lack_of_memory_on, rooms
from eaftgate.model.stream import StreamedModel
from eaftgate.model.weights import spread_layers

MORE_ROOM = "use more GPUs or larger ones, or --dtype bfloat16"


@dataclass(frozen=True)
class Placement:
    """`devices` the layers are on, read one after another; none where transformers loads the model."""

    checkpoint: Checkpoint
    settings: ModelSettings
    devices: tuple[str, ...] = ()

    @property
    def said(self) -> str | None:
        """What people are told of it."""
        if len(self.devices) < 2:
            return None
        return f"{self.checkpoint.name} does not fit into one device: its layers are on {len(self.devices)}"

    def load(self) -> MoeModel:
        """Raises UserError, as load_model does; the same weights bit for bit either way."""
        if not self.devices:
            return load_model(self.checkpoint.path, self.settings)
        item_bytes = DTYPES[self.settings.dtype].itemsize
        device_L, _ = spread_layers(self.checkpoint, item_bytes, rooms(self.devices))
        try:
            stream = StreamedModel(self.checkpoint, self.settings)
            return stream.spread([self.devices[number] for number in device_L], outside=self.devices[-1])
        except torch.OutOfMemoryError:
            raise UserError(
                f"{self.checkpoint.path} does not fit into the memory of {', '.join(self.devices)} as "
                f"{self.settings.dtype}"
            ) from None


def place(checkpoint: Checkpoint, settings: ModelSettings, *, held: int = 0, advice: str = MORE_ROOM) -> Placement:
    """Where the model fits, and `held` bytes that are held besides. Raises UserError where it does not; it ends with
    the `advice`."""
    if lack_of_memory(checkpoint, settings, held=held) is None:
        return Placement(checkpoint, settings)
    if lack := lack_of_room(checkpoint, settings, held=held):
        raise UserError(f"{lack}; {advice}")
    return Placement(checkpoint, settings, devices_of(settings))


def lack_of_room(checkpoint: Checkpoint, settings: ModelSettings, *, held: int = 0) -> str | None:
    """Why `place` refuses, if it does."""
    one = lack_of_memory(checkpoint, settings, held=held)
    return one and lack_of_memory_on(devices_of(settings), checkpoint, settings, held=held)


def devices_of(settings: ModelSettings) -> tuple[str, ...]:
    """Every GPU that can be seen, where none is named by its number."""
    if settings.device != "cuda":
        return (settings.device,)
    return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
