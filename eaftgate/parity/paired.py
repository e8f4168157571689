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
_ROUNDING = 1e-6
"""What 1 less a sum of float32 probabilities is known to."""
CLOSE = 1e-3
"""Nats: less than what another device or batch does to a log-probability may decide which of two choices is first."""


@dataclass(frozen=True)
class PairedTokens:
    """Log-probability (nats), probability `p` and normalised entropy `h` of either model.

    `top_jsd_T` (nats): Jensen-Shannon divergence over the ids in both models' top 20 and one bucket for all others, a
    lower bound of that over the whole vocabulary. `top_kld_T` (nats): KL(base || candidate), bounded from below by the
    same numbers (`top_divergences`); `unshared_T`: the base's probability outside those ids. `first_T`: the reference
    is the model's first choice, or as good as it; `choice_T` is the candidate's. `close_T`: in either model the first
    two choices lie less than CLOSE apart.
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
    top_kld_T: NDArray[np.float32]
    unshared_T: NDArray[np.float32]
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
    jsd_T, kld_T, unshared_T = top_divergences(base.stats, candidate.stats, base.token_T)
    return PairedTokens(
        logprob_base_T=logprob_base_T,
        logprob_T=logprob_T,
        p_base_T=np.minimum(np.exp(logprob_base_T), 1.0),
        p_T=np.minimum(np.exp(logprob_T), 1.0),
        h_base_T=base.stats.entropy_T.astype(np.float64),
        h_T=candidate.stats.entropy_T.astype(np.float64),
        top_jsd_T=jsd_T,
        top_kld_T=kld_T,
        unshared_T=unshared_T,
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


def top_divergences(
    base: TokenStats, candidate: TokenStats, token_T: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """(jsd_T, kld_T, unshared_T), per token, in nats, and the base's probability outside the ids that both models have
    among their top 20. Both divergences are exactly 0 where both models put out the same numbers.

    The ids in both top 20 stand for themselves. For the first divergence all others are one bucket. For KL(base ||
    candidate) the reference `token_T`, of which both probabilities are known, stands for itself, too, where the base
    has it among its 20, and two buckets are told apart: the other ids of the base's top 20 that are not in the
    candidate's, of which none has more there than the candidate's 20th, nor all of them more than is left outside its
    top 20; and the rest. Merging ids never raises a divergence (the log-sum inequality), and the candidate's share of
    the first bucket is taken as that, of those allowed, which gives the least: so it is a lower bound of that over the
    whole vocabulary.
    """
    jsd_T, kld_T, unshared_T = (np.zeros(len(base), np.float32) for _ in range(3))
    for start in range(0, len(base), _CHUNK):  # the comparison of all pairs of ids takes 400 bytes a token
        chunk = np.s_[start : start + _CHUNK]
        ours, theirs = base.select(chunk), candidate.select(chunk)
        common_TK, p_TK, q_TK = _common(ours, theirs)
        jsd_T[chunk] = _top_jsd(p_TK, q_TK)
        is_reference_TK = ours.top_ids_TK == token_T[chunk, None]
        kld_T[chunk] = _top_kld(ours, theirs, common_TK, is_reference_TK & ~common_TK, p_TK, q_TK)
        unshared_T[chunk] = np.maximum(1 - p_TK.sum(axis=1), 0)
    return jsd_T, kld_T, unshared_T


def _common(
    base: TokenStats, candidate: TokenStats
) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
    """Which of the base's ids are in the candidate's top 20, too, and their probabilities; 0 where they are not."""
    same_TKK = base.top_ids_TK[:, :, None] == candidate.top_ids_TK[:, None, :]
    place_TK = same_TKK.argmax(axis=2)
    common_TK = np.take_along_axis(same_TKK, place_TK[:, :, None], axis=2)[:, :, 0]
    p_TK = np.where(common_TK, np.exp(base.top_logprobs_TK), 0)
    q_TK = np.where(common_TK, np.exp(np.take_along_axis(candidate.top_logprobs_TK, place_TK, axis=1)), 0)
    return common_TK, p_TK, q_TK


def _top_jsd(p_TK: NDArray[np.float32], q_TK: NDArray[np.float32]) -> NDArray[np.float32]:
    rest_p_T, rest_q_T = (1 - x_TK.sum(axis=1) for x_TK in (p_TK, q_TK))
    # An id that is not common has p = q = tiny here, and so adds exactly nothing.
    p, q = (np.maximum(np.column_stack(pair), _TINY) for pair in ((p_TK, rest_p_T), (q_TK, rest_q_T)))
    mean = (p + q) / 2
    divergence_T: NDArray[np.float32] = (p * np.log(p / mean) + q * np.log(q / mean)).sum(axis=1) / 2
    return np.maximum(divergence_T, 0)


def _top_kld(
    base: TokenStats,
    candidate: TokenStats,
    common_TK: NDArray[np.bool_],
    reference_TK: NDArray[np.bool_],
    p_TK: NDArray[np.float32],
    q_TK: NDArray[np.float32],
) -> FloatArray:
    """`reference_TK`: where the reference is that is not common."""
    p_TK = np.where(reference_TK, np.exp(base.top_logprobs_TK), p_TK)
    q_TK = np.where(reference_TK, np.exp(candidate.logprob_T)[:, None], q_TK)
    p, q = np.maximum(p_TK, _TINY).astype(np.float64), np.maximum(q_TK, _TINY).astype(np.float64)
    divergence_T: FloatArray = (p * np.log(p / q)).sum(axis=1)
    rest_p_T, rest_q_T = (np.maximum(1 - x_TK.sum(axis=1, dtype=np.float64), _ROUNDING) for x_TK in (p_TK, q_TK))
    left_TK = ~(common_TK | reference_TK)
    left_out_T = np.where(left_TK, np.exp(base.top_logprobs_TK), 0).sum(axis=1, dtype=np.float64)
    held_T = np.exp(candidate.top_logprobs_TK).sum(axis=1, dtype=np.float64) + np.where(reference_TK, q, 0).sum(axis=1)
    allowed_T = np.exp(candidate.top_logprobs_TK[:, -1]) * left_TK.sum(axis=1)
    allowed_T = np.minimum(allowed_T, np.maximum(1 - held_T, _ROUNDING))
    share_T = np.minimum(left_out_T / rest_p_T, 1)
    given_T = np.minimum(rest_q_T * share_T, allowed_T)
    for p_T, q_T in ((left_out_T, given_T), (rest_p_T * (1 - share_T), rest_q_T - given_T)):
        divergence_T += np.where(p_T > 0, p_T * np.log(np.maximum(p_T, _TINY) / np.maximum(q_T, _TINY)), 0)
    return np.maximum(divergence_T, 0)
