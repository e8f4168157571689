"""From paired tokens to a judged cell: all of them at once, or look by look until they decide. Pure NumPy."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from eaftgate.judge.metrics import METRICS, Metric
from eaftgate.judge.policy import IntervalPolicy, PointPolicy, SequentialSettings
from eaftgate.judge.verdict import (
    MetricVerdict,
    Verdict,
    Width,
    best_of_several,
    decide_reported,
    deciding_verdict,
    judge_intervals,
    judge_points,
)
from eaftgate.parity.bounds import fixed_width, sequence_width
from eaftgate.parity.estimates import Measured, PairedCell
from eaftgate.parity.js2d import Bins
from eaftgate.parity.metrics import CellMetrics, Thresholds, base_thresholds, cell_metrics
from eaftgate.parity.paired import PairedTokens, concatenate_pairs


@dataclass(frozen=True)
class JudgedCell:
    """`num_blocks` were seen. `details` says by metric how a value came about, where there is something to say.
    `v1_verdict` and `v2_verdict` are what those policies say of the same tokens, None where they were not asked."""

    num_blocks: int
    metrics: CellMetrics
    verdicts: Mapping[str, MetricVerdict]
    verdict: Verdict
    v1_verdict: Verdict | None
    cc_events_base: int
    details: Mapping[str, Mapping[str, int | float]]
    v2_verdict: Verdict | None = None

    @property
    def estimates(self) -> dict[str, float | None]:
        return {metric: verdict.estimate for metric, verdict in self.verdicts.items()}

    @property
    def underpowered(self) -> bool:
        return any(verdict.underpowered for verdict in self.verdicts.values())


def judge_cell(
    policy: PointPolicy | IntervalPolicy,
    v1: PointPolicy | None,
    scored: PairedTokens,
    num_blocks: int,
    *,
    strict: bool,
    primary_pack: bool = True,
    best_of: int = 1,
    v2: IntervalPolicy | None = None,
) -> JudgedCell:
    """All of a cell's tokens, at a size that was fixed beforehand. Perplexity and its like are of content alone.

    `best_of`: the number of candidates of which this one may be chosen as the best. `v1` and `v2`: whose verdicts are
    to be known besides.
    """

    def judged(by: IntervalPolicy, found: Mapping[str, Measured]) -> dict[str, MetricVerdict]:
        alone, divided = (
            judge_intervals(
                by,
                found,
                num_blocks=num_blocks,
                width=_fixed(alpha),
                budget=found,
                budget_blocks=num_blocks,
                deciding=by.deciding_in(primary_pack=primary_pack, strict=strict),
                strict=strict,
            )
            for alpha in _levels(by, best_of)
        )
        return best_of_several(by, alone, divided)

    tokens = scored.content()
    thresholds = base_thresholds(tokens.p_base_T, tokens.h_base_T)
    metrics = _metrics(tokens, thresholds)
    if isinstance(policy, PointPolicy):
        measured: Mapping[str, Measured] = {}
        verdicts = judge_points(policy, metrics)
    else:
        measured = _measured(policy, scored, tokens, thresholds, policy.metrics)
        verdicts = judged(policy, measured)
        verdicts = {name: verdicts.get(name) or _inapplicable(policy, name) for name in policy.metrics}
    cell = _judged(num_blocks, metrics, verdicts, v1, _details(measured))
    if v2 is None or v2 == policy:
        return replace(cell, v2_verdict=None if v2 is None else cell.verdict)
    known = _measured_alike(policy, v2, measured)
    asked = [name for name in v2.metrics if name in v2.deciding and name not in known]
    beside = judged(v2, known | _measured(v2, scored, tokens, thresholds, asked))
    return replace(cell, v2_verdict=deciding_verdict(beside))


def _measured_alike(
    policy: PointPolicy | IntervalPolicy, other: IntervalPolicy, measured: Mapping[str, Measured]
) -> dict[str, Measured]:
    """What another policy would measure just so, and takes long: JS2D, whose standard error is made in one way only."""
    alike = isinstance(policy, IntervalPolicy) and policy.js2d == other.js2d
    return {name: measured[name] for name in ("js2d_corrected",) if alike and name in measured and name in other.rules}


def _levels(policy: IntervalPolicy, best_of: int) -> tuple[float, float]:
    """alpha of one candidate alone, and divided for the best of several."""
    return policy.alpha, policy.alpha / best_of


def _fixed(alpha: float) -> Width:
    return lambda _, degrees_of_freedom: fixed_width(alpha, degrees_of_freedom)


def _at_look(alpha: float, share: float, full_looks: int) -> Width:
    """After `share` of the budget; the metrics of the full looks have alpha split over those."""

    def width(metric: Metric, degrees_of_freedom: float) -> float:
        if not metric.at_every_look:
            return fixed_width(alpha / full_looks, degrees_of_freedom)
        return sequence_width(alpha, degrees_of_freedom, share)

    return width


def _metrics(tokens: PairedTokens, thresholds: Thresholds) -> CellMetrics:
    return cell_metrics(tokens.logprob_base_T, tokens.h_base_T, tokens.logprob_T, tokens.h_T, thresholds=thresholds)


def _measured(
    policy: IntervalPolicy,
    scored: PairedTokens,
    tokens: PairedTokens,
    thresholds: Thresholds,
    metrics: Sequence[str],
) -> dict[str, Measured]:
    """By metric; those that the cell has nothing of are not there.

    A policy that asks for evidence is not silent on events that the base has none of in a whole cell, as of confident
    conflicts: no number of blocks would be enough to judge their ratio.
    """
    bins = Bins(policy.js2d.p_bins, policy.js2d.h_bins)
    cell = PairedCell(tokens, scored, thresholds, bins, policy.js2d.swaps, jackknife=policy.bounds == "jackknife")
    measured = {name: METRICS[name].measure(cell) for name in metrics}
    return {
        name: found
        for name, found in measured.items()
        if found is not None and not (policy.evidence and found.base_events == 0 and METRICS[name].counts_the_base)
    }


def _judged(
    num_blocks: int,
    metrics: CellMetrics,
    verdicts: Mapping[str, MetricVerdict],
    v1: PointPolicy | None,
    details: Mapping[str, Mapping[str, int | float]],
) -> JudgedCell:
    return JudgedCell(
        num_blocks=num_blocks,
        metrics=metrics,
        verdicts=verdicts,
        verdict=deciding_verdict(verdicts),
        v1_verdict=None if v1 is None else deciding_verdict(judge_points(v1, metrics)),
        cc_events_base=round(metrics.cc_base * metrics.tokens),
        details=details,
    )


def _details(measured: Mapping[str, Measured]) -> dict[str, Mapping[str, int | float]]:
    return {name: found.details for name, found in measured.items() if found.details}


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
    base: PairedTokens,
    looks: Sequence[Look],
    parts: Iterable[PairedTokens],
    *,
    strict: bool,
    primary_pack: bool = True,
    best_of: int = 1,
) -> JudgedCell:
    """Judge after every look, and stop asking for parts when the cell is decided or its budget is spent.

    `parts[i]` are the tokens between look i - 1 and look i; `base` is the base paired with itself over the whole
    budget, so that the thresholds are those of the budget at every look, and it is known from the first what the budget
    is too small for. Bounds are those of a confidence sequence, of which the tightest so far count; a metric of the
    full looks has ordinary ones, with alpha split over them. `best_of` as in `judge_cell`.
    """
    content = base.content()
    thresholds = base_thresholds(content.p_base_T, content.h_base_T)
    budget = _measured(policy, base, content, thresholds, policy.metrics)
    full_looks = sum(look.full for look in looks)
    deciding = policy.deciding_in(primary_pack=primary_pack, strict=strict)
    # What is known before the first look: nothing.
    standing = {
        name: _unknown(policy, name, name in deciding) if name in budget else _inapplicable(policy, name)
        for name in policy.metrics
    }
    levels = _levels(policy, best_of)
    at_levels = [standing, standing]
    details: dict[str, Mapping[str, int | float]] = {}
    seen: list[PairedTokens] = []
    for look, part in zip(looks, parts, strict=False):
        seen = [concatenate_pairs([*seen, part])]
        tokens = seen[0].content()
        if not len(tokens):  # blocks need not hold a counted token
            continue
        share = look.num_blocks / looks[-1].num_blocks
        asked = [
            name
            for name in budget
            if METRICS[name].at_every_look or (look.full and standing[name].verdict == "inconclusive")
        ]
        measured = _measured(policy, seen[0], tokens, thresholds, asked)
        for level, alpha in enumerate(levels):
            now = judge_intervals(
                policy,
                measured,
                num_blocks=look.num_blocks,
                width=_at_look(alpha, share, full_looks),
                budget=budget,
                budget_blocks=looks[-1].num_blocks,
                deciding=deciding,
                strict=strict,
            )
            before = at_levels[level]
            at_levels[level] = before | {n: _standing(policy, n, before[n], verdict) for n, verdict in now.items()}
        standing = best_of_several(policy, *at_levels)
        details |= _details(measured)
        open_ = [verdict.verdict for verdict in standing.values() if verdict.decides]
        if "fail" in open_ or "inconclusive" not in open_:
            break
    metrics = _metrics(seen[0].content(), thresholds)
    return _judged(look.num_blocks, metrics, standing, v1, details)


def _inapplicable(policy: IntervalPolicy, name: str) -> MetricVerdict:
    """Of a cell that has nothing of what the metric speaks of."""
    metric = METRICS[name]
    speaks_of = metric.events.name if metric.events is not None and metric.counts_the_base else metric.over
    lacks = f"{speaks_of} do not occur"
    return replace(_unknown(policy, name, deciding=False), verdict=None, lacks=lacks)


def _unknown(policy: IntervalPolicy, name: str, deciding: bool) -> MetricVerdict:
    rule = policy.rules[name]
    return MetricVerdict(
        None,
        None,
        None,
        margin=None if rule.margin is None else rule.margin.value,
        verdict=None if rule.margin is None else "inconclusive",
        decides=deciding and rule.role == "decides",
        unit=METRICS[name].unit,
        side=rule.side,
    )


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
