"""Cells with a known truth: tokens of simulated documents under a base and a candidate.

ln(p / (1 - p)) and ln(H / (1 - H)) of a token are normal, with a part that its document shares. The candidate's have
the same law less `shift` on p's, so that the share of every bin, and with it JS2D, has a closed form; `noise` is how
far a token strays from itself under the candidate, `shared` the part of all spreads that documents share.

Shapes: T tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from content import content_roles
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm

from eaftgate.judge.cell import Look
from eaftgate.parity.js2d import Bins, jensen_shannon
from eaftgate.parity.paired import PairedTokens

P_LAW, H_LAW = (1.5, 3.0), (-1.5, 2.0)
"""Mean and standard deviation of the two log odds."""
TOKENS_A_BLOCK = 300


def documents(rng: np.random.Generator, tokens: int, mean_length: float = 150) -> NDArray[np.int32]:
    """The document of every token; lengths are geometric."""
    lengths = 1 + rng.geometric(1 / mean_length, size=int(3 * tokens / mean_length) + 10)
    return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[:tokens]


def clustered_normal(rng: np.random.Generator, row_T: NDArray[np.int32], shared: float) -> NDArray[np.float64]:
    """Standard normal; two tokens of a document have correlation `shared`."""
    between_T: NDArray[np.float64] = rng.standard_normal(int(row_T.max()) + 1)[row_T]
    return math.sqrt(shared) * between_T + math.sqrt(1 - shared) * rng.standard_normal(len(row_T))


def simulated_cell(
    rng: np.random.Generator, tokens: int, *, shift: float = 0.0, noise: float = 0.0, shared: float = 0.2
) -> PairedTokens:
    row_T = documents(rng, tokens)
    keep = np.sqrt(1 - noise**2)

    def sides(mean: float, deviation: float, moved: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        base_T = clustered_normal(rng, row_T, shared)
        candidate_T = keep * base_T + noise * clustered_normal(rng, row_T, shared) if noise else base_T
        return expit(mean + deviation * base_T), expit(mean - moved + deviation * candidate_T)

    p_base_T, p_T = sides(*P_LAW, shift)
    h_base_T, h_T = sides(*H_LAW, 0.0)
    block_T = (np.arange(tokens) // TOKENS_A_BLOCK).astype(np.int32)
    return paired(np.log(p_base_T), np.log(p_T), h_base_T, h_T, row_T, block_T)


def paired(
    logprob_base_T: NDArray[np.float64],
    logprob_T: NDArray[np.float64],
    h_base_T: NDArray[np.float64],
    h_T: NDArray[np.float64],
    row_T: NDArray[np.int32],
    block_T: NDArray[np.int32],
) -> PairedTokens:
    """Tokens of content whose top 20 are of no interest."""
    return PairedTokens(
        logprob_base_T=logprob_base_T,
        logprob_T=logprob_T,
        p_base_T=np.exp(logprob_base_T),
        p_T=np.exp(logprob_T),
        h_base_T=h_base_T,
        h_T=h_T,
        top_jsd_T=np.zeros(len(row_T), np.float32),
        top_kld_T=np.zeros(len(row_T), np.float32),
        unshared_T=np.zeros(len(row_T), np.float32),
        same_top1_T=np.ones(len(row_T), np.bool_),
        first_base_T=np.ones(len(row_T), np.bool_),
        first_T=np.ones(len(row_T), np.bool_),
        choice_T=np.zeros(len(row_T), np.int32),
        close_T=np.zeros(len(row_T), np.bool_),
        row_T=row_T,
        block_T=block_T,
        cut_T=np.zeros(len(row_T), np.bool_),
        roles=content_roles(np.ones(len(row_T), np.bool_)),
    )


def base_alone(tokens: PairedTokens) -> PairedTokens:
    """The base paired with itself."""
    return replace(tokens, logprob_T=tokens.logprob_base_T, p_T=tokens.p_base_T, h_T=tokens.h_base_T)


def parts_of(tokens: PairedTokens, looks: Sequence[Look]) -> Iterator[PairedTokens]:
    begin = 0
    for look in looks:
        yield tokens.select((tokens.block_T >= begin) & (tokens.block_T < look.num_blocks))
        begin = look.num_blocks


def true_js2d(shift: float, bins: Bins) -> float:
    """JS2D of the two laws on `bins`, without sampling."""

    def shares(law: tuple[float, float], number: int, moved: float) -> NDArray[np.float64]:
        inner = logit(np.linspace(0, 1, number + 1)[1:-1])
        return np.diff(norm.cdf(np.array([-np.inf, *inner, np.inf]), law[0] - moved, law[1]))

    h_share = shares(H_LAW, bins.h, 0.0)
    sides = (np.outer(shares(P_LAW, bins.p, moved), h_share) for moved in (0.0, shift))
    return jensen_shannon(*sides)
