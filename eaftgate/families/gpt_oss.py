"""gpt-oss: the numbers of its config.json, the names of its tensors, and what of them a keep set keeps.

Published layout (MXFP4): `model.layers.N.mlp.experts.{gate_up_proj,down_proj}_{blocks,scales,bias}` and
`model.layers.N.mlp.router.{weight,bias}`; the dequantised form has `{gate_up_proj,down_proj}` instead of `_blocks` and
`_scales`. In all of these dimension 0 is the expert axis, and every layer has them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eaftgate.errors import UserError
from eaftgate.families.family import Dimensions, ExpertWeight, Kept, StoredTensor, kept_rows, kept_whole
from eaftgate.strict_json import is_count, shown

if TYPE_CHECKING:
    from eaftgate.families.gpt_oss_model import GptOssModel

TOP_K_KEYS = ("num_experts_per_tok", "experts_per_token")
"""transformers reads the first, other engines either."""
EXPERTS_KEYS = ("num_local_experts", "num_experts")
"""transformers takes the one for the other."""

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
PROJECTIONS = ("gate_up_proj", "down_proj")
ROUTER_PARTS = ("router.weight", "router.bias")
MXFP4_PARTS = tuple(f"experts.{p}_{part}" for p in PROJECTIONS for part in ("blocks", "scales", "bias"))
DENSE_PARTS = tuple(f"experts.{p}{part}" for p in PROJECTIONS for part in ("", "_bias"))

MXFP4_GROUP = 32
"""Weights that share one E8M0 scale (OCP Microscaling Formats v1.0)."""
MXFP4_GROUP_BYTES = 16

PLAIN_DTYPES = ("BF16", "F16", "F32", "F64")

_DEFAULTS: dict[str, Any] = {"head_dim": 64, "attention_bias": True, "tie_word_embeddings": False}
_DEFAULT_TOP_K = 4
"""What transformers takes where a config has none."""

_LAYER = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,5})\.(.+)", re.ASCII)
_EXPERT_PART = re.compile(r"experts\.(gate_up_proj|down_proj)(_blocks|_scales|_bias)?|router\.(weight|bias)")
_PASSED_OVER = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", re.ASCII)
_NORM = re.compile(r"model\.layers\.\d+\.(input|post_attention)_layernorm\.weight")
_METHOD = re.compile(r"[\w. -]{1,40}", re.ASCII)
_REPAIR = "take the configuration and the shards from the same revision"


class GptOss:
    """The torch-free side of the family; see `family.Family`."""

    name = "gpt-oss"
    model_type = "gpt_oss"
    architecture = "GptOssForCausalLM"
    sglang_module = "sglang.srt.models.gpt_oss"
    sglang_defaults: Mapping[str, Any] = {"swiglu_limit": 7.0}
    """Published, and what transformers takes where a config has none."""

    def dimensions(self, config: Mapping[str, Any], *, where: Path) -> Dimensions:
        num_layers, top_k = _positive(config, "num_hidden_layers", where), _agreed(config, TOP_K_KEYS, where)
        if TOP_K_KEYS[0] not in config and top_k != _DEFAULT_TOP_K:
            raise UserError(
                f"{where}: {TOP_K_KEYS[1]} is {top_k}, which transformers does not read, and takes {_DEFAULT_TOP_K}; "
                f"add {TOP_K_KEYS[0]}"
            )
        _check_rope(config, where)
        return Dimensions(
            num_layers=num_layers,
            moe_layers=range(num_layers),
            num_experts=_agreed(config, EXPERTS_KEYS, where),
            top_k=top_k,
            vocab_size=_positive(config, "vocab_size", where),
            hidden_size=_positive(config, "hidden_size", where),
            intermediate_size=_positive(config, "intermediate_size", where),
        )

    def foreign_storage(self, config: Mapping[str, Any]) -> str | None:
        method = _quant_method(config)
        if method in ("mxfp4", None):
            return None
        return method if isinstance(method, str) and _METHOD.fullmatch(method) else shown(method)

    def check(
        self, path: Path, config: Mapping[str, Any], dimensions: Dimensions, tensors: Mapping[str, StoredTensor]
    ) -> bool:
        is_mxfp4 = any((tensor := expert_tensor(name)) and tensor.part.endswith("_blocks") for name in tensors)
        _check_quantization(config, dimensions, tensors, is_mxfp4=is_mxfp4, path=path)
        _check_layers(tensors, dimensions, is_mxfp4=is_mxfp4, path=path)
        _check_dtypes(tensors, path)
        return is_mxfp4

    def needed(
        self, config: Mapping[str, Any], dimensions: Dimensions, *, is_mxfp4: bool, where: Path
    ) -> dict[str, tuple[int, ...]]:
        said = {**_DEFAULTS, **config}
        hidden, table = dimensions.hidden_size, (dimensions.vocab_size, dimensions.hidden_size)
        heads, groups, width = (
            _positive(said, key, where) for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
        )
        if heads % groups or width % 2:
            raise UserError(
                f"{where}: num_attention_heads {heads} must be a multiple of num_key_value_heads {groups}, and "
                f"head_dim {width} even; correct the one that is wrong"
            )
        if config.get("sliding_window") is not None:
            _positive(config, "sliding_window", where)
        for key in ("attention_bias", "tie_word_embeddings"):
            if not isinstance(said[key], bool):
                raise UserError(f"{where}: {key} is {shown(said[key])} where true or false is needed; correct it")
        of_layer = {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.sinks": (heads,),
            "self_attn.o_proj.weight": (hidden, heads * width),
        }
        rows = {"q": heads * width, "k": groups * width, "v": groups * width}
        of_layer |= {f"self_attn.{part}_proj.weight": (number, hidden) for part, number in rows.items()}
        if said["attention_bias"]:
            weights = [name for name in of_layer if name.endswith("_proj.weight")]
            of_layer |= {f"{name.removesuffix('weight')}bias": of_layer[name][:1] for name in weights}
        parts = (MXFP4_PARTS if is_mxfp4 else DENSE_PARTS) + ROUTER_PARTS
        of_layer |= {f"mlp.{part}": _expected_shape(part, dimensions) for part in parts}
        head = {} if said["tie_word_embeddings"] else {HEAD: table}
        return {EMBEDDING: table, "model.norm.weight": (hidden,), **head} | {
            f"model.layers.{layer}.{name}": shape
            for layer in range(dimensions.num_layers)
            for name, shape in of_layer.items()
        }

    def twins(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        return {HEAD: EMBEDDING} if config.get("tie_word_embeddings") else {}

    def is_passed_over(self, name: str) -> bool:
        return _PASSED_OVER.fullmatch(name) is not None

    def kept(self, tensor: StoredTensor, keep: Mapping[int, Sequence[int]]) -> Kept:
        found = expert_tensor(tensor.name)
        return kept_whole(tensor) if found is None else kept_rows(tensor, keep[found.layer])

    def shard_group(self, name: str) -> tuple[int, int, str]:
        """From the embedding to the head; blocks, scales and bias of one projection together."""
        layer = layer_of(name)
        if layer is None:
            return (0 if "embed" in name else 2, 0, name)
        tensor = expert_tensor(name)
        return (1, layer, f"mlp.experts.{tensor.projection}" if tensor and tensor.projection else name)

    def parted(self, tensors: Mapping[str, StoredTensor]) -> list[str]:
        scales = {name: f"{name.removesuffix('_scales')}_blocks" for name in tensors if self.is_scales(name)}
        return [
            f"{name.removesuffix('_scales')}: blocks and scales are in different shards"
            for name, blocks in scales.items()
            if tensors[name].shard != tensors[blocks].shard
        ]

    def pruned_config(self, config: Mapping[str, Any], keep_n: int) -> dict[str, Any]:
        return {**config, **{key: keep_n for key in EXPERTS_KEYS if key in config}}

    def plain_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in config.items() if key != "quantization_config"}

    def expert_weights(self, dimensions: Dimensions, tensors: Mapping[str, StoredTensor]) -> Sequence[ExpertWeight]:
        parts = [(layer, f"experts.{projection}") for layer in dimensions.moe_layers for projection in PROJECTIONS]
        found = []
        for layer, part in parts:
            name = f"model.layers.{layer}.mlp.{part}"
            stored, scales = (name, None) if name in tensors else (f"{name}_blocks", f"{name}_scales")
            found.append(ExpertWeight(name, _expected_shape(part, dimensions), 1, stored, scales))
        return found

    def layer_of(self, name: str) -> int | None:
        return layer_of(name)

    def holds_experts(self, name: str) -> bool:
        return expert_tensor(name) is not None

    def is_scales(self, name: str) -> bool:
        tensor = expert_tensor(name)
        return tensor is not None and tensor.part.endswith("_scales")

    def is_norm(self, name: str) -> bool:
        return _NORM.fullmatch(name) is not None

    def model_class(self) -> "type[GptOssModel]":
        from eaftgate.families.gpt_oss_model import GptOssModel

        return GptOssModel


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


def _is_unplaced(name: str) -> bool:
    """Whether a name looks like a layer's or expert's tensor without being one: nobody can slice it."""
    match = _LAYER.fullmatch(name)
    if match is None:
        return name.startswith("model.layers.")
    return match.group(2).startswith("mlp.") and expert_tensor(name) is None


def _expected_shape(part: str, dimensions: Dimensions) -> tuple[int, ...]:
    """Shape of one tensor with an expert axis as transformers' modules declare it.

    MXFP4 stores a projection output-major ([E, 2I, H/32, 16] blocks), the dequantised form input-major. E = experts,
    H = hidden size, I = intermediate size.
    """
    experts, hidden, inner = dimensions.num_experts, dimensions.hidden_size, dimensions.intermediate_size
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


def _agreed(config: Mapping[str, Any], keys: tuple[str, ...], where: Path) -> int:
    """A size that goes by several names, which must not contradict each other."""
    present = [key for key in keys if key in config]
    values = {key: _positive(config, key, where) for key in present or keys[:1]}
    if len(set(values.values())) != 1:
        said = " and ".join(f"{key} {value}" for key, value in values.items())
        raise UserError(f"{where}: {said} disagree; correct the one that is wrong")
    return next(iter(values.values()))


def _positive(config: Mapping[str, Any], key: str, where: Path) -> int:
    value = config.get(key)
    if is_count(value) and value > 0:
        return value
    said = f"is {shown(value)}" if key in config else "is missing"
    raise UserError(f"{where}: {key} {said} where an integer above 0 is needed; take a fresh copy of the file")


_FORMATS = {
    "qweight": "GPTQ or AWQ", "qzeros": "GPTQ or AWQ", "g_idx": "GPTQ or AWQ",
    "weight_packed": "compressed-tensors", "weight_shape": "compressed-tensors",
    "absmax": "bitsandbytes", "quant_map": "bitsandbytes", "bitsandbytes__nf4": "bitsandbytes", "SCB": "bitsandbytes",
    "weight_scale_inv": "FP8", "weight_scale": "FP8", "weight_scale_2": "NVFP4", "input_scale": "FP8",
}  # fmt: skip
"""Last part of a tensor's name -> the format that has it."""


def _check_quantization(
    config: Mapping[str, Any],
    dimensions: Dimensions,
    tensors: Mapping[str, StoredTensor],
    *,
    is_mxfp4: bool,
    path: Path,
) -> None:
    method = _quant_method(config)
    if method not in ("mxfp4", None):
        raise UserError(
            f"{path}: its weights are stored as {shown(method)}, says quantization_config, which cannot be read; "
            "take the checkpoint with MXFP4 experts, or a bfloat16 one (what transformers loads can be gated with "
            "--candidate-kind=other)"
        )
    for name in tensors:
        if found := _FORMATS.get(name.rpartition(".")[2]):
            raise UserError(
                f"{path}: tensor {shown(name)} is of weights stored as {found}, which cannot be read; "
                "take the checkpoint with MXFP4 experts, or a bfloat16 one"
            )
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


def _quant_method(config: Mapping[str, Any]) -> object:
    """How the weights are stored, by the name that config.json has for it; None where they are plain."""
    said = config.get("quantization_config", config.get("compression_config"))
    if not isinstance(said, dict):
        return said
    if any(said.get(key) for key in ("load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit")):
        return "bitsandbytes"
    return said.get("quant_method", "a format without quant_method")


def _check_rope(config: Mapping[str, Any], where: Path) -> None:
    """The same rotary embedding goes by several names, old and new, of which each engine prefers another."""
    new = config.get("rope_parameters")
    old = config.get("rope_scaling")
    new, old = (said if isinstance(said, dict) else {} for said in (new, old))
    if "rope_theta" in config and config["rope_theta"] is not None:
        old = {**old, "rope_theta": config["rope_theta"]}
    for key in sorted(new.keys() & old.keys()):
        if new[key] != old[key]:
            raise UserError(
                f"{where} has {key} {shown(new[key])} in rope_parameters and {shown(old[key])} where older "
                "versions look for it; correct the one that is wrong"
            )


def _check_dtypes(tensors: Mapping[str, StoredTensor], path: Path) -> None:
    for name, tensor in tensors.items():
        found = expert_tensor(name)
        packed = found is not None and found.part.endswith(("_blocks", "_scales"))
        if tensor.dtype not in (("U8",) if packed else PLAIN_DTYPES) and not _PASSED_OVER.fullmatch(name):
            allowed = "MXFP4 as it is published has U8" if packed else f"the model has {', '.join(PLAIN_DTYPES)}"
            raise UserError(
                f"{path}: tensor {shown(name)} has dtype {tensor.dtype} where {allowed}; "
                "convert it, or take the published checkpoint"
            )


def _check_layers(tensors: Mapping[str, StoredTensor], dimensions: Dimensions, *, is_mxfp4: bool, path: Path) -> None:
    layers = {layer for name in tensors if (layer := layer_of(name)) is not None}
    if len(layers) != dimensions.num_layers or max(layers) != dimensions.num_layers - 1:
        raise UserError(
            f"{path}: num_hidden_layers is {dimensions.num_layers} but the shards hold {len(layers)} layers"
            f"{f' up to number {max(layers)}' if layers else ''}; take a complete copy of the checkpoint"
        )
    parts = (MXFP4_PARTS if is_mxfp4 else DENSE_PARTS) + ROUTER_PARTS
    for name in tensors:
        tensor = expert_tensor(name)
        if _is_unplaced(name) or (tensor and tensor.part not in parts):
            raise UserError(
                f"{path}: tensor {shown(name)} is not part of the gpt-oss "
                f"{'MXFP4' if is_mxfp4 else 'dequantised'} layout; use the published checkpoint layout"
            )
