"""Every paired statistic of a cell with its standard error, for policies with intervals. NumPy and SciPy only.

Which of them is a metric of which name, and what there is to know of that, is eaftgate.judge.metrics.

Shapes: T counted tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eaftgate.parity.clusters import Clusters, Estimate, clustered, clustered_mean, clusters_by
from eaftgate.parity.js2d import Bins, corrected_js2d
from eaftgate.parity.metrics import Thresholds, confident_conflict
from eaftgate.parity.paired import PairedTokens

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class BaseTokens:
    """Counted tokens under the base alone; `thresholds` are the base's on the whole cell."""

    p_T: FloatArray
    h_T: FloatArray
    thresholds: Thresholds

    @cached_property
    def conflict_T(self) -> FloatArray:
        return confident_conflict(self.p_T, self.h_T, self.thresholds).astype(np.float64)


@dataclass(frozen=True)
class PairedCell:
    """What a statistic is computed from. `bins`, `swaps` and `seed` are those of js2d and its null."""

    tokens: PairedTokens
    thresholds: Thresholds
    bins: Bins
    swaps: int
    seed: int = 0

    @cached_property
    def base(self) -> BaseTokens:
        return BaseTokens(self.tokens.p_base_T, self.tokens.h_base_T, self.thresholds)

    @cached_property
    def documents(self) -> Clusters:
        return clusters_by(self.tokens.row_T)

    @cached_property
    def clusterings(self) -> tuple[Clusters, ...]:
        """By document and by block: no one of them covers all that tokens share."""
        return self.documents, clusters_by(self.tokens.block_T)

    @cached_property
    def conflict_T(self) -> FloatArray:
        """The candidate's confident conflicts."""
        return confident_conflict(self.tokens.p_T, self.tokens.h_T, self.thresholds).astype(np.float64)

    @cached_property
    def dp_T(self) -> FloatArray:
        """p_candidate - p_base."""
        return self.tokens.p_T - self.tokens.p_base_T


@dataclass(frozen=True)
class Measured:
    """A statistic of a cell. `base_events` counts the base's events that it speaks of, where it speaks of events;
    `details` say how it came about."""

    estimate: Estimate
    base_events: int | None = None
    details: Mapping[str, int | float] = field(default_factory=dict)


def nll_delta(cell: PairedCell) -> Measured:
    """Mean of nll_candidate - nll_base, nats a token: ln of the ratio of perplexities."""
    return Measured(clustered_mean(cell.tokens.nll_delta_T, cell.clusterings))


def mean_p_delta(cell: PairedCell) -> Measured:
    """Mean of p_candidate - p_base."""
    return Measured(clustered_mean(cell.dp_T, cell.clusterings))


def cc_rate_delta(cell: PairedCell) -> Measured:
    """Difference of the shares of confident conflicts."""
    return Measured(clustered_mean(cell.conflict_T - cell.base.conflict_T, cell.clusterings, rare=True))


def cc_log_ratio(cell: PairedCell) -> Measured:
    """ln(conflicts / the base's), linearised: conflict_t / mean(conflict) - base_conflict_t / mean(base_conflict).

    Not a number without a conflict on either side.
    """
    rate, rate_base = float(cell.conflict_T.mean()), float(cell.base.conflict_T.mean())
    estimate = Estimate(math.nan, math.inf, 0)
    if rate and rate_base:
        influence_T = cell.conflict_T / rate - cell.base.conflict_T / rate_base
        estimate = clustered(math.log(rate / rate_base), influence_T, cell.clusterings, rare=True)
    return Measured(estimate, base_events=base_conflicts(cell.base))


def base_conflicts(base: BaseTokens) -> int:
    return int(base.conflict_T.sum())


def js2d_corrected(cell: PairedCell) -> Measured:
    """JS2D less its bias, nats."""
    found = corrected_js2d(cell.tokens, cell.clusterings, cell.documents, cell.bins, swaps=cell.swaps, seed=cell.seed)
    details = {
        "plug_in": found.plug_in,
        "bias": found.bias,
        "p_value": found.p_value,
        "occupied_bins": found.occupied_bins,
        "moved_share": found.moved_share,
    }
    return Measured(found.estimate, details=details)


def top20_jsd(cell: PairedCell) -> Measured:
    """Mean per-token divergence over the common ids of both top 20, nats."""
    return Measured(clustered_mean(cell.tokens.top_jsd_T, cell.clusterings))


def same_top1(cell: PairedCell) -> Measured:
    """Share of tokens with the same most likely id."""
    return Measured(clustered_mean(cell.tokens.same_top1_T, cell.clusterings))


def rms_dp(cell: PairedCell) -> Measured:
    """Root mean square of p_candidate - p_base."""
    rms = math.sqrt(float(np.mean(cell.dp_T**2)))
    influence_T = cell.dp_T**2 / (2 * rms) if rms else cell.dp_T
    return Measured(clustered(rms, influence_T, cell.clusterings))
