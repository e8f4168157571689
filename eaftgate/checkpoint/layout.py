"""What gpt-oss tensor names mean: which layer, and whether dimension 0 is the expert axis.

Published layout (MXFP4): `model.layers.N.mlp.experts.{gate_up_proj,down_proj}_{blocks,scales,bias}` and
`model.layers.N.mlp.router.{weight,bias}`; the dequantised form has `{gate_up_proj,down_proj}` instead of
`_blocks` and `_scales`. E = experts, H = hidden size, I = intermediate size.
"""

import re
from dataclasses import dataclass

MXFP4_GROUP = 32
"""Weights that share one E8M0 scale (OCP Microscaling Formats v1.0)."""
MXFP4_GROUP_BYTES = 16

PROJECTIONS = ("gate_up_proj", "down_proj")
ROUTER_PARTS = ("router.weight", "router.bias")
MXFP4_PARTS = tuple(f"experts.{p}_{part}" for p in PROJECTIONS for part in ("blocks", "scales", "bias"))
DENSE_PARTS = tuple(f"experts.{p}{part}" for p in PROJECTIONS for part in ("", "_bias"))

_LAYER = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,5})\.(.+)", re.ASCII)
_EXPERT_PART = re.compile(r"experts\.(gate_up_proj|down_proj)(_blocks|_scales|_bias)?|router\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class ExpertTensor:
    """A tensor whose dimension 0 is the expert axis."""

    layer: int
    part: str
    """Name below `mlp.`, e.g. "experts.down_proj_blocks" or "router.weight"."""

    @property
    def projection(self) -> str | None:
        """`gate_up_proj` or `down_proj`; None for the router."""
        match = _EXPERT_PART.fullmatch(self.part)
        return match.group(1) if match else None


def layer_of(name: str) -> int | None:
    """The layer a tensor belongs to; None for embeddings, the final norm and the head."""
    match = _LAYER.fullmatch(name)
    return int(match.group(1)) if match else None


def expert_tensor(name: str) -> ExpertTensor | None:
    """Layer and part of a tensor with an expert axis; None for every other tensor."""
    match = _LAYER.fullmatch(name)
    if match is None or not match.group(2).startswith("mlp."):
        return None
    part = match.group(2).removeprefix("mlp.")
    return ExpertTensor(int(match.group(1)), part) if _EXPERT_PART.fullmatch(part) else None


def is_unplaced(name: str) -> bool:
    """Whether a name looks like a layer's or expert's tensor without being one: nobody can slice it."""
    match = _LAYER.fullmatch(name)
    if match is None:
        return name.startswith("model.layers.")
    return match.group(2).startswith("mlp.") and expert_tensor(name) is None


def is_mxfp4_scales(name: str) -> bool:
    """Whether a tensor holds E8M0 scales (value 255 is NaN)."""
    tensor = expert_tensor(name)
    return tensor is not None and tensor.part.endswith("_scales")


def tensor_name(layer: int, part: str) -> str:
    return f"model.layers.{layer}.mlp.{part}"


def expected_parts(*, mxfp4: bool) -> tuple[str, ...]:
    """The tensors with an expert axis that every layer must have."""
    return (MXFP4_PARTS if mxfp4 else DENSE_PARTS) + ROUTER_PARTS


def expected_shape(part: str, *, num_experts: int, hidden_size: int, intermediate_size: int) -> tuple[int, ...]:
    """Shape of one such tensor as transformers' GptOss modules declare it.

    MXFP4 stores a projection output-major ([E, 2I, H/32, 16] blocks), the dequantised form input-major.
    """
    experts, hidden, inner = num_experts, hidden_size, intermediate_size
    return {
        "experts.gate_up_proj": (experts, hidden, 2 * inner),
        "experts.gate_up_proj_blocks": (experts, 2 * inner, hidden // MXFP4_GROUP, MXFP4_GROUP_BYTES),
        "experts.gate_up_proj_scales": (experts, 2 * inner, hidden // MXFP4_GROUP),
        "experts.gate_up_proj_bias": (experts, 2 * inner),
        "experts.down_proj": (experts, inner, hidden),
        "experts.down_proj_blocks": (experts, hidden, inner // MXFP4_GROUP, MXFP4_GROUP_BYTES),
        "experts.down_proj_scales": (experts, hidden, inner // MXFP4_GROUP),
        "experts.down_proj_bias": (experts, hidden),
        "router.weight": (experts, hidden),
        "router.bias": (experts,),
    }[part]
