"""The numbers of a gpt-oss config.json, checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eaftgate.errors import UserError
from eaftgate.strict_json import is_count, shown

ARCHITECTURE = "GptOssForCausalLM"
MODEL_TYPE = "gpt_oss"
TOP_K_KEYS = ("num_experts_per_tok", "experts_per_token")


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes of a gpt-oss model."""

    num_layers: int
    num_experts: int
    """Experts per layer."""
    top_k: int
    """Experts per token."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int


def read_config(config: dict[str, Any], *, where: Path) -> Dimensions:
    """Check that `config` (from the file `where`) describes a gpt-oss model. Raises UserError."""
    model_type, architectures = config.get("model_type"), config.get("architectures", [ARCHITECTURE])
    if model_type != MODEL_TYPE or architectures != [ARCHITECTURE]:
        raise UserError(
            f"{where}: model_type {shown(model_type)} with architectures {_listed(architectures)} "
            f"is not gpt-oss; only {MODEL_TYPE!r} / {ARCHITECTURE} checkpoints can be used"
        )
    if "auto_map" in config:
        raise UserError(f"{where}: auto_map asks for code from the checkpoint to be run; do not use this checkpoint")
    dimensions = Dimensions(
        num_layers=_positive(config, "num_hidden_layers", where),
        num_experts=_positive(config, "num_local_experts", where),
        top_k=_top_k(config, where),
        vocab_size=_positive(config, "vocab_size", where),
        hidden_size=_positive(config, "hidden_size", where),
        intermediate_size=_positive(config, "intermediate_size", where),
    )
    if dimensions.top_k > dimensions.num_experts:
        raise UserError(
            f"{where}: {dimensions.top_k} experts per token of {dimensions.num_experts} is impossible; "
            "take a fresh copy of the file"
        )
    return dimensions


def _top_k(config: dict[str, Any], where: Path) -> int:
    present = [key for key in TOP_K_KEYS if key in config]
    values = {key: _positive(config, key, where) for key in present or TOP_K_KEYS[:1]}
    if len(set(values.values())) != 1:
        said = " and ".join(f"{key} {value}" for key, value in values.items())
        raise UserError(f"{where}: {said} disagree; correct the one that is wrong")
    return next(iter(values.values()))


def _positive(config: dict[str, Any], key: str, where: Path) -> int:
    value = config.get(key)
    if is_count(value) and value > 0:
        return value
    said = f"is {shown(value)}" if key in config else "is missing"
    raise UserError(f"{where}: {key} {said} where an integer above 0 is needed; take a fresh copy of the file")


def _listed(architectures: object) -> str:
    if isinstance(architectures, list) and len(architectures) == 1:
        return shown(architectures[0])
    return shown(architectures)
