"""From paired tokens to a judged cell: all of them at once, or look by look until they decide. Pure NumPy."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eaftgate.judge.metrics import METRICS, Metric
from eaftgate.judge.policy import IntervalPolicy, PointPolicy, SequentialSettings
from eaftgate.judge.verdict import (
    MetricVerdict,
    Verdict,
    decide_reported,
    deciding_verdict,
    judge_intervals,
    judge_points,
)
from eaftgate.parity.bounds import fixed_width, sequence_width
from eaftgate.parity.estimates import BaseTokens, Measured, PairedCell
from eaftgate.parity.js2d import Bins
from eaftgate.parity.metrics import CellMetrics, Thresholds, base_thresholds, cell_metrics
from eaftgate.parity.paired import PairedTokens, concatenate_pairs


@dataclass(frozen=True)
class JudgedCell:
    """`num_blocks` were seen. `js2d` says how the corrected value came about; empty where that is not judged."""

    num_blocks: int
    metrics: CellMetrics
    verdicts: Mapping[str, MetricVerdict]
    verdict: Verdict
    v1_verdict: Verdict | None
    cc_events_base: int
    js2d: Mapping[str, int | float]

    @property
    def estimates(self) -> dict[str, float | None]:
        return {metric: verdict.estimate for metric, verdict in self.verdicts.items()}

    @property
    def underpowered(self) -> bool:
        return any(verdict.underpowered for verdict in self.verdicts.values())


def judge_cell(
    policy: PointPolicy | IntervalPolicy, v1: PointPolicy | None, tokens: PairedTokens, num_blocks: int, *, strict: bool
) -> JudgedCell:
    """All of a cell's tokens, at a size that was fixed beforehand."""
    thresholds = base_thresholds(tokens.p_base_T, tokens.h_base_T)
    if isinstance(policy, PointPolicy):
        metrics = _metrics(tokens, thresholds)
        return _judged(num_blocks, metrics, judge_points(policy, metrics), v1, {})
    measured = _measured(policy, tokens, thresholds, policy.metrics)
    verdicts = judge_intervals(
        policy,
        measured,
        num_blocks=num_blocks,
        width=lambda _, degrees_of_freedom: fixed_width(policy.alpha, degrees_of_freedom),
        budget_events=_base_events(policy, BaseTokens(tokens.p_base_T, tokens.h_base_T, thresholds)),
        strict=strict,
    )
    return _judged(num_blocks, _metrics(tokens, thresholds), verdicts, v1, _details(measured))


def _metrics(tokens: PairedTokens, thresholds: Thresholds) -> CellMetrics:
    return cell_metrics(tokens.logprob_base_T, tokens.h_base_T, tokens.logprob_T, tokens.h_T, thresholds=thresholds)


def _measured(
    policy: IntervalPolicy, tokens: PairedTokens, thresholds: Thresholds, metrics: Sequence[str]
) -> dict[str, Measured]:
    cell = PairedCell(tokens, thresholds, Bins(policy.js2d.p_bins, policy.js2d.h_bins), policy.js2d.swaps)
    return {name: METRICS[name].measure(cell) for name in metrics}


def _base_events(policy: IntervalPolicy, base: BaseTokens) -> dict[str, int]:
    """By metric, of those that count events."""
    counting = {name: METRICS[name].events for name in policy.metrics}
    return {name: events.count(base) for name, events in counting.items() if events is not None}


def _judged(
    num_blocks: int,
    metrics: CellMetrics,
    verdicts: Mapping[str, MetricVerdict],
    v1: PointPolicy | None,
    js2d: Mapping[str, int | float],
) -> JudgedCell:
    return JudgedCell(
        num_blocks=num_blocks,
        metrics=metrics,
        verdicts=verdicts,
        verdict=deciding_verdict(verdicts),
        v1_verdict=None if v1 is None else deciding_verdict(judge_points(v1, metrics)),
        cc_events_base=round(metrics.cc_base * metrics.tokens),
        js2d=js2d,
    )


def _details(measured: Mapping[str, Measured]) -> dict[str, int | float]:
    return {name: value for found in measured.values() for name, value in found.details.items()}


# Sequential


@dataclass(frozen=True)
class Look:
    """After `num_blocks`; only at a `full` one those metrics are judged whose bounds are not valid at every look."""

    num_blocks: int
    full: bool


def plan_looks(settings: SequentialSettings, num_blocks: int) -> list[Look]:
    """Ascending; the last is the whole budget, and full."""
    full = {math.ceil(share * num_blocks) for share in settings.js2d_looks}
    even = {math.ceil(num_blocks * look / settings.looks) for look in range(1, settings.looks + 1)}
    least = min(settings.min_blocks, num_blocks)
    return [Look(blocks, blocks in full) for blocks in sorted(even | full) if blocks >= least]


def judge_in_looks(
    policy: IntervalPolicy,
    v1: PointPolicy | None,
    base_p_T: Any,
    base_h_T: Any,
    looks: Sequence[Look],
    parts: Iterable[PairedTokens],
    *,
    strict: bool,
) -> JudgedCell:
    """Judge after every look, and stop asking for parts when the cell is decided or its budget is spent.

    `parts[i]` are the tokens between look i - 1 and look i; `base_p_T` and `base_h_T` are the base's over the whole
    budget, so that the thresholds are those of the budget at every look. Bounds are those of a confidence sequence, of
    which the tightest so far count; a metric of the full looks has ordinary ones, with alpha split over them.
    """
    thresholds = base_thresholds(base_p_T, base_h_T)
    budget, budget_events = looks[-1].num_blocks, _base_events(policy, BaseTokens(base_p_T, base_h_T, thresholds))
    full_alpha = policy.alpha / sum(look.full for look in looks)
    seen: list[PairedTokens] = []
    # What is known before the first look: nothing.
    standing = {
        name: MetricVerdict(
            None,
            None,
            None,
            margin=None if rule.margin is None else rule.margin.value,
            verdict=None if rule.margin is None else "inconclusive",
            decides=rule.role == "decides",
        )
        for name in policy.metrics
        for rule in [policy.rules[name]]
    }
    details: dict[str, int | float] = {}
    look = looks[0]
    for look, part in zip(looks, parts, strict=False):
        seen = [concatenate_pairs([*seen, part])]
        if not len(seen[0]):  # blocks need not hold a counted token
            continue
        share = look.num_blocks / budget

        def width(metric: Metric, degrees_of_freedom: int, share: float = share) -> float:
            if not metric.at_every_look:
                return fixed_width(full_alpha, degrees_of_freedom)
            return sequence_width(policy.alpha, degrees_of_freedom, share)

        asked = [
            name
            for name in policy.metrics
            if METRICS[name].at_every_look or (look.full and standing[name].verdict == "inconclusive")
        ]
        measured = _measured(policy, seen[0], thresholds, asked)
        now = judge_intervals(
            policy, measured, num_blocks=look.num_blocks, width=width, budget_events=budget_events, strict=strict
        )
        standing |= {name: _standing(policy, name, standing[name], verdict) for name, verdict in now.items()}
        details |= _details(measured)
        deciding = [verdict.verdict for verdict in standing.values() if verdict.decides]
        if "fail" in deciding or "inconclusive" not in deciding:
            break
    return _judged(look.num_blocks, _metrics(seen[0], thresholds), standing, v1, details)


def _standing(policy: IntervalPolicy, name: str, before: MetricVerdict, now: MetricVerdict) -> MetricVerdict:
    """What is known of a metric after a look: the estimate is the latest, the bounds of a sequence the tightest."""
    metric, rule = METRICS[name], policy.rules[name]
    if not metric.at_every_look or now.underpowered or rule.margin is None:
        return now
    lower = max((bound for bound in (before.lower, now.lower) if bound is not None), default=-math.inf)
    upper = min((bound for bound in (before.upper, now.upper) if bound is not None), default=math.inf)
    return replace(
        now,
        lower=lower if math.isfinite(lower) else None,
        upper=upper if math.isfinite(upper) else None,
        verdict=decide_reported(metric, rule, lower, upper),
    )
