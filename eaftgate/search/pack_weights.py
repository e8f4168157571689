"""What a token counts in a refinement: more in a pack that loses more than all tokens do.

A gate judges every pack, so keep sets that are good for all tokens together and bad for a small pack are not what is
wanted. With L the mean rise of the nll over all counted tokens and L_p over those of pack p, a token of the pack weighs

    1 + pack_excess * min(max(L_p / L - 1, 0), 1)

over the mean of that. Held as they are, the weights are those of a penalty that grows with the square of the excess;
from twice L on they grow no further, so that where next to nothing is lost no pack's noise decides alone.

Shapes: T counted tokens, R rows, P packs.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from eaftgate.collect.collection import Collection

NOTHING = 1e-6
"""Nats a token: less than this is no loss, and a pack that loses anything loses more."""


def row_weights(
    pairs: Iterable[tuple[Collection, Collection]], pack_R: NDArray[np.integer], *, pack_excess: float
) -> NDArray[np.float64]:
    """The weight of a token of every row, [R], 1 on average over all tokens. `pack_R` numbers the rows' packs from 0.

    The pairs are (whole model, pruned model) on the same tokens; together they are all counted tokens.
    """
    packs = int(pack_R.max()) + 1
    count_P, rise_P = np.zeros(packs), np.zeros(packs)
    for whole, pruned in pairs:
        pack_T = pack_R[whole.row_T]
        rise_T = whole.stats.logprob_T.astype(np.float64) - pruned.stats.logprob_T
        count_P += np.bincount(pack_T, minlength=packs)
        rise_P += np.bincount(pack_T, weights=rise_T, minlength=packs)
    loss_P, loss = rise_P / np.maximum(count_P, 1), float(rise_P.sum() / count_P.sum())
    weight_P = 1 + pack_excess * np.clip(loss_P / max(loss, NOTHING) - 1, 0, 1)
    weight_R: NDArray[np.float64] = (weight_P / (weight_P @ count_P / count_P.sum()))[pack_R]
    return weight_R
