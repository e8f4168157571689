"""From the metrics of a cell to verdicts, by policy. Pure: no files, no model, no pytest."""

import math
from dataclasses import dataclass
from typing import Literal

from eaftgate.gate.policy import METRICS, PointPolicy
from eaftgate.parity.metrics import CellMetrics

Verdict = Literal["pass", "fail", "inconclusive"]
SEVERITY: dict[Verdict, int] = {"pass": 0, "inconclusive": 1, "fail": 2}


@dataclass(frozen=True)
class MetricVerdict:
    """One metric of one cell. A point rule has no interval: `lower` and `upper` are None.

    `margin` is the effective limit on |estimate|, in the estimate's unit.
    """

    estimate: float
    lower: float | None
    upper: float | None
    margin: float
    verdict: Verdict


def worst(verdicts: list[Verdict]) -> Verdict:
    """fail > inconclusive > pass. Raises ValueError when there is nothing to judge."""
    return max(verdicts, key=SEVERITY.__getitem__)


def judge(policy: PointPolicy, cell: CellMetrics) -> dict[str, MetricVerdict]:
    """The verdict of every metric of a cell, in the order of METRICS."""
    limits = policy.thresholds
    measured = {
        "ppl": (
            cell.delta_ppl,
            min(limits.max_abs_delta_ppl.value, limits.max_rel_delta_ppl.value * cell.ppl_base),
        ),
        "mean_p": (cell.delta_mean_p, limits.max_abs_delta_mean_prob.value),
        "cc_rate": (cell.delta_cc, limits.max_abs_delta_cc_rate.value),
        "js2d": (cell.js2d, limits.max_js2d.value),
    }
    return {metric: _point_verdict(*measured[metric]) for metric in METRICS}


def _point_verdict(estimate: float, margin: float) -> MetricVerdict:
    # isfinite first: a comparison with NaN is False, so `not (x > margin)` would let it pass.
    passed = math.isfinite(estimate) and math.isfinite(margin) and abs(estimate) <= margin
    return MetricVerdict(estimate, None, None, margin, "pass" if passed else "fail")
