"""Confidence bounds of an estimate: at a sample size that was fixed beforehand, or valid at every look.

Each bound is one-sided at level 1 - alpha, which is what a test of non-inferiority at level alpha needs.
"""

import math

from scipy.stats import norm, t

from eaftgate.parity.clusters import Estimate

_BEST_AT = 0.25
"""Share of the budget at which the confidence sequence is tightest: where early stopping pays."""

_SYMMETRIC = 1e-4
"""Below this skewness the transformation is the identity but for rounding."""


def fixed_width(alpha: float, degrees_of_freedom: float) -> float:
    """Standard errors between an estimate and either of its bounds (Student's t)."""
    return float(t.ppf(1 - alpha, degrees_of_freedom)) if degrees_of_freedom > 0 else math.inf


def sequence_width(alpha: float, degrees_of_freedom: float, share: float) -> float:
    """The same for an asymptotic confidence sequence after `share` of the budget (0 to 1].

    Waudby-Smith et al., arXiv 2103.06476, one-sided: sigma * sqrt(2 (n rho^2 + 1) / (n^2 rho^2) * ln(1 + sqrt(n rho^2
    + 1) / (2 alpha))) after n observations. With SE = sigma / sqrt(n) and rho^2 inversely proportional to the budget,
    n rho^2 depends on the share alone. Widened by t / z for the few clusters of an early look.
    """
    tail = -2 * math.log(2 * alpha)
    intrinsic = (tail + math.log(tail) + 1) * share / _BEST_AT
    normal = math.sqrt(2 * (1 + 1 / intrinsic) * math.log1p(math.sqrt(intrinsic + 1) / (2 * alpha)))
    return normal * fixed_width(alpha, degrees_of_freedom) / float(norm.ppf(1 - alpha))


def bounds(estimate: Estimate, width: float) -> tuple[float, float]:
    """(lower, upper), `width` standard errors away and moved for skewness; without a standard error, no bound.

    Damage sits in few documents, so that cluster sums are skewed (2 to 4 on most cells) and a symmetric upper bound
    fails to cover the truth twice as often as it says. Hall's transformation (JRSS B 54, 221, 1992) removes that:
    g(t) = t + skew/(3 sqrt n) t^2 + skew^2/(27 n) t^3 + skew/(6 sqrt n) of Student's t is normal to order 1/n.
    """
    if not math.isfinite(estimate.standard_error * width):
        return -math.inf, math.inf
    clusters, skewness = estimate.num_clusters, estimate.skewness

    def untransformed(z: float) -> float:
        """The t whose transform is z."""
        if abs(skewness) < _SYMMETRIC:
            return z
        root = math.cbrt(1 + skewness * (z / math.sqrt(clusters) - skewness / (6 * clusters)))
        return 3 * math.sqrt(clusters) / skewness * (root - 1)

    lower, upper = (estimate.value - estimate.standard_error * untransformed(z) for z in (width, -width))
    return lower, upper


def farther_bounds(estimate: Estimate, width: float) -> tuple[float, float]:
    """The farther of Hall's bounds and the symmetric ones, either side.

    Hall's needs the skewness, which a sample knows least where it matters most: a few documents decide its sign. Where
    it is estimated negative, the transformation brings the upper bound nearer than Student's, and real documents then
    pass at their margin half again as often as they may (docs/statistics.md).
    """
    lower, upper = bounds(estimate, width)
    reach = estimate.standard_error * width
    if not math.isfinite(reach):
        return lower, upper
    return min(lower, estimate.value - reach), max(upper, estimate.value + reach)
