"""Whether the configuration, the tensors and their expert axes agree with each other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eaftgate.checkpoint.config import Dimensions
from eaftgate.checkpoint.header import TensorEntry
from eaftgate.checkpoint.layout import (
    MXFP4_GROUP,
    expected_parts,
    expected_shape,
    expert_tensor,
    is_unplaced,
    layer_of,
    tensor_name,
)
from eaftgate.errors import UserError
from eaftgate.strict_json import shown

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
_REPAIR = "take the configuration and the shards from the same revision"


def check_consistency(
    path: Path, config: dict[str, Any], dimensions: Dimensions, tensors: Mapping[str, TensorEntry]
) -> bool:
    """Check everything about the checkpoint in `path` that one file alone cannot tell.

    Returns whether the experts are stored as MXFP4 (blocks and scales) or dequantised. Raises UserError.
    """
    is_mxfp4 = any((tensor := expert_tensor(name)) and tensor.part.endswith("_blocks") for name in tensors)
    _check_quantization(config, dimensions, is_mxfp4=is_mxfp4, path=path)
    _check_vocabulary(tensors, dimensions, path)
    _check_layers(tensors, dimensions, is_mxfp4=is_mxfp4, path=path)
    return is_mxfp4


def _check_quantization(config: dict[str, Any], dimensions: Dimensions, *, is_mxfp4: bool, path: Path) -> None:
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    if method != ("mxfp4" if is_mxfp4 else None):
        stored = "MXFP4 blocks" if is_mxfp4 else "dequantised weights"
        raise UserError(
            f"{path}: quantization_config says {shown(method)}, but the experts are stored as {stored}; {_REPAIR}"
        )
    sizes = (dimensions.hidden_size, dimensions.intermediate_size)
    if is_mxfp4 and any(size % MXFP4_GROUP for size in sizes):
        raise UserError(
            f"{path}: hidden_size {sizes[0]} and intermediate_size {sizes[1]} must be multiples of "
            f"{MXFP4_GROUP} for MXFP4 experts; take a fresh copy of the file"
        )


def _check_vocabulary(tensors: Mapping[str, TensorEntry], dimensions: Dimensions, path: Path) -> None:
    shape = (dimensions.vocab_size, dimensions.hidden_size)
    for name in (EMBEDDING, HEAD):
        entry = tensors.get(name)
        if entry is None and name == EMBEDDING:
            raise UserError(f"{path}: tensor {name!r} is missing; take a complete copy of the checkpoint")
        if entry is not None and entry.shape != shape:
            raise UserError(
                f"{path}: tensor {name!r} has shape {list(entry.shape)[:8]} where the configuration needs "
                f"{list(shape)}; {_REPAIR}"
            )


def _check_layers(tensors: Mapping[str, TensorEntry], dimensions: Dimensions, *, is_mxfp4: bool, path: Path) -> None:
    layers = {layer for name in tensors if (layer := layer_of(name)) is not None}
    if len(layers) != dimensions.num_layers or max(layers) != dimensions.num_layers - 1:
        raise UserError(
            f"{path}: num_hidden_layers is {dimensions.num_layers} but the shards hold {len(layers)} layers"
            f"{f' up to number {max(layers)}' if layers else ''}; take a complete copy of the checkpoint"
        )
    parts = expected_parts(mxfp4=is_mxfp4)
    for layer in range(dimensions.num_layers):
        for part in parts:
            _check_part(tensors, tensor_name(layer, part), part, dimensions, path)
    for name in tensors:
        tensor = expert_tensor(name)
        if is_unplaced(name) or (tensor and tensor.part not in parts):
            raise UserError(
                f"{path}: tensor {shown(name)} is not part of the gpt-oss "
                f"{'MXFP4' if is_mxfp4 else 'dequantised'} layout; use the published checkpoint layout"
            )


def _check_part(tensors: Mapping[str, TensorEntry], name: str, part: str, dimensions: Dimensions, path: Path) -> None:
    entry = tensors.get(name)
    if entry is None:
        raise UserError(f"{path}: tensor {name!r} is missing; take a complete copy of the checkpoint")
    shape = expected_shape(
        part,
        num_experts=dimensions.num_experts,
        hidden_size=dimensions.hidden_size,
        intermediate_size=dimensions.intermediate_size,
    )
    if entry.shape != shape:
        raise UserError(
            f"{path}: tensor {name!r} has shape {list(entry.shape)[:8]} where the configuration "
            f"(num_local_experts {dimensions.num_experts}) needs {list(shape)}; "
            f"{_REPAIR}"
        )
    if part.endswith(("_blocks", "_scales")) and entry.dtype not in ("U8", "F8_E8M0"):
        raise UserError(
            f"{path}: tensor {name!r} has dtype {entry.dtype} where MXFP4 needs U8; use the published layout"
        )
