"""How long a refinement is going to take, before it begins: forward passes, and a speed that was measured.

Imports nothing that is slow.
"""

PASSES = 12.0
"""Over all blocks, as many as the start takes: the experts' outputs, twice, and starts that are measured."""
PASSES_A_LAYER = 3.0
"""Both turns together: swaps that are measured on a half, through the layers that follow."""
ASKED_TOKENS = 900_000
"""Tokens a layer, prompts too, on which swaps are asked about, both turns together, however many blocks there are."""


def estimated_seconds(*, tokens: int, tokens_per_second: float, layers: int) -> float:
    """Of a refinement over blocks of `tokens` tokens, prompts too, of a model of `layers`; `tokens_per_second` is the
    whole model's speed."""
    return (tokens * (PASSES + PASSES_A_LAYER * layers) + ASKED_TOKENS * layers) / tokens_per_second
