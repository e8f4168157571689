"""The counted tokens of a cell under both models, side by side, with the clusters they belong to. NumPy only.

Shapes: T counted tokens, K alternatives.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from eaftgate.collect.collection import Collection, TokenStats
from eaftgate.packs.blocks import Roles

FloatArray = NDArray[np.float64]
_CHUNK = 1 << 13
_TINY = np.float32(1e-30)
CLOSE = 1e-3
"""Nats: less than what another device or batch does to a log-probability may decide which of two choices is first."""


@dataclass(frozen=True)
class PairedTokens:
    """Log-probability (nats), probability `p` and normalised entropy `h` of either model.

    `top_jsd_T` (nats): Jensen-Shannon divergence over the ids in both models' top 20 and one bucket for all others, a
    lower bound of that over the whole vocabulary. `first_T`: the reference is the model's first choice, or as good as
    it; `choice_T` is the candidate's. `close_T`: in either model the first two choices lie less than CLOSE apart.
    `row_T` and `block_T` name a token's clusters, `roles` says what it is to the assistant's messages, `cut_T` that its
    block lacks a part of its prompt.
    """

    logprob_base_T: FloatArray
    logprob_T: FloatArray
    p_base_T: FloatArray
    p_T: FloatArray
    h_base_T: FloatArray
    h_T: FloatArray
    top_jsd_T: NDArray[np.float32]
    same_top1_T: NDArray[np.bool_]
    first_base_T: NDArray[np.bool_]
    first_T: NDArray[np.bool_]
    choice_T: NDArray[np.int32]
    close_T: NDArray[np.bool_]
    row_T: NDArray[np.int32]
    block_T: NDArray[np.int32]
    cut_T: NDArray[np.bool_]
    roles: Roles

    def __len__(self) -> int:
        return len(self.p_T)

    @property
    def nll_delta_T(self) -> FloatArray:
        """Candidate minus base."""
        return self.logprob_base_T - self.logprob_T

    def select(self, chosen_T: NDArray[np.bool_]) -> "PairedTokens":
        columns = {name: getattr(self, name)[chosen_T] for name in _COLUMNS}
        return PairedTokens(**columns, roles=self.roles.at(chosen_T))

    def content(self) -> "PairedTokens":
        """Those of messages' content: what perplexity is of."""
        return self.select(self.roles.content)


_COLUMNS = tuple(field.name for field in fields(PairedTokens) if field.name != "roles")


def concatenate_pairs(parts: Sequence[PairedTokens]) -> PairedTokens:
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
    roles = zip(*(part.roles.columns for part in parts), strict=True)
    return PairedTokens(**columns, roles=Roles(*map(np.concatenate, roles)))


def pair(base: Collection, candidate: Collection) -> PairedTokens:
    """Raises ValueError when the two are not of the same tokens, or hold what is not finite."""
    same = ((getattr(side, name) for side in (base, candidate)) for name in ("token_T", "row_T", "block_T"))
    if not all(np.array_equal(*columns) for columns in same):
        raise ValueError("base and candidate are not of the same tokens: their rows or blocks differ")
    columns = (s for side in (base.stats, candidate.stats) for s in (side.logprob_T, side.entropy_T))
    if not all(np.isfinite(column).all() for column in columns):
        raise ValueError("a log-probability or entropy is not finite")
    # float64 throughout: a float32 p within half an ulp of a bin's edge would fall on either side by chance.
    logprob_base_T, logprob_T = (side.logprob_T.astype(np.float64) for side in (base.stats, candidate.stats))
    return PairedTokens(
        logprob_base_T=logprob_base_T,
        logprob_T=logprob_T,
        p_base_T=np.minimum(np.exp(logprob_base_T), 1.0),
        p_T=np.minimum(np.exp(logprob_T), 1.0),
        h_base_T=base.stats.entropy_T.astype(np.float64),
        h_T=candidate.stats.entropy_T.astype(np.float64),
        top_jsd_T=top_jsd(base.stats, candidate.stats),
        same_top1_T=base.stats.top_ids_TK[:, 0] == candidate.stats.top_ids_TK[:, 0],
        first_base_T=first_choice(base.stats),
        first_T=first_choice(candidate.stats),
        choice_T=candidate.stats.top_ids_TK[:, 0],
        close_T=_close(base.stats) | _close(candidate.stats),
        row_T=base.row_T,
        block_T=base.block_T,
        cut_T=base.cut_T,
        roles=base.roles,
    )


def first_choice(stats: TokenStats) -> NDArray[np.bool_]:
    """Whether no token is more probable than the reference; a tie counts for the reference."""
    first_T: NDArray[np.bool_] = stats.logprob_T >= stats.top_logprobs_TK[:, 0]
    return first_T


def _close(stats: TokenStats) -> NDArray[np.bool_]:
    close_T: NDArray[np.bool_] = stats.top_logprobs_TK[:, 0] - stats.top_logprobs_TK[:, 1] < CLOSE
    return close_T


def top_jsd(base: TokenStats, candidate: TokenStats) -> NDArray[np.float32]:
    """Per token, in nats; exactly 0 where both models put out the same numbers."""
    divergence_T = np.zeros(len(base), np.float32)
    for start in range(0, len(base), _CHUNK):  # the comparison of all pairs of ids takes 400 bytes a token
        chunk = np.s_[start : start + _CHUNK]
        divergence_T[chunk] = _top_jsd(base.select(chunk), candidate.select(chunk))
    return divergence_T


def _top_jsd(base: TokenStats, candidate: TokenStats) -> NDArray[np.float32]:
    same_TKK = base.top_ids_TK[:, :, None] == candidate.top_ids_TK[:, None, :]
    place_TK = same_TKK.argmax(axis=2)
    common_TK = np.take_along_axis(same_TKK, place_TK[:, :, None], axis=2)[:, :, 0]
    p_TK = np.where(common_TK, np.exp(base.top_logprobs_TK), 0)
    q_TK = np.where(common_TK, np.exp(np.take_along_axis(candidate.top_logprobs_TK, place_TK, axis=1)), 0)
    rest_p_T, rest_q_T = (1 - x_TK.sum(axis=1) for x_TK in (p_TK, q_TK))
    # An id that is not common has p = q = tiny here, and so adds exactly nothing.
    p, q = (np.maximum(np.column_stack(pair), _TINY) for pair in ((p_TK, rest_p_T), (q_TK, rest_q_T)))
    mean = (p + q) / 2
    divergence_T: NDArray[np.float32] = (p * np.log(p / mean) + q * np.log(q / mean)).sum(axis=1) / 2
    return np.maximum(divergence_T, 0)
