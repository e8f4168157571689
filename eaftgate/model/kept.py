"""Keys and values of what was read and written so far, for a model that writes one token after the other.

A place holds one conversation, whatever the others in the batch are; when it has ended, the next takes its place. A
sliding layer keeps its window alone, as a ring: keys carry their position, so their order does not matter.

The attention of `model.attention` hands its keys and values here and gets the whole context back, so that nothing
depends on transformers' own caches.

Shapes: B places, G key-value heads, R query heads for each of them, L tokens kept, D head_dim.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class _Layer:
    key_BGLD: Tensor
    value_BGLD: Tensor


@dataclass
class Kept:
    """`places` conversations of at most `capacity` tokens. `length_B` says how many each has, before a forward pass;
    `reading` is the place whose prompt a pass reads, None where it writes a token in each of them."""

    places: int
    capacity: int
    device: torch.device
    length_B: Tensor = field(init=False)
    reading: int | None = None
    _lengths: list[int] = field(init=False)
    """The same, known without asking the device."""
    _layers: dict[int, _Layer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.length_B = torch.zeros(self.places, dtype=torch.long, device=self.device)
        self._lengths = [0] * self.places

    def put(self, place: int, length: int) -> None:
        """A prompt of so many tokens was read, in the place of what was there; none: the place is free."""
        self._lengths[place] = length
        self.length_B[place] = length

    def grow(self) -> None:
        """A token was written in every place that is taken."""
        taken = [length > 0 for length in self._lengths]
        self._lengths = [length + is_taken for length, is_taken in zip(self._lengths, taken, strict=True)]
        self.length_B += torch.tensor(taken, device=self.device)

    def keep_prompt(self, layer: int, key_1GSD: Tensor, value_1GSD: Tensor, window: int | None) -> None:
        """Of all S tokens of the prompt that is read."""
        kept = self._of(layer, key_1GSD, window)
        length, capacity = key_1GSD.shape[2], kept.key_BGLD.shape[2]
        first = max(0, length - capacity)
        slot = torch.arange(first, length, device=key_1GSD.device) % capacity
        kept.key_BGLD[self.reading, :, slot] = key_1GSD[0, :, first:]
        kept.value_BGLD[self.reading, :, slot] = value_1GSD[0, :, first:]

    def attend(
        self,
        layer: int,
        query_BHD: Tensor,
        key_BGD: Tensor,
        value_BGD: Tensor,
        *,
        window: int | None,
        scaling: float,
        sink_H: Tensor | None,
    ) -> Tensor:
        """What one token in each place attends to: those kept and itself, which is kept, too. Returns [B, H, D]."""
        kept = self._of(layer, key_BGD[:, :, None], window)
        device, capacity = key_BGD.device, kept.key_BGLD.shape[2]
        length_B = self.length_B.to(device)
        place_B, slot_B = torch.arange(self.places, device=device), length_B % capacity
        kept.key_BGLD[place_B, :, slot_B] = key_BGD
        kept.value_BGLD[place_B, :, slot_B] = value_BGD
        used = min(max(self._lengths) + 1, capacity)
        key_BGLD, value_BGLD = kept.key_BGLD[:, :, :used], kept.value_BGLD[:, :, :used]
        batch, groups, _, dim = key_BGLD.shape
        score_BGRL = (query_BHD.view(batch, groups, -1, dim) @ key_BGLD.transpose(2, 3)).float() * scaling
        # A ring that is full has no slot of another conversation.
        unused_BL = torch.arange(used, device=device) > length_B[:, None]
        score_BGRL = score_BGRL.masked_fill(unused_BL[:, None, None], -torch.inf)
        if sink_H is not None:
            sink_BGR1 = sink_H.float().view(1, groups, -1, 1).expand(batch, -1, -1, -1)
            score_BGRL = torch.cat([score_BGRL, sink_BGR1], dim=3)
        share_BGRL = F.softmax(score_BGRL, dim=3)[..., :used].to(value_BGLD.dtype)
        return (share_BGRL @ value_BGLD).view(batch, -1, dim)

    def _of(self, layer: int, like_BGSD: Tensor, window: int | None) -> _Layer:
        if layer not in self._layers:
            _, groups, _, dim = like_BGSD.shape
            capacity = self.capacity if window is None else min(window, self.capacity)
            shape = (self.places, groups, capacity, dim)
            self._layers[layer] = _Layer(
                *(torch.zeros(shape, dtype=like_BGSD.dtype, device=like_BGSD.device) for _ in "kv")
            )
        return self._layers[layer]
