"""How long a refinement is going to take: forward passes over its blocks, and a speed that was measured.

What is asked of a layer grows with its experts, and on how many tokens it is asked does not fall with those that there
are: a few blocks take many passes. Imports nothing that is slow.
"""

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from eaftgate.search.parts import FEWEST_TOKENS, STAGES, TURNS
from eaftgate.search.settings import MAX_POSITIONS

if TYPE_CHECKING:
    from eaftgate.packs.blocks import Blocks

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
    """Over the blocks with answers, of `tokens` tokens, prompts too: of the greedy selections, of measuring the starts,
    and of every layer of a turn."""

    tokens: int
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

    def seconds(self, tokens_per_second: float) -> float:
        """Of all of it, by the whole model's speed."""
        return self.whole * self.tokens / tokens_per_second

    @property
    def through(self) -> list[float]:
        """Until either turn has come through so many layers, from none."""
        return list(accumulate(self.layers * TURNS, initial=self.begun))


def expected_passes(
    blocks: "Blocks", *, layers: int, experts: int, top_k: int, keep_n: int, positions: int = MAX_POSITIONS
) -> Passes:
    """Of a refinement over `blocks`, of which it leaves those without a scored token out; `positions` is the most that
    greedy selections look at. docs/log/2026-11-28-search.md has what was measured."""
    scored, answered = max(blocks.num_scored, 1), int(blocks.scored_BS.any(axis=1).sum())
    of_a_half = max(answered // 2, 1)
    tokens = max(answered, 1) * blocks.seq_len

    def part(share: float) -> float:
        """Of a half, as that share of it is really measured: whole blocks, of enough tokens."""
        return math.ceil(min(max(share, 2 * FEWEST_TOKENS / scored), 1) * of_a_half) / of_a_half

    (few, go_on), (some, then_go_on), (most, _) = STAGES
    a_position = OUTPUTS * experts / top_k + ELIMINATION * experts * (experts - keep_n)
    more = go_on * part(some) + then_go_on * (part(most) - part(some)) + 1
    asked = experts if keep_n > top_k else keep_n * (experts - keep_n)
    of_half = AGAIN * (asked * part(few) + GOES_ON * more)
    return Passes(
        tokens=tokens,
        greedy=min(scored, positions) / tokens * a_position,
        starts=STARTS * part(some) + FINALISTS * (part(most) - part(some)),
        # All that is measured runs through the layers that follow only.
        layers=tuple(of_half / 2 * (layers - layer) / layers for layer in range(layers)),
    )
