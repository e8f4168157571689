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
        tops = _Tops.of(base.select(chunk), candidate.select(chunk), token_T[chunk])
        jsd_T[chunk], kld_T[chunk] = _top_jsd(tops), _top_kld(tops)
        unshared_T[chunk] = np.maximum(1 - tops.shared(tops.p_TK).sum(axis=1), 0)
    return jsd_T, kld_T, unshared_T


@dataclass(frozen=True)
class _Tops:
    """Both models' top 20 side by side. `p_TK` are the base's probabilities and `gap_TK` how much larger than the
    candidate's their logarithms are, where that is known: of the `common_TK`, which have `q_TK` under the candidate,
    and where the reference is, which has `q_T`. `all_q_T` and `least_q_T`: of the candidate's 20, together and of the
    last."""

    common_TK: NDArray[np.bool_]
    reference_TK: NDArray[np.bool_]
    p_TK: NDArray[np.float32]
    q_TK: NDArray[np.float32]
    gap_TK: NDArray[np.float32]
    q_T: NDArray[np.float32]
    all_q_T: FloatArray
    least_q_T: NDArray[np.float32]

    @classmethod
    def of(cls, base: TokenStats, candidate: TokenStats, token_T: NDArray[np.int32]) -> "_Tops":
        same_TKK = base.top_ids_TK[:, :, None] == candidate.top_ids_TK[:, None, :]
        place_TK = same_TKK.argmax(axis=2)
        common_TK = np.take_along_axis(same_TKK, place_TK[:, :, None], axis=2)[:, :, 0]
        reference_TK = (base.top_ids_TK == token_T[:, None]) & ~common_TK
        all_q_TK = np.exp(candidate.top_logprobs_TK)
        known_TK = np.where(
            reference_TK, candidate.logprob_T[:, None], np.take_along_axis(candidate.top_logprobs_TK, place_TK, axis=1)
        )
        return cls(
            common_TK,
            reference_TK,
            p_TK=np.exp(base.top_logprobs_TK),
            q_TK=np.take_along_axis(all_q_TK, place_TK, axis=1),
            gap_TK=base.top_logprobs_TK - known_TK,
            q_T=np.where(reference_TK.any(axis=1), np.exp(candidate.logprob_T), np.float32(0)),
            all_q_T=all_q_TK.sum(axis=1, dtype=np.float64),
            least_q_T=all_q_TK[:, -1],
        )

    def shared(self, value_TK: NDArray[np.float32]) -> NDArray[np.float32]:
        """0 where an id is not common."""
        return np.where(self.common_TK, value_TK, np.float32(0))


def _top_jsd(tops: _Tops) -> NDArray[np.float32]:
    p_TK, q_TK = tops.shared(tops.p_TK), tops.shared(tops.q_TK)
    rest_p_T, rest_q_T = (1 - x_TK.sum(axis=1) for x_TK in (p_TK, q_TK))
    # An id that is not common has p = q = tiny here, and so adds exactly nothing.
    p, q = (np.maximum(np.column_stack(pair), _TINY) for pair in ((p_TK, rest_p_T), (q_TK, rest_q_T)))
    mean = (p + q) / 2
    divergence_T: NDArray[np.float32] = (p * np.log(p / mean) + q * np.log(q / mean)).sum(axis=1) / 2
    return np.maximum(divergence_T, 0)


def _top_kld(tops: _Tops) -> FloatArray:
    known_TK = tops.common_TK | tops.reference_TK
    divergence_T: FloatArray = np.where(known_TK, tops.p_TK * tops.gap_TK, 0).sum(axis=1, dtype=np.float64)
    known_p_T = np.where(known_TK, tops.p_TK, 0).sum(axis=1, dtype=np.float64)
    known_q_T = tops.shared(tops.q_TK).sum(axis=1, dtype=np.float64) + tops.q_T
    rest_p_T, rest_q_T = (np.maximum(1 - known_T, _ROUNDING) for known_T in (known_p_T, known_q_T))
    left_out_T = np.where(known_TK, 0, tops.p_TK).sum(axis=1, dtype=np.float64)
    outside_T = np.maximum(1 - tops.all_q_T - tops.q_T, _ROUNDING)
    allowed_T = np.minimum(tops.least_q_T * (~known_TK).sum(axis=1), outside_T)
    share_T = np.minimum(left_out_T / rest_p_T, 1)
    given_T = np.minimum(rest_q_T * share_T, allowed_T)
    for p_T, q_T in ((left_out_T, given_T), (rest_p_T * (1 - share_T), rest_q_T - given_T)):
        divergence_T += np.where(p_T > 0, p_T * np.log(np.maximum(p_T, _TINY) / np.maximum(q_T, _TINY)), 0)
    return np.maximum(divergence_T, 0)
