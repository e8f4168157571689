"""One forward pass that yields both the token statistics and the routing of every scored token.

Shapes: B blocks, S positions a block, X observed positions, L layers, K selections, T scored tokens.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eaftgate.collect.collection import TOP_K, TokenStats
from eaftgate.collect.token_stats import token_stats
from eaftgate.families.model import MoeModel, Observe
from eaftgate.packs.blocks import BoolArray, IntArray
from eaftgate.profile.trace import NORM_SCALE


@dataclass(frozen=True)
class Observation:
    """The routing arrays are those of TraceShard; positions ascend through the batch's blocks."""

    stats: TokenStats
    expert_XLK: np.ndarray
    gate_XLK: np.ndarray
    norm_XLK: np.ndarray
    predicting_T: np.ndarray
    own_T: np.ndarray


class Watched:
    """A batch on its way through the layers: what each selected at every position that predicts or is a scored token.

    Layers run in order, so records are in layer order.
    """

    def __init__(self, device: torch.device, token_ids_BS: IntArray, scored_BS: BoolArray) -> None:
        self.ids_BS = torch.from_numpy(token_ids_BS.astype(np.int64)).to(device)
        self._scored_T = np.flatnonzero(scored_BS)
        self._positions_X = np.union1d(self._scored_T, self._scored_T - 1)
        self._positions = torch.from_numpy(self._positions_X).to(device)
        self._records: list[tuple[Tensor, Tensor, Tensor]] = []

    def record(self, expert_ids: Tensor, gate: Tensor, norm: Tensor) -> None:
        """An `Observe`."""
        self._records.append(
            (
                expert_ids[self._positions].to(torch.uint8),
                gate[self._positions].to(torch.float16),
                (norm[self._positions] / NORM_SCALE).to(torch.float16),
            )
        )

    def observation(self, hidden_BSD: Tensor, head_VD: Tensor) -> Observation:
        """After the last layer, of its normalised states."""
        scored = torch.from_numpy(self._scored_T).to(hidden_BSD.device)
        targets = self.ids_BS.flatten()[scored]
        columns = token_stats(hidden_BSD.flatten(0, 1)[scored - 1], targets, head_VD, top_k=TOP_K)
        expert, gate, norm = (torch.stack(column, dim=1).cpu().numpy() for column in zip(*self._records, strict=True))
        predicting_T = np.searchsorted(self._positions_X, self._scored_T - 1).astype(np.int32)
        own_T = np.searchsorted(self._positions_X, self._scored_T).astype(np.int32)
        stats = TokenStats(*(column.cpu().numpy() for column in columns))
        return Observation(stats, expert, gate, norm, predicting_T, own_T)


@torch.inference_mode()
def observe_batch(model: MoeModel, token_ids_BS: IntArray, scored_BS: BoolArray) -> Observation:
    """Score a batch and record, at every position that predicts or is a scored token, what each layer selected."""
    batch = Watched(model.device, token_ids_BS, scored_BS)
    observers: list[Observe] = [batch.record] * len(model.moe_layers)
    with model.observing(observers):
        hidden_BSD = model.hidden_states(batch.ids_BS)
    return batch.observation(hidden_BSD, model.head_VD)
