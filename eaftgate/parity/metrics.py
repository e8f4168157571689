"""EAFT parity of a candidate against its base on the same counted tokens (SPEC section 3). NumPy only.

EAFT: arXiv 2601.02151. A token is a confident conflict when the model was sure (low entropy) and wrong (low p).

Shapes: T counted tokens, P bins of p, H bins of entropy.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eaftgate.parity.js2d import plug_in

FloatArray = NDArray[np.floating]

QUANTILE = 0.15
_LARGEST_LOG = np.log(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Thresholds:
    """Of the base model on a cell; the same ones judge base and candidate."""

    p: float
    h: float


@dataclass(frozen=True)
class CellMetrics:
    """Point estimates of one cell. Rates are shares (not percentage points), JS2D is in nats (0 to ln 2)."""

    tokens: int
    thresholds: Thresholds
    ppl_base: float
    ppl: float
    mean_p_base: float
    mean_p: float
    cc_base: float
    cc: float
    js2d: float

    @property
    def delta_ppl(self) -> float:
        return self.ppl - self.ppl_base

    @property
    def delta_mean_p(self) -> float:
        return self.mean_p - self.mean_p_base

    @property
    def delta_cc(self) -> float:
        return self.cc - self.cc_base


def perplexity(logprob_T: FloatArray) -> float:
    """exp of the mean negative log-probability (nats); the largest number where that is beyond all numbers."""
    return float(np.exp(np.minimum(-np.mean(logprob_T, dtype=np.float64), _LARGEST_LOG)))


def base_thresholds(p_T: FloatArray, entropy_T: FloatArray) -> Thresholds:
    """The 0.15 quantiles (linear interpolation) of p and of entropy."""
    return Thresholds(float(np.quantile(p_T, QUANTILE)), float(np.quantile(entropy_T, QUANTILE)))


def confident_conflict(p_T: FloatArray, entropy_T: FloatArray, thresholds: Thresholds) -> NDArray[np.bool_]:
    conflict: NDArray[np.bool_] = (p_T <= thresholds.p) & (entropy_T <= thresholds.h)
    return conflict


def halves_wobble(logprob_T: FloatArray, entropy_T: FloatArray, first_T: NDArray[np.bool_]) -> dict[str, float]:
    """What sampling alone does: |difference| of each metric between two disjoint sets of one model's tokens."""
    p_T, h_T = np.minimum(np.exp(logprob_T.astype(np.float64)), 1.0), entropy_T.astype(np.float64)
    conflict_T = confident_conflict(p_T, h_T, base_thresholds(p_T, h_T))
    second_T = ~first_T
    return {
        "ppl": abs(perplexity(logprob_T[first_T]) - perplexity(logprob_T[second_T])),
        "mean_p": abs(float(p_T[first_T].mean() - p_T[second_T].mean())),
        "cc_rate": abs(float(conflict_T[first_T].mean() - conflict_T[second_T].mean())),
        "js2d": plug_in(p_T[first_T], h_T[first_T], p_T[second_T], h_T[second_T]),
    }


def cell_metrics(
    base_logprob_T: FloatArray,
    base_entropy_T: FloatArray,
    logprob_T: FloatArray,
    entropy_T: FloatArray,
    *,
    thresholds: Thresholds | None = None,
) -> CellMetrics:
    """All point estimates of a cell from paired tokens; `thresholds` default to those of these tokens' base.

    Raises ValueError when the arrays differ in length, are empty or hold a value that is not finite.
    """
    columns = (base_logprob_T, base_entropy_T, logprob_T, entropy_T)
    if len({len(column) for column in columns}) != 1 or not len(logprob_T):
        raise ValueError("base and candidate must have the same, non-zero number of counted tokens")
    if not all(np.isfinite(column).all() for column in columns):
        raise ValueError("a log-probability or entropy is not finite")
    # float64 throughout: a float32 p within half an ulp of a bin's edge would fall on either side by chance.
    base_p_T, p_T = (np.minimum(np.exp(column.astype(np.float64)), 1.0) for column in (base_logprob_T, logprob_T))
    base_h_T, h_T = base_entropy_T.astype(np.float64), entropy_T.astype(np.float64)
    thresholds = thresholds or base_thresholds(base_p_T, base_h_T)
    return CellMetrics(
        tokens=len(logprob_T),
        thresholds=thresholds,
        ppl_base=perplexity(base_logprob_T),
        ppl=perplexity(logprob_T),
        mean_p_base=float(base_p_T.mean()),
        mean_p=float(p_T.mean()),
        cc_base=float(confident_conflict(base_p_T, base_h_T, thresholds).mean()),
        cc=float(confident_conflict(p_T, h_T, thresholds).mean()),
        js2d=plug_in(base_p_T, base_h_T, p_T, h_T),
    )
