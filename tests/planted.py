"""Faults planted in a loaded gpt-oss model, from harmless to fatal, and how far outside its margins a cell is.

Shapes: L layers, E experts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GptOssForCausalLM

from eaftgate.families.gpt_oss_model import GptOssModel, expert_modules
from eaftgate.families.model import MoeModel
from eaftgate.judge.cell import JudgedCell
from eaftgate.judge.metrics import METRICS
from eaftgate.judge.policy import IntervalPolicy
from eaftgate.profile.trace import Trace
from eaftgate.search.evaluate import collected

__all__ = ["FAULTS", "Usage", "collected", "excess", "planted", "usage_of"]

Usage = NDArray[np.int64]
"""Selections of every expert, [L, E]."""
Fault = Callable[[GptOssForCausalLM, Usage], None]


def usage_of(trace: Trace) -> Usage:
    expert_XLK = trace.column("expert_XLK")
    return np.stack(
        [np.bincount(layer.ravel(), minlength=trace.num_experts) for layer in expert_XLK.transpose(1, 0, 2)]
    )


@contextmanager
def planted(model: MoeModel, fault: Fault, usage: Usage) -> Iterator[None]:
    assert isinstance(model, GptOssModel)
    module = model.module
    saved = {name: tensor.clone() for name, tensor in module.state_dict().items() if ".mlp." in name}
    try:
        with torch.no_grad():
            fault(module, usage)
        yield
    finally:
        module.load_state_dict(saved, strict=False)


def zero_expert(layer: int, rank: int) -> Fault:
    """The output of the layer's expert of that rank in use (0: the most used) is zero."""

    def fault(model: GptOssForCausalLM, usage: Usage) -> None:
        expert = int(np.argsort(-usage[layer])[rank])
        experts = expert_modules(model)[layer]
        experts.down_proj[expert] = 0
        experts.down_proj_bias[expert] = 0

    return fault


def swap_router_rows(model: GptOssForCausalLM, usage: Usage) -> None:
    """The two most used experts of the third layer get each other's tokens."""
    first, second = np.argsort(-usage[2])[:2].tolist()
    router = model.model.layers[2].mlp.router
    for tensor in (router.weight, router.bias):
        tensor[[first, second]] = tensor[[second, first]].clone()


def raise_scales(model: GptOssForCausalLM, usage: Usage) -> None:
    """Weights of the most used expert of layer 0 times 16, as if its scale exponents were 4 higher."""
    expert, experts = int(usage[0].argmax()), expert_modules(model)[0]
    experts.gate_up_proj[expert] *= 16
    experts.down_proj[expert] *= 16


def round_to_fp8(model: GptOssForCausalLM, usage: Usage) -> None:  # noqa: ARG001
    """Attention matrices rounded to float8 with a scale for each tensor: the harmless end of the ladder."""
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.o_proj):
            scale = projection.weight.abs().max() / 448
            projection.weight.copy_((projection.weight / scale).to(torch.float8_e4m3fn).float() * scale)


def mask_expert(layer: int) -> Fault:
    """The layer's most used expert is removed: its tokens go to the next in rank."""

    def fault(model: GptOssForCausalLM, usage: Usage) -> None:
        model.model.layers[layer].mlp.router.bias[int(usage[layer].argmax())] = -torch.inf

    return fault


def nothing(model: GptOssForCausalLM, usage: Usage) -> None:
    pass


FAULTS: dict[str, Fault] = {
    "nothing": nothing,
    "fp8 rounding": round_to_fp8,
    "a rarely used expert is zero": zero_expert(1, -8),
    "a used expert is zero": zero_expert(1, 2),
    "the most used expert of layer 1 is zero": zero_expert(1, 0),
    "the most used expert of the first layer is zero": zero_expert(0, 0),
    "the most used expert of the last layer is zero": zero_expert(-1, 0),
    "the most used expert of the first layer is removed": mask_expert(0),
    "router rows swapped": swap_router_rows,
    "scales raised": raise_scales,
}


def excess(policy: IntervalPolicy, whole: JudgedCell) -> float:
    """The largest deciding effect of all blocks in units of its margin."""
    shares = []
    for metric, verdict in whole.verdicts.items():
        if verdict.decides and verdict.estimate is not None and verdict.margin is not None:
            log = METRICS[metric].estimated
            effect = log(verdict.estimate) / log(verdict.margin)
            shares.append(abs(effect) if policy.rules[metric].side == "both" else effect)
    return max(shares)
