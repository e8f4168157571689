"""What holds of every sound trace: looked at when it is made and whenever it is opened, before anything is cut from it.

Shapes: X positions, L layers, K selections (top_k), T scored tokens.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eaftgate.packs.harmony import TokenClass
from eaftgate.profile.trace import FORMS, TraceDimensions, TraceShard

GATE_TOLERANCE = 0.01
"""How far the gates of a token may sum from 1, rounded to float16 after a softmax in bfloat16."""
_CHUNK = 1 << 15
_ONE, _INFINITY = (int(np.float16(value).view(np.uint16)) for value in (1.0, np.inf))


def shard_problem(shard: TraceShard, dimensions: TraceDimensions, *, rows: int, packs: int) -> str | None:
    """What a shard has that no profile of `rows` rows of `packs` packs can have; None for a sound one."""
    return _form_problem(shard, dimensions) or _routing_problem(shard, dimensions) or _token_problem(shard, rows, packs)


def _form_problem(shard: TraceShard, dimensions: TraceDimensions) -> str | None:
    sizes: Mapping[str, int | None] = {
        "X": len(shard.expert_XLK) if shard.expert_XLK.ndim else None,
        "L": dimensions.num_layers,
        "K": dimensions.top_k,
        "T": len(shard.p_T) if shard.p_T.ndim else None,
    }
    for name, dtype in FORMS.items():
        array: NDArray[Any] = getattr(shard, name)
        expected = tuple(sizes[axis] for axis in name.rpartition("_")[2])
        if (array.dtype, array.shape) != (np.dtype(dtype), expected):
            return f"{name} is {array.dtype} of shape {list(array.shape)}, not {np.dtype(dtype)} of {list(expected)}"
    return None


def _routing_problem(shard: TraceShard, dimensions: TraceDimensions) -> str | None:
    for start in range(0, len(shard.expert_XLK), _CHUNK):
        expert, gate, norm = (
            np.asarray(column[start : start + _CHUNK]) for column in (shard.expert_XLK, shard.gate_XLK, shard.norm_XLK)
        )
        if expert.max(initial=0) >= dimensions.num_experts:
            return f"expert_XLK names expert {expert.max()} of {dimensions.num_experts}"
        # A float16 of 0 or more is ordered as its bits are, with infinity and NaN at the end; a negative one is above.
        if gate.view(np.uint16).max(initial=0) > _ONE:
            return "gate_XLK holds a gate that is not within 0 and 1"
        if norm.view(np.uint16).max(initial=0) >= _INFINITY:
            return "norm_XLK holds a norm that is not finite and 0 or more"
        total = np.zeros(gate.shape[:2], np.float32)
        for place in range(dimensions.top_k):
            total += gate[..., place].astype(np.float32)
            for other in range(place):
                if (expert[..., place] == expert[..., other]).any():
                    return "expert_XLK names an expert twice in a selection"
        if (np.abs(total - 1) > GATE_TOLERANCE).any():
            return "gate_XLK holds gates that do not sum to 1"
    return None


def _token_problem(shard: TraceShard, rows: int, packs: int) -> str | None:
    for name in ("p_T", "entropy_T"):
        values = getattr(shard, name)
        if not ((values >= 0) & (values <= 1)).all():  # nor is NaN
            return f"{name} holds a value that is not within 0 and 1"
    positions = len(shard.expert_XLK)
    ends = {"predicting_T": positions, "own_T": positions, "row_T": rows, "pack_T": packs, "kind_T": len(TokenClass)}
    for name, end in ends.items():
        values = getattr(shard, name)
        if len(values) and not 0 <= values.min() <= values.max() < end:
            return f"{name} holds {values.min()} to {values.max()}, and there are {end}"
    return None
