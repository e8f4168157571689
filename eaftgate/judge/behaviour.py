"""From what two models wrote for the same turns to verdicts, by the policy's block `behaviour`. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from eaftgate.behaviour.paired import PairedTurns
from eaftgate.judge.behaviours import BEHAVIOURS
from eaftgate.judge.metrics import Metric
from eaftgate.judge.policy import BehaviourPolicy, IntervalPolicy, IntervalRule
from eaftgate.judge.verdict import (
    MetricVerdict,
    best_of_two,
    interval_verdict,
    lacking,
    with_evidence,
)
from eaftgate.parity.bounds import fixed_width
from eaftgate.parity.estimates import Measured


@dataclass(frozen=True)
class JudgedTurns:
    """Verdicts by metric; `blocks_needed` of one are turns. `details` say how a value came about, by metric."""

    turns: int
    verdicts: Mapping[str, MetricVerdict]
    details: Mapping[str, Mapping[str, int | float]]


def judge_turns(
    policy: IntervalPolicy,
    behaviour: BehaviourPolicy,
    turns: PairedTurns,
    *,
    deciding: frozenset[str],
    best_of: int = 1,
) -> JudgedTurns:
    """`deciding` are the metrics that may turn the run red here; `best_of` as of cells (judge.verdict)."""
    verdicts: dict[str, MetricVerdict] = {}
    details: dict[str, Mapping[str, int | float]] = {}
    for name in behaviour.metrics:
        metric, rule = BEHAVIOURS[name], behaviour.rules[name]
        found = metric.measure(turns)
        if found is None:
            verdicts[name] = _inapplicable(metric, rule)
            continue
        alone, divided = (
            _judged(policy, behaviour, metric, rule, found, len(turns), alpha)
            for alpha in (policy.alpha, policy.alpha / best_of)
        )
        judged = best_of_two(metric, rule, alone, divided)
        verdicts[name] = replace(judged, decides=judged.decides and name in deciding)
        details[name] = found.details
    return JudgedTurns(len(turns), verdicts, details)


def _judged(
    policy: IntervalPolicy,
    behaviour: BehaviourPolicy,
    metric: Metric,
    rule: IntervalRule,
    found: Measured,
    turns: int,
    alpha: float,
) -> MetricVerdict:
    judged = interval_verdict(policy, metric, rule, found, turns, lambda _, degrees: fixed_width(alpha, degrees))
    if rule.margin is None:
        return judged
    lacks = lacking(behaviour.evidence, rule, found, metric, turns)
    return with_evidence(judged, lacks, lacks)


def _inapplicable(metric: Metric, rule: IntervalRule) -> MetricVerdict:
    return MetricVerdict(
        None,
        None,
        None,
        margin=None if rule.margin is None else rule.margin.value,
        verdict=None,
        decides=False,
        unit=metric.unit,
        side=rule.side,
        lacks=f"{metric.over} do not occur",
    )
