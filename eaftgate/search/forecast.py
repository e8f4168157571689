"""How long a refinement is going to take, before it begins: forward passes, and a speed that was measured.

Imports nothing that is slow.
"""

PASSES = 10.0
"""Over all blocks, as many as the start takes: the greedy search, and every start scored."""
PASSES_A_LAYER = 4.0
PASSES_AN_EXPERT = 0.5
"""Of a layer, both turns together: swaps that are measured, and experts that are asked about."""


def estimated_seconds(*, tokens: int, tokens_per_second: float, layers: int, experts: int) -> float:
    """Of a refinement over blocks of `tokens` tokens, prompts too, of `layers` with `experts` each; `tokens_per_second`
    is the whole model's speed."""
    passes = PASSES + layers * (PASSES_A_LAYER + PASSES_AN_EXPERT * experts)
    return passes * tokens / tokens_per_second
