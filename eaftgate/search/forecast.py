"""How long a refinement is going to take, before it begins: forward passes, and a speed that was measured.

Imports nothing that is slow.
"""

PASSES = 12.0
"""Over all blocks, as many as the start takes: the experts' outputs, twice, and starts that are measured."""
PASSES_A_LAYER = 3.0
"""Both turns together: swaps that are measured on a half, through the layers that follow."""
ASKED_TOKENS, ASKED_PASSES = 900_000, 18
"""A layer, on which swaps are asked about, both turns together: so many tokens, prompts too, however many there are, or
all of them so often."""


def estimated_seconds(*, tokens: int, tokens_per_second: float, layers: int) -> float:
    """Of a refinement over blocks of `tokens` tokens, prompts too, of a model of `layers`; `tokens_per_second` is the
    whole model's speed."""
    asked = min(ASKED_TOKENS, ASKED_PASSES * tokens)
    return (tokens * (PASSES + PASSES_A_LAYER * layers) + asked * layers) / tokens_per_second
