"""Weights in a format of which a family knows nothing: FP8, AWQ, GPTQ, compressed-tensors, bitsandbytes, ...

They are loaded as transformers loads them, by the quantizer that it has for the `quant_method` of config.json, with the
package that this takes; which formats there are is for transformers to say (`transformers.quantizers`). Our attention
and our experts stay where the loader left what they run on, which is where nothing but the linear layers is stored so;
experts that are something else run by transformers' own forward.
"""

import importlib.metadata
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.quantizers.auto import AutoHfQuantizer

from eaftgate.errors import UserError
from eaftgate.families.model import MoeModel
from eaftgate.visible import plain

LOADERS = (
    "accelerate", "aqlm", "auto-round", "bitsandbytes", "compressed-tensors", "fbgemm-gpu", "fp-quant", "gptqmodel",
    "hqq", "kernels", "optimum", "optimum-quanto", "torchao", "triton", "vptq",
)  # fmt: skip
"""Packages that transformers' quantizers run on: numbers depend on their versions. Which of them a format takes is not
said here, transformers does when it is missing."""


def loaders(storage: str | None) -> dict[str, Any]:
    """What decides the numbers of weights stored as `storage`, besides what decides those of every model."""
    if storage is None:
        return {}
    versions = {}
    for package in LOADERS:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"storage": storage, "loaders": versions}


def check_known(path: Path, storage: str, quantization_config: object) -> None:
    """Raises UserError for a format that transformers does not know: it would load the checkpoint as if it were none,
    and invent what it does not find."""
    if isinstance(quantization_config, Mapping):
        with suppress(ValueError, TypeError):  # without a quant_method, or with one that is no name
            if AutoHfQuantizer.supports_quant_method(dict(quantization_config)):
                return
    raise UserError(
        f"{path} is stored as {plain(storage)}, says quantization_config, which transformers "
        f"{transformers.__version__} does not know; take a checkpoint in a format that it loads, such as bfloat16"
    )


def make_ready(model: MoeModel, module: Any, dtype: torch.dtype, where: Path) -> None:
    """Make what transformers has loaded from `where` run: all that is plain in one dtype where that loses nothing,
    experts by whoever can, and a token, after which what is unpacked once is unpacked.

    Raises UserError when the output matrix is no plain tensor, from which logits are made here, and whatever the
    loader's layers raise when they cannot run on this device.
    """
    if dtype == torch.float32:  # some loaders leave what lies beside their own tensors as it is stored
        for parameter in module.parameters():
            if _is_plain(parameter) and parameter.dtype != dtype:
                parameter.data = parameter.data.to(dtype)
    if not model.has_plain_experts:
        module.set_experts_implementation("eager")
    with torch.no_grad():
        module(input_ids=torch.zeros((1, 1), dtype=torch.long, device=module.device), use_cache=False)
    for part in (module.get_input_embeddings(), module.get_output_embeddings()):
        weight = getattr(part, "weight", None)
        if weight is None or not _is_plain(weight):
            raise UserError(
                f"{where}: its embedding or output matrix is quantised, which cannot be scored; take a checkpoint that "
                "leaves both plain"
            )


def _is_plain(parameter: torch.Tensor) -> bool:
    """Whether it is nothing but numbers: what loaders keep packed is of a dtype or a class of its own."""
    own = type(parameter) in (torch.nn.Parameter, torch.Tensor) and type(parameter.data) is torch.Tensor
    return own and parameter.dtype in (torch.float16, torch.bfloat16, torch.float32)
