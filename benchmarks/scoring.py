"""What the scoring benchmarks run: a bare forward pass, and the passes that are measured against it.

Shapes: B blocks, S positions a block, T scored tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import GptOssForCausalLM

from eaftgate.collect.collection import TOP_K
from eaftgate.collect.token_stats import token_stats
from eaftgate.model.attention import SINK_ATTENTION
from eaftgate.model.experts import GROUPED_EXPERTS
from eaftgate.model.load import hidden_states


def wait_for(model: GptOssForCausalLM) -> None:
    """Wait until the model's device has done all that was asked of it."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


@torch.inference_mode()
def bare_forward(model: GptOssForCausalLM, token_ids_BS: Tensor) -> Tensor:
    """The reference of every scoring speed: hidden states of the same model, and no logits."""
    output = hidden_states(model, token_ids_BS)
    wait_for(model)
    return output


@contextmanager
def attention(model: GptOssForCausalLM, name: str) -> Iterator[None]:
    """Run with another attention of transformers' interface while the context is open."""
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(SINK_ATTENTION)


@contextmanager
def experts(model: GptOssForCausalLM, name: str) -> Iterator[None]:
    """Run with another experts dispatch of transformers while the context is open."""
    model.set_experts_implementation(name)
    try:
        yield
    finally:
        model.set_experts_implementation(GROUPED_EXPERTS)


@torch.inference_mode()
def masked_forward(model: GptOssForCausalLM, token_ids_BS: Tensor) -> Tensor:
    """Hidden states with the masks that transformers builds: for attention that does not know its own pattern."""
    output: Tensor = model.model(input_ids=token_ids_BS, use_cache=False).last_hidden_state
    wait_for(model)
    return output


@torch.inference_mode()
def logprobs(model: GptOssForCausalLM, hidden_BSD: Tensor, token_ids_BS: Tensor) -> Tensor:
    """Log-probability of every token but the first of each block, flat."""
    target_T = token_ids_BS[:, 1:].flatten()
    return token_stats(hidden_BSD[:, :-1].flatten(0, 1), target_T, model.lm_head, top_k=TOP_K)[0]
