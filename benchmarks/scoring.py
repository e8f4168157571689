"""What the scoring benchmarks run: a bare forward pass, and the passes that are measured against it.

Shapes: B blocks, S positions a block, T scored tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from eaftgate.collect.collection import TOP_K
from eaftgate.collect.token_stats import token_stats
from eaftgate.families.gpt_oss_model import GROUPED_EXPERTS, GptOssModel
from eaftgate.model.attention import SINK_ATTENTION
from eaftgate.model.load import ModelSettings, load_model

Model = GptOssModel
"""What is measured; `module` is transformers' model in it."""


def loaded(path: Path, settings: ModelSettings) -> Model:
    model = load_model(path, settings)
    assert isinstance(model, Model)
    return model


def wait_for(model: Model) -> None:
    """Wait until the model's device has done all that was asked of it."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


@torch.inference_mode()
def bare_forward(model: Model, token_ids_BS: Tensor) -> Tensor:
    """The reference of every scoring speed: hidden states of the same model, and no logits."""
    output = model.hidden_states(token_ids_BS)
    wait_for(model)
    return output


@contextmanager
def attention(model: Model, name: str) -> Iterator[None]:
    """Run with another attention of transformers' interface while the context is open."""
    model.module.set_attn_implementation(name)
    try:
        yield
    finally:
        model.module.set_attn_implementation(SINK_ATTENTION)


@contextmanager
def experts(model: Model, name: str) -> Iterator[None]:
    """Run with another experts dispatch of transformers while the context is open."""
    model.module.set_experts_implementation(name)
    try:
        yield
    finally:
        model.module.set_experts_implementation(GROUPED_EXPERTS)


@torch.inference_mode()
def masked_forward(model: Model, token_ids_BS: Tensor) -> Tensor:
    """Hidden states with the masks that transformers builds: for attention that does not know its own pattern."""
    output: Tensor = model.module.model(input_ids=token_ids_BS, use_cache=False).last_hidden_state
    wait_for(model)
    return output


@torch.inference_mode()
def logprobs(model: Model, hidden_BSD: Tensor, token_ids_BS: Tensor) -> Tensor:
    """Log-probability of every token but the first of each block, flat."""
    target_T = token_ids_BS[:, 1:].flatten()
    return token_stats(hidden_BSD[:, :-1].flatten(0, 1), target_T, model.head_VD, top_k=TOP_K)[0]
