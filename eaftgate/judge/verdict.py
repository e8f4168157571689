"""From the statistics of a cell to verdicts, by policy. Pure: no files, no model, no pytest."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from scipy.stats import norm

from eaftgate.judge.metrics import METRICS, POINT_METRICS, Metric, Side
from eaftgate.judge.policy import DocumentsSettings, EvidenceSettings, IntervalPolicy, IntervalRule, PointPolicy
from eaftgate.parity.bounds import bounds, farther_bounds
from eaftgate.parity.clusters import Estimate
from eaftgate.parity.estimates import Measured
from eaftgate.parity.metrics import CellMetrics

Verdict = Literal["pass", "fail", "inconclusive"]
SEVERITY: dict[Verdict, int] = {"pass": 0, "inconclusive": 1, "fail": 2}

MANY = 1_000_000
"""Degrees of freedom of a larger run, for what it would take."""
POWER = 0.8
"""With which the number of blocks that an inconclusive metric is said to need would decide it."""
MAX_BLOCKS_NEEDED = 1_000_000
EARLY_EVENTS = 0.25
"""Share of min_base_events that an early look needs before it may judge the metric."""

CHANCE = 1.645
"""Standard deviations of the number of messages that flip by chance, one-sided 95 %."""

Width = Callable[[Metric, float], float]
"""(metric, degrees of freedom) -> standard errors between an estimate and its bounds."""


@dataclass(frozen=True)
class MetricVerdict:
    """One metric of one cell; None: not known, or there is none.

    A point rule has no interval, and its `margin` is the effective limit on |estimate|. A metric without a margin has
    no verdict. `decides` is whether it makes the verdict of its cell. `blocks_needed` would decide an inconclusive one
    with 80 % power, if the estimate is right. An underpowered metric `lacks` something, in words. `documents`,
    `effective_documents` (Kish) and `events` are what it rests on; `lost` and `gained` are messages.
    """

    estimate: float | None
    lower: float | None
    upper: float | None
    margin: float | None
    verdict: Verdict | None
    decides: bool = True
    underpowered: bool = False
    blocks_needed: int | None = None
    unit: str = ""
    side: Side | Literal[""] = ""
    documents: int | None = None
    effective_documents: float | None = None
    events: int | None = None
    lost: int | None = None
    gained: int | None = None
    lacks: str = ""


def worst(verdicts: list[Verdict]) -> Verdict:
    """fail > inconclusive > pass. Raises ValueError when there is nothing to judge."""
    return max(verdicts, key=SEVERITY.__getitem__)


def deciding_verdict(verdicts: Mapping[str, MetricVerdict]) -> Verdict:
    """A cell's: that of its worst deciding metric; inconclusive when none is able to decide."""
    return worst([v.verdict for v in verdicts.values() if v.decides and v.verdict] or ["inconclusive"])


def decide_reported(metric: Metric, rule: IntervalRule, lower: float, upper: float) -> Verdict | None:
    """`decide` on bounds as they are reported: those of a ratio are compared as the logarithms that were estimated."""
    if rule.margin is None:
        return None
    lower, upper = metric.estimated(lower), metric.estimated(upper)
    return decide(lower, upper, metric.limit(rule.margin.value), rule.side, less_is_worse=metric.less_is_worse)


def lies_outside(name: str, verdict: MetricVerdict) -> bool:
    """Whether the estimate of a metric with a margin lies beyond it, whatever its bounds are."""
    metric, found, margin = METRICS[name], verdict.estimate, verdict.margin
    if found is None or margin is None:
        return False
    value, side = metric.estimated(found), verdict.side or "worse"
    return decide(value, value, metric.limit(margin), side, less_is_worse=metric.less_is_worse) == "fail"


def judge_points(policy: PointPolicy, cell: CellMetrics) -> dict[str, MetricVerdict]:
    """The verdict of every metric of a cell, by its point estimate alone."""
    limits = policy.thresholds
    return {
        name: _point_verdict(metric.estimate(cell), metric.limit(limits, cell), metric.unit)
        for name, metric in POINT_METRICS.items()
    }


def _point_verdict(estimate: float, margin: float, unit: str) -> MetricVerdict:
    # isfinite first: a comparison with NaN is False, so `not (x > margin)` would let it pass.
    passed = math.isfinite(estimate) and math.isfinite(margin) and abs(estimate) <= margin
    return MetricVerdict(estimate, None, None, margin, "pass" if passed else "fail", unit=unit, side="both")


def judge_intervals(
    policy: IntervalPolicy,
    measured: Mapping[str, Measured],
    *,
    num_blocks: int,
    width: Width,
    budget: Mapping[str, Measured],
    budget_blocks: int,
    deciding: frozenset[str],
    strict: bool,
) -> dict[str, MetricVerdict]:
    """The verdict of every metric of a cell by non-inferiority (Schuirmann's TOST, one-sided where only a loss counts).

    `budget` is what the whole cell of `budget_blocks` will rest on, of which `measured` may have seen the first
    `num_blocks`, by metric. `deciding` are the metrics that make the cell's verdict. `strict`: where the policy asks
    for no evidence, an underpowered metric decides too. A metric that was not measured is not judged.
    """
    verdicts = {}
    for name, found in measured.items():
        rule = policy.rules[name]
        judged = interval_verdict(policy, METRICS[name], rule, found, num_blocks, width)
        judged = replace(judged, decides=judged.decides and name in deciding)
        if policy.evidence is not None and rule.margin is not None:
            whole = lacking(policy.evidence, rule, budget[name], METRICS[name], budget_blocks)
            so_far = lacking(policy.evidence, rule, found, METRICS[name], num_blocks)
            judged = with_evidence(judged, whole, so_far)
        elif rule.min_base_events is not None and found.base_events is not None:
            events = (rule.min_base_events, found.base_events, budget[name].base_events or 0)
            judged = _with_events(judged, *events, num_blocks, strict=strict)
        verdicts[name] = judged
    return verdicts


def bounds_by(policy: IntervalPolicy, estimate: Estimate, width: float) -> tuple[float, float]:
    """(lower, upper), as the policy makes them of an estimate."""
    return (farther_bounds if policy.bounds == "jackknife" else bounds)(estimate, width)


def interval_verdict(
    policy: IntervalPolicy, metric: Metric, rule: IntervalRule, found: Measured, num_blocks: int, width: Width
) -> MetricVerdict:
    estimate = found.estimate
    lower, upper = bounds_by(policy, estimate, width(metric, estimate.degrees_of_freedom))
    verdict, needed = None, None
    if rule.margin is not None:
        limit = metric.limit(rule.margin.value)
        verdict = decide(lower, upper, limit, rule.side, less_is_worse=metric.less_is_worse)
        if verdict == "inconclusive":
            needed = _blocks_needed(estimate, limit, rule.side, num_blocks, width(metric, MANY))
    return MetricVerdict(
        estimate=_finite(metric.reported, estimate.value),
        lower=_finite(metric.reported, metric.within_possible(lower)),
        upper=_finite(metric.reported, metric.within_possible(upper)),
        margin=None if rule.margin is None else rule.margin.value,
        verdict=verdict,
        decides=rule.role == "decides",
        blocks_needed=needed,
        unit=metric.unit,
        side=rule.side,
        documents=found.evidence.documents,
        effective_documents=found.evidence.effective,
        events=found.base_events,
        lost=found.lost,
        gained=found.gained,
    )


def with_evidence(
    judged: MetricVerdict, whole: tuple[str, int | None], so_far: tuple[str, int | None]
) -> MetricVerdict:
    """Underpowered: the `whole` budget rests on too little. Not yet decided: what was seen of it does."""
    lacks, needed = whole
    if lacks:
        return replace(
            judged, verdict="inconclusive", underpowered=True, decides=False, blocks_needed=needed, lacks=lacks
        )
    if so_far[0]:
        return replace(judged, lower=None, upper=None, verdict="inconclusive")
    return judged


def lacking(
    least: DocumentsSettings, rule: IntervalRule, found: Measured, metric: Metric, num_blocks: int
) -> tuple[str, int | None]:
    """What is missing before a rule may decide, in words, and how many blocks (of behaviour: turns) would have it;
    None: it is not known, for these have nothing of it."""
    evidence = found.evidence
    effective = max(least.min_effective_documents, rule.min_effective_documents or 0)
    counts = [
        (evidence.documents, least.min_documents, "documents"),
        (round(evidence.effective, 1), effective, "effective documents"),
    ]
    if isinstance(least, EvidenceSettings):
        counts.append((num_blocks, least.min_blocks, "blocks"))
    if rule.min_base_events is not None and metric.events is not None:
        counts.append((found.base_events or 0, rule.min_base_events, metric.events.name))
    short = [(have, need, what) for have, need, what in counts if have < need]
    said = [f"{have:g} of {need} {what}" for have, need, what in short]
    needed = [num_blocks * need / have if have else math.inf for have, need, _ in short]
    if evidence.largest > least.max_document_share:
        said.append(f"one document holds {evidence.largest:.0%} of its {metric.over}")
        needed.append(num_blocks * evidence.largest / least.max_document_share)
    most = max(needed, default=math.inf)
    return ", ".join(said), math.ceil(most) if math.isfinite(most) else None


def best_of_several(
    policy: IntervalPolicy, alone: Mapping[str, MetricVerdict], divided: Mapping[str, MetricVerdict]
) -> dict[str, MetricVerdict]:
    """The verdicts of one that may be chosen as the best of several candidates, from those of the same tokens at two
    levels: at alpha, as if it stood `alone`, and at alpha `divided` by their number (Bonferroni).

    A FAIL is that of one alone; a PASS needs the divided level. What is shown as a bound is the one that decides: where
    only a loss counts, the bound on its side is at the divided level and the other at alpha; where both directions
    count, both are at the divided level, and at alpha when that is enough to fail.
    """
    return {name: best_of_two(METRICS[name], policy.rules[name], alone[name], divided[name]) for name in alone}


def best_of_two(metric: Metric, rule: IntervalRule, alone: MetricVerdict, divided: MetricVerdict) -> MetricVerdict:
    if rule.margin is None or (rule.side == "both" and alone.verdict == "fail"):
        return alone
    lower, upper = divided.lower, divided.upper
    if rule.side == "worse":
        lower, upper = (lower, alone.upper) if metric.less_is_worse else (alone.lower, upper)
    at = alone.estimate
    would_fail = at is not None and decide_reported(metric, rule, at, at) == "fail"
    return replace(
        divided,
        lower=lower,
        upper=upper,
        verdict="fail" if alone.verdict == "fail" else divided.verdict,
        blocks_needed=(alone if would_fail else divided).blocks_needed,
    )


def _finite(reported: Callable[[float], float], value: float) -> float | None:
    return reported(value) if math.isfinite(value) else None


def decide(
    lower: float, upper: float, margin: float, side: Literal["worse", "both"], *, less_is_worse: bool = False
) -> Verdict:
    """PASS when both bounds that count are inside the margin, FAIL when one is outside in the opposite direction.

    With `less_is_worse`, `margin` is the least that is good enough.
    """
    if less_is_worse:
        lower, upper, margin = -upper, -lower, -margin
    inside = upper < margin and (side == "worse" or lower > -margin)
    outside = lower > margin or (side == "both" and upper < -margin)
    return "pass" if inside else "fail" if outside else "inconclusive"


def _blocks_needed(estimate: Estimate, margin: float, side: str, num_blocks: int, widths: float) -> int | None:
    """blocks * ((width + z_power) * SE / distance to the margin)^2, because SE falls with the root of the blocks."""
    distance = abs(abs(margin) - abs(estimate.value)) if side == "both" else abs(margin - estimate.value)
    reach = (widths + float(norm.ppf(POWER))) * estimate.standard_error
    if not math.isfinite(reach) or reach >= distance * math.sqrt(MAX_BLOCKS_NEEDED / num_blocks):
        return None
    return max(num_blocks + 1, math.ceil(num_blocks * (reach / distance) ** 2))


def _with_events(
    judged: MetricVerdict, least: int, seen: int, budget: int, num_blocks: int, *, strict: bool
) -> MetricVerdict:
    """Too few events in the whole budget: underpowered. Too few at this look: nothing is known yet."""
    if budget < least:
        needed = math.ceil(num_blocks * least / seen) if seen else None
        return replace(
            judged, verdict="inconclusive", underpowered=True, decides=judged.decides and strict, blocks_needed=needed
        )
    if seen < EARLY_EVENTS * least:
        return replace(judged, lower=None, upper=None, verdict="inconclusive")
    return judged


def floor_problem(policy: PointPolicy | IntervalPolicy, metric: str, measured: MetricVerdict) -> str | None:
    """Why the policy cannot decide, if `measured` is what no change of the model does to a metric; None when it can.

    A margin below floor_factor times the floor judges the measurement, not the candidate. A rule on point estimates is
    only asked to accept it.
    """
    if isinstance(policy, PointPolicy):
        if measured.verdict == "pass":
            return None
        return f"{metric} moves by {measured.estimate:+.5g}, more than its margin {measured.margin:.5g}"
    if measured.margin is None or measured.verdict is None or measured.underpowered:  # or nothing of it occurs
        return None
    shown, known = measured.estimate, METRICS[metric]
    if shown is not None:
        unchanged = known.estimated(known.unchanged)
        floor, margin = (abs(known.estimated(value) - unchanged) for value in (shown, measured.margin))
        if measured.lost is not None and measured.events:
            # Single messages flip either way where two choices are as good as each other: that much is no floor.
            floor = max(0.0, floor - CHANCE * math.sqrt(measured.lost + (measured.gained or 0)) / measured.events)
        if policy.floor_factor * floor <= margin:
            return None
    return (
        f"{metric} moves by {shown if shown is None else format(shown, '+.5g')}: its margin {measured.margin:.5g} is "
        f"less than {policy.floor_factor:g} times that, so policy and measurement do not fit"
    )
