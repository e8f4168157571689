"""Soft pruning: removing experts from a loaded model by masking their router logits.

A masked expert is never selected, the next-ranked one steps in and the softmax runs over the survivors: the same
function as the structurally pruned checkpoint's.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GptOssForCausalLM


@contextmanager
def keeping_experts(model: GptOssForCausalLM, keep: Sequence[Sequence[int]]) -> Iterator[None]:
    """Only the experts `keep[layer]` can be selected while the context is open."""
    biases = [layer.mlp.router.bias for layer in model.model.layers]
    saved = [bias.detach().clone() for bias in biases]
    try:
        with torch.no_grad():
            for bias, kept in zip(biases, keep, strict=True):
                removed = torch.ones(len(bias), dtype=torch.bool)
                removed[list(kept)] = False
                bias[removed.to(bias.device)] = -torch.inf
        yield
    finally:
        with torch.no_grad():
            for bias, original in zip(biases, saved, strict=True):
                bias.copy_(original)
