"""Confidence bounds of an estimate: at a sample size that was fixed beforehand, or valid at every look.

Each bound is one-sided at level 1 - alpha, which is what a test of non-inferiority at level alpha needs.
"""

import math

from scipy.stats import norm, t

from eaftgate.parity.clusters import Estimate

_BEST_AT = 0.25
"""Share of the budget at which the confidence sequence is tightest: where early stopping pays."""


def fixed_width(alpha: float, degrees_of_freedom: int) -> float:
    """Standard errors between an estimate and either of its bounds (Student's t)."""
    return float(t.ppf(1 - alpha, degrees_of_freedom)) if degrees_of_freedom > 0 else math.inf


def sequence_width(alpha: float, degrees_of_freedom: int, share: float) -> float:
    """The same for an asymptotic confidence sequence after `share` of the budget (0 to 1].

    Waudby-Smith et al., arXiv 2103.06476, one-sided: sigma * sqrt(2 (n rho^2 + 1) / (n^2 rho^2) * ln(1 + sqrt(n rho^2
    + 1) / (2 alpha))) after n observations. With SE = sigma / sqrt(n) and rho^2 inversely proportional to the budget,
    n rho^2 depends on the share alone. Widened by t / z for the few clusters of an early look.
    """
    if degrees_of_freedom <= 0:
        return math.inf
    tail = -2 * math.log(2 * alpha)
    intrinsic = (tail + math.log(tail) + 1) * share / _BEST_AT
    normal = math.sqrt(2 * (1 + 1 / intrinsic) * math.log1p(math.sqrt(intrinsic + 1) / (2 * alpha)))
    return normal * fixed_width(alpha, degrees_of_freedom) / float(norm.ppf(1 - alpha))


def bounds(estimate: Estimate, width: float) -> tuple[float, float]:
    """(lower, upper), `width` standard errors away; without a standard error there is no bound."""
    if not math.isfinite(estimate.standard_error * width):
        return -math.inf, math.inf
    half = width * estimate.standard_error
    return estimate.value - half, estimate.value + half
