"""What the refinement lowers: the loss of all tokens, and that of a pack the more, the further it is above it.

A gate judges every pack, so keep sets that are good for all tokens together and bad for a small pack are not what is
wanted. With L the mean rise of the nll over all counted tokens, L_p over those of pack p, a share s_p of them, it is

    F = L * (1 + EXCESS / 2 * sum_p s_p * max(0, L_p / L - 1)^2)

and a token's weight is how F changes with its nll while the L that packs are compared with stands still.

Shapes: T counted tokens, R rows, P packs.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eaftgate.collect.collection import Collection

EXCESS = 6.0
"""A token of a pack that loses half as much again as all tokens weighs four times as much as one of a pack that does
not lose more than they do (docs/selection.md)."""


@dataclass(frozen=True)
class PackLosses:
    """`loss_P`: the mean rise of the nll, nats a token; `share_P`: of the counted tokens."""

    loss_P: NDArray[np.float64]
    share_P: NDArray[np.float64]

    @property
    def objective(self) -> float:
        """F, nats a token."""
        loss = float(self.share_P @ self.loss_P)
        return loss * (1 + EXCESS / 2 * float(self.share_P @ self._excess_P**2))

    @property
    def weight_P(self) -> NDArray[np.float64]:
        """Of a token of each pack; 1 on average over all tokens."""
        weight_P = 1 + EXCESS * self._excess_P
        return weight_P / float(self.share_P @ weight_P)

    @property
    def _excess_P(self) -> NDArray[np.float64]:
        """By how much more than all tokens a pack loses, as a share of what they do; 0 where nothing is lost."""
        loss = float(self.share_P @ self.loss_P)
        return np.maximum(self.loss_P / loss - 1, 0) if loss > 0 else np.zeros_like(self.loss_P)


def pack_losses(pairs: Iterable[tuple[Collection, Collection]], pack_R: NDArray[np.integer]) -> PackLosses:
    """What `after` loses over `before`, pair by pair (before, after), both of the same tokens; `pack_R` numbers the
    pack of every row from 0."""
    packs = int(pack_R.max()) + 1
    count_P, rise_P = np.zeros(packs), np.zeros(packs)
    for before, after in pairs:
        pack_T = pack_R[before.row_T]
        rise_T = before.stats.logprob_T.astype(np.float64) - after.stats.logprob_T
        count_P += np.bincount(pack_T, minlength=packs)
        rise_P += np.bincount(pack_T, weights=rise_T, minlength=packs)
    return PackLosses(rise_P / np.maximum(count_P, 1), count_P / count_P.sum())
