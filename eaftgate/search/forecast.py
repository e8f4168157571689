"""How long a refinement is going to take: forward passes over its blocks, and a speed that was measured.

What is asked of a layer grows with its experts, and on how many tokens it is asked does not fall with those that there
are: a few blocks take many passes. Imports nothing that is slow.
"""

from dataclasses import dataclass
from itertools import accumulate

from eaftgate.search.parts import FEWEST_TOKENS, STAGES, TURNS
from eaftgate.search.settings import MAX_POSITIONS

OUTPUTS, ELIMINATION = 0.3, 0.0225
"""Passes of a token that greedy selections look at: for the outputs of as many experts as it is routed to, and for
asking of an expert what each one that goes leaves behind."""
STARTS, FINALISTS = 16, 5
"""How many starts are measured, and of how many once more: about, since equal ones are measured once."""
AGAIN = 1.3
"""How often a layer is looked at in a turn: again after every move."""
GOES_ON = 0.6
"""Of what might be measured of a layer's moves on more tokens, and of the best on the other half, what is."""


@dataclass(frozen=True)
class Passes:
    """Over all blocks: of the greedy selections, of measuring the starts, and of every layer of a turn."""

    greedy: float
    starts: float
    layers: tuple[float, ...]

    @property
    def begun(self) -> float:
        return self.greedy + self.starts

    @property
    def whole(self) -> float:
        """With the base's own, which comes first."""
        return 1 + self.through[-1]

    @property
    def through(self) -> list[float]:
        """Until either turn has come through so many layers, from none."""
        return list(accumulate(self.layers * TURNS, initial=self.begun))


def expected_passes(
    *, tokens: int, scored: int, layers: int, experts: int, top_k: int, keep_n: int, positions: int = MAX_POSITIONS
) -> Passes:
    """Of a refinement over blocks of `tokens` tokens, prompts too, of which `scored` are answers; `positions` is the
    most that greedy selections look at. docs/log/2026-11-28-search.md has what was measured."""

    def part(share: float) -> float:
        """Of a half, as that share of it is really measured."""
        return min(max(share, 2 * FEWEST_TOKENS / max(scored, 1)), 1)

    (few, go_on), (some, then_go_on), (most, _) = STAGES
    a_position = OUTPUTS * experts / top_k + ELIMINATION * experts * (experts - keep_n)
    more = go_on * part(some) + then_go_on * (part(most) - part(some)) + 1
    asked = experts if keep_n > top_k else keep_n * (experts - keep_n)
    of_half = AGAIN * (asked * part(few) + GOES_ON * more)
    return Passes(
        greedy=min(scored, positions) / tokens * a_position,
        starts=STARTS * part(some) + FINALISTS * (part(most) - part(some)),
        # All that is measured runs through the layers that follow only.
        layers=tuple(of_half / 2 * (layers - layer) / layers for layer in range(layers)),
    )
