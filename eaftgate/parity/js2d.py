"""JS2D: how far apart the two models' histograms of (p, entropy) are, and how much of that is only sampling.

The plug-in value between two samples is biased upwards, by about (1/8) sum_k var(a_k - b_k) / m_k for paired tokens
(a, b the bins' shares under either model, m their mean), so it measures the number of tokens more than the damage.
The bias is estimated by exchanging base and candidate in every document at random, which leaves the bias as it is
and removes the difference (a swap null); coarse bins keep it small to begin with.

Shapes: T counted tokens, C documents, B swaps, N bins of a flattened histogram.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.special import rel_entr

from eaftgate.parity.clusters import Clusters, Estimate, clustered_mean
from eaftgate.parity.paired import PairedTokens

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class Bins:
    """Equal bins on the unit square."""

    p: int
    h: int

    def __len__(self) -> int:
        return self.p * self.h

    def of(self, p_T: FloatArray, h_T: FloatArray) -> NDArray[np.int64]:
        """Flat bin number of every token; 1.0 belongs to the last bin."""
        p_bin = np.minimum((p_T * self.p).astype(np.int64), self.p - 1)
        h_bin = np.minimum((h_T * self.h).astype(np.int64), self.h - 1)
        return p_bin * self.h + h_bin


FINE = Bins(160, 120)
"""SPEC section 3: those of the plug-in value."""


def jensen_shannon(count_a: NDArray[Any], count_b: NDArray[Any]) -> float:
    """Jensen-Shannon divergence of two histograms, in nats."""
    return float(_jensen_shannon(count_a.ravel()[:, None], count_b.ravel()[:, None])[0])


def _jensen_shannon(a_NB: NDArray[Any], b_NB: NDArray[Any]) -> NDArray[np.float64]:
    a_NB, b_NB = a_NB / a_NB.sum(axis=0), b_NB / b_NB.sum(axis=0)
    mean_NB = (a_NB + b_NB) / 2
    divergence_B: NDArray[np.float64] = (rel_entr(a_NB, mean_NB) + rel_entr(b_NB, mean_NB)).sum(axis=0) / 2
    return np.maximum(divergence_B, 0)


def plug_in(p_base_T: FloatArray, h_base_T: FloatArray, p_T: FloatArray, h_T: FloatArray, bins: Bins = FINE) -> float:
    sides = (bins.of(p_base_T, h_base_T), bins.of(p_T, h_T))
    return jensen_shannon(*(np.bincount(bin_T, minlength=len(bins)) for bin_T in sides))


@dataclass(frozen=True)
class CorrectedJs2d:
    """`estimate.value` = plug_in - bias. `p_value`: share of swaps that differ at least as much as the models do."""

    estimate: Estimate
    plug_in: float
    bias: float
    p_value: float
    occupied_bins: int
    moved_share: float


def corrected_js2d(
    tokens: PairedTokens, clusterings: Sequence[Clusters], documents: Clusters, bins: Bins, *, swaps: int, seed: int
) -> CorrectedJs2d:
    """JS2D on `bins` less its bias, with a standard error.

    JS is the mean over tokens of g_t = (ln(a/m) at the base's bin + ln(b/m) at the candidate's) / 2, which is also its
    influence function, so its sampling error is that of a clustered mean. Near JS = 0, where that vanishes, what is
    left is the spread of the null; the two variances are added.
    """
    base_T, candidate_T = bins.of(tokens.p_base_T, tokens.h_base_T), bins.of(tokens.p_T, tokens.h_T)
    count_base_N, count_N = (np.bincount(bin_T, minlength=len(bins)) for bin_T in (base_T, candidate_T))
    null_B = _swap_null(base_T, candidate_T, count_base_N + count_N, documents, swaps=swaps, seed=seed)
    value, bias = jensen_shannon(count_base_N, count_N), float(null_B.mean())
    with np.errstate(divide="ignore", invalid="ignore"):
        log_base_N, log_N = (np.log(2 * count / (count_base_N + count_N)) for count in (count_base_N, count_N))
    sampled = clustered_mean((log_base_N[base_T] + log_N[candidate_T]) / 2, clusterings)
    error = math.hypot(sampled.standard_error, float(null_B.std()))
    return CorrectedJs2d(
        estimate=replace(sampled, value=value - bias, standard_error=error),
        plug_in=value,
        bias=bias,
        p_value=(1 + int((null_B >= value).sum())) / (1 + swaps),
        occupied_bins=int(((count_base_N + count_N) > 0).sum()),
        moved_share=float((base_T != candidate_T).mean()),
    )


def _swap_null(
    base_T: NDArray[np.int64],
    candidate_T: NDArray[np.int64],
    total_N: NDArray[np.int64],
    documents: Clusters,
    *,
    swaps: int,
    seed: int,
) -> NDArray[np.float64]:
    """JS after exchanging the models in a random half of the documents, for every swap.

    Both sides are counted twice, total plus and minus difference, which leaves their shares as they are.
    """
    moved_T = np.flatnonzero(base_T != candidate_T)
    document = documents.label_T[moved_T]
    ones = np.ones(len(moved_T))
    difference_NC = coo_array(
        (
            np.concatenate([ones, -ones]),
            (np.concatenate([base_T[moved_T], candidate_T[moved_T]]), np.concatenate([document, document])),
        ),
        shape=(len(total_N), len(documents)),
    ).tocsr()
    sign_CB = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(len(documents), swaps))
    swapped_NB = difference_NC @ sign_CB
    return _jensen_shannon(total_N[:, None] + swapped_NB, total_N[:, None] - swapped_NB)
