"""How often the best of several candidates would pass by luck: each lies exactly on the margin, and the documents are
drawn again and again from those of the run."""

import numpy as np
from numpy.typing import NDArray

from eaftgate.judge.metrics import METRICS
from eaftgate.judge.policy import IntervalPolicy
from eaftgate.judge.verdict import bounds_by, decide
from eaftgate.parity.bounds import fixed_width
from eaftgate.parity.clusters import FloatArray
from eaftgate.parity.resampled import resampled_means

METRIC = "ppl"
"""What is drawn: of all metrics that decide, the one that rests on the most tokens."""
_SLACK = 1e-9
"""Part of the margin that rounding may be off by: a candidate without differences is always on it."""


def passes_by_luck(
    policy: IntervalPolicy,
    delta_KC: FloatArray,
    weight_C: NDArray[np.integer],
    *,
    best_of: int,
    draws: int,
    seed: int,
) -> NDArray[np.bool_]:
    """[K, B]: whether a candidate passes ppl on the documents of a draw, by the policy's bounds at alpha / best_of.

    `delta_KC` sums nll_candidate - nll_base over the `weight_C` > 0 tokens of a document. They are moved by a constant
    a token, so that every candidate's mean is the margin. Raises KeyError when the policy does not judge ppl.
    """
    rule, metric = policy.rules[METRIC], METRICS[METRIC]
    assert rule.margin is not None  # or there is nothing to pass
    limit = metric.limit(rule.margin.value)
    moved_K = limit - delta_KC.sum(axis=1) / weight_C.sum()
    resampled = resampled_means(
        delta_KC + moved_K[:, None] * weight_C,
        weight_C,
        draws=draws,
        seed=seed,
        jackknife=policy.bounds == "jackknife",
    )
    alpha, inside = policy.alpha / best_of, limit * (1 - _SLACK)
    return np.array(
        [
            [
                decide(*bounds_by(policy, found, fixed_width(alpha, found.degrees_of_freedom)), inside, rule.side)
                == "pass"
                for found in estimates
            ]
            for estimates in resampled
        ]
    ).T
