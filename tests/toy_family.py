"""A family that gpt-oss is not: dense layers among the others, and a tensor for each expert, numbered in its name.

Nothing of it is in eaftgate: whatever reads, rewrites and judges its checkpoints does so through the Protocol alone.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tiny_checkpoint import Tensor, write_shard

from eaftgate.errors import UserError
from eaftgate.families.family import Dimensions, ExpertWeight, Kept, StoredTensor, kept_rows, kept_whole

if TYPE_CHECKING:
    from toy_model import ToyModel

VOCABULARY, HIDDEN, INNER, EXPERTS, TOP_K = 40, 8, 12, 6, 2
LAYERS, MOE_LAYERS = 5, (1, 3)
CONFIG = {
    "model_type": "toy", "architectures": ["ToyForCausalLM"], "layers": LAYERS, "moe_layers": [*MOE_LAYERS],
    "experts": EXPERTS, "top_k": TOP_K, "vocab_size": VOCABULARY, "hidden": HIDDEN, "inner": INNER,
}  # fmt: skip
_EXPERT = re.compile(r"layers\.(\d+)\.experts\.(\d+)\.(up|down)")
_ROUTER = re.compile(r"layers\.(\d+)\.router")


@dataclass(frozen=True)
class ToyFamily:
    name: str = "toy"
    model_type: str = "toy"
    architecture: str = "ToyForCausalLM"
    sglang_module: str = "sglang.srt.models.toy"
    sglang_defaults: Mapping[str, Any] = field(default_factory=dict)

    def dimensions(self, config: Mapping[str, Any], *, where: Path) -> Dimensions:  # noqa: ARG002
        sizes = (config[key] for key in ("experts", "top_k", "vocab_size", "hidden", "inner"))
        return Dimensions(config["layers"], config["moe_layers"], *sizes)

    def foreign_storage(self, config: Mapping[str, Any]) -> str | None:  # noqa: ARG002
        return None

    def check(
        self, path: Path, config: Mapping[str, Any], dimensions: Dimensions, tensors: Mapping[str, StoredTensor]
    ) -> bool:
        needed = shapes(dimensions.num_experts)
        found = {name: tensor.shape for name, tensor in tensors.items()}
        if needed != found:
            raise UserError(f"{path}: {sorted(needed.items() ^ found.items())[0][0]} is not what {config} needs")
        return False

    def needed(self, config: Mapping[str, Any], dimensions: Dimensions, **_: Any) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        return shapes(dimensions.num_experts)

    def twins(self, config: Mapping[str, Any]) -> Mapping[str, str]:  # noqa: ARG002
        return {}

    def is_passed_over(self, name: str) -> bool:  # noqa: ARG002
        return False

    def kept(self, tensor: StoredTensor, keep: Mapping[int, Sequence[int]]) -> Kept | None:
        if router := _ROUTER.fullmatch(tensor.name):
            return kept_rows(tensor, keep[int(router[1])])
        if (expert := _EXPERT.fullmatch(tensor.name)) is None:
            return kept_whole(tensor)
        layer, number, part = int(expert[1]), int(expert[2]), expert[3]
        if number not in keep[layer]:
            return None
        name = f"layers.{layer}.experts.{keep[layer].index(number)}.{part}"
        return Kept(name, tensor.shape, kept_whole(tensor).spans)

    def shard_group(self, name: str) -> tuple[int, int, str]:
        """An expert's tensors together, the experts in the order of their numbers."""
        if expert := _EXPERT.fullmatch(name):
            return (1, int(expert[1]), f"{int(expert[2]):03d}")
        return (0, 0, name)

    def parted(self, tensors: Mapping[str, StoredTensor]) -> list[str]:
        pairs = ((name, f"{name.removesuffix('up')}down") for name in tensors if name.endswith(".up"))
        return [f"{up} and {down} are parted" for up, down in pairs if tensors[up].shard != tensors[down].shard]

    def pruned_config(self, config: Mapping[str, Any], keep_n: int) -> dict[str, Any]:
        return {**config, "experts": keep_n}

    def plain_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return dict(config)

    def expert_weights(self, dimensions: Dimensions, tensors: Mapping[str, StoredTensor]) -> Sequence[ExpertWeight]:  # noqa: ARG002
        """Of rows by columns, the columns are the inputs."""
        return [
            ExpertWeight(name, tensor.shape, 1, name) for name, tensor in tensors.items() if _EXPERT.fullmatch(name)
        ]

    def layer_of(self, name: str) -> int | None:
        return int(name.split(".")[1]) if name.startswith("layers.") else None

    def holds_experts(self, name: str) -> bool:
        return _EXPERT.fullmatch(name) is not None or _ROUTER.fullmatch(name) is not None

    def is_scales(self, name: str) -> bool:  # noqa: ARG002
        return False

    def is_norm(self, name: str) -> bool:
        return name.endswith(".norm")

    def model_class(self) -> "type[ToyModel]":
        from toy_model import ToyModel

        return ToyModel


def shapes(num_experts: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model with so many experts a layer."""
    found: dict[str, tuple[int, ...]] = {"embedding": (VOCABULARY, HIDDEN), "head": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        found[f"layers.{layer}.norm"] = (HIDDEN,)
        if layer not in MOE_LAYERS:
            found |= {f"layers.{layer}.up": (INNER, HIDDEN), f"layers.{layer}.down": (HIDDEN, INNER)}
            continue
        found[f"layers.{layer}.router"] = (num_experts, HIDDEN)
        for expert in range(num_experts):
            prefix = f"layers.{layer}.experts.{expert}"
            found |= {f"{prefix}.up": (INNER, HIDDEN), f"{prefix}.down": (HIDDEN, INNER)}
    return found


def write_toy_checkpoint(directory: Path, *, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """A checkpoint of random float32 weights; returns them."""
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes(EXPERTS).items()}
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    write_shard(directory / "model.safetensors", {name: Tensor("F32", array) for name, array in arrays.items()})
    return arrays


def pruned(arrays: Mapping[str, NDArray[np.float32]], keep: Sequence[Sequence[int]]) -> dict[str, NDArray[np.float32]]:
    """The slow oracle of a rewrite: name by name."""
    left = {name: array for name, array in arrays.items() if ".experts." not in name}
    for layer, kept in zip(MOE_LAYERS, keep, strict=True):
        left[f"layers.{layer}.router"] = np.stack([arrays[f"layers.{layer}.router"][expert] for expert in kept])
        for new, old in enumerate(kept):
            for part in ("up", "down"):
                left[f"layers.{layer}.experts.{new}.{part}"] = arrays[f"layers.{layer}.experts.{old}.{part}"]
    return left
