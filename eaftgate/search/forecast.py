"""How long a refinement is going to take: forward passes over its blocks, and a speed that was measured.

Imports nothing that is slow.
"""

GREEDY, STARTS = 2.5, 4.0
"""Passes before anything is refined: what the greedy selections take as long as, and starts that are measured."""
A_LAYER = 0.7
"""Passes a layer and turn, on average over the layers: all that is measured runs through those that follow only."""
ASKED_TOKENS, ASKED_PASSES = 120_000, 9.0
"""And for the first answers, which need some blocks however many there are: so many tokens, prompts too, or all of them
so often."""


def refinement_passes(*, tokens: int, layers: int) -> list[float]:
    """Of a turn over blocks of `tokens` tokens, prompts too, by layer."""
    average = A_LAYER + min(ASKED_TOKENS / tokens, ASKED_PASSES)
    return [average * 2 * (layers - layer) / (layers + 1) for layer in range(layers)]


def estimated_seconds(*, tokens: int, tokens_per_second: float, layers: int, turns: int = 2) -> float:
    """Of the start and the refinement; `tokens_per_second` is the whole model's speed."""
    passes = GREEDY + STARTS + turns * sum(refinement_passes(tokens=tokens, layers=layers))
    return tokens * passes / tokens_per_second
