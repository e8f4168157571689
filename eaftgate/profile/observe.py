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


@torch.inference_mode()
def observe_batch(model: MoeModel, token_ids_BS: IntArray, scored_BS: BoolArray) -> Observation:
    """Score a batch and record, at every position that predicts or is a scored token, what each layer selected."""
    device = model.device
    scored_T = np.flatnonzero(scored_BS)
    positions_X = np.union1d(scored_T, scored_T - 1)
    positions = torch.from_numpy(positions_X).to(device)
    records: list[tuple[Tensor, Tensor, Tensor]] = []

    def record(expert_ids: Tensor, gate: Tensor, norm: Tensor) -> None:
        records.append(
            (
                expert_ids[positions].to(torch.uint8),
                gate[positions].to(torch.float16),
                (norm[positions] / NORM_SCALE).to(torch.float16),
            )
        )

    observers: list[Observe] = [record] * len(model.moe_layers)
    ids_BS = torch.from_numpy(token_ids_BS.astype(np.int64)).to(device)
    with model.observing(observers):  # layers run in order, so records are in layer order
        hidden_BSD = model.hidden_states(ids_BS)
    scored = torch.from_numpy(scored_T).to(device)
    columns = token_stats(hidden_BSD.flatten(0, 1)[scored - 1], ids_BS.flatten()[scored], model.head_VD, top_k=TOP_K)
    expert, gate, norm = (torch.stack(column, dim=1).cpu().numpy() for column in zip(*records, strict=True))
    predicting_T = np.searchsorted(positions_X, scored_T - 1).astype(np.int32)
    own_T = np.searchsorted(positions_X, scored_T).astype(np.int32)
    stats = TokenStats(*(column.cpu().numpy() for column in columns))
    return Observation(stats, expert, gate, norm, predicting_T, own_T)
