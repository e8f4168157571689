"""Which calibration rows a sweep chooses on, and which it only scores on.

A selection that is scored on the rows it was chosen with looks better than it is, a search more so than a ranking. So a
part of every pack's rows is held out, by identity. Choosing and scoring count different tokens of the same blocks: what
a token sees before it in its block is left alone, as rows share blocks in a gate, too.

Shapes: T counted tokens of all blocks.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eaftgate.errors import UserError
from eaftgate.packs.blocks import Blocks
from eaftgate.profile.profile import Profile


@dataclass(frozen=True)
class Calibration:
    """What a selection may see: the same tokens as blocks and as a profile's trace."""

    blocks: Blocks
    profile: Profile


@dataclass(frozen=True)
class HeldOut:
    """`choosing_rows` are in the profile's order, numbered as in `blocks.identities`; of equal rows the first stands
    for all. Rows without a counted token are in neither part. `scored` holds the tokens of the others."""

    blocks: Blocks
    profile: Profile
    choosing_rows: tuple[int, ...]
    num_scored_rows: int
    scored: Blocks

    def calibration(self, num_rows: int) -> Calibration:
        """The first `num_rows` rows to choose on: a smaller budget is a part of a larger one."""
        seen = {self.blocks.identities[row] for row in self.choosing_rows[:num_rows]}
        chosen_T = _tokens_of(self.blocks, seen)
        trace = self.profile.trace.select(chosen_T)
        return Calibration(self.blocks.scoring(chosen_T), replace(self.profile, trace=trace))


def hold_out(blocks: Blocks, profile: Profile, share: float) -> HeldOut:
    """Hold `share` of every pack's rows out, evenly spread over the profile's order. `blocks` are the profile's.

    Equal rows, of one pack or of several, stay together. Raises UserError when either part would be without a row.
    """
    if not 0 < share < 1:
        raise UserError(f"--score-frac is {share:g}: it must lie between 0 and 1, both excluded")
    row_T = blocks.row_BS[blocks.scored_BS]
    row_R, first_R = np.unique(row_T, return_index=True)
    pack_R = profile.trace.column("pack_T")[first_R]
    scored: dict[str, bool] = {}
    seen: Counter[int] = Counter()
    choosing = []
    for row, pack in zip(row_R.tolist(), pack_R.tolist(), strict=True):
        identity = blocks.identities[row]
        if identity not in scored:
            scored[identity] = math.floor((seen[pack] + 1) * share) > math.floor(seen[pack] * share)
            seen[pack] += 1
            if not scored[identity]:
                choosing.append(row)
    if not choosing or not any(scored.values()):
        raise UserError(
            f"--score-frac {share:g} leaves no row to {'score on' if choosing else 'choose on'}: the profile has "
            f"{len(scored)} rows with answers; profile more rows or take another share"
        )
    held_out = {identity for identity, is_scored in scored.items() if is_scored}
    return HeldOut(blocks, profile, tuple(choosing), len(held_out), blocks.scoring(_tokens_of(blocks, held_out)))


def _tokens_of(blocks: Blocks, identities: set[str]) -> NDArray[np.bool_]:
    """Which counted tokens are of rows with these identities."""
    member_R = np.array([identity in identities for identity in blocks.identities])
    chosen_T: NDArray[np.bool_] = member_R[blocks.row_BS[blocks.scored_BS]]
    return chosen_T
