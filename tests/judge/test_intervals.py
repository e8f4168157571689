"""From an estimate and its error to the verdict of an interval rule: closed forms, and how many blocks would decide."""

import math
from typing import Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import norm
from shipped_policies import V1, V2, V3

from eaftgate.judge.metrics import METRICS, Metric
from eaftgate.judge.policy import IntervalPolicy, Threshold
from eaftgate.judge.verdict import MetricVerdict, decide, deciding_verdict, floor_problem, judge_intervals
from eaftgate.parity.bounds import fixed_width
from eaftgate.parity.clusters import Estimate, Evidence
from eaftgate.parity.estimates import Measured

MANY_DOCUMENTS = Evidence(1_000, 1_000.0, 0.001)
Z, POWER = norm.ppf(0.95), norm.ppf(0.8)


def width(_: Metric, degrees_of_freedom: float) -> float:
    return fixed_width(0.05, degrees_of_freedom)


def judged(
    metric: str,
    value: float,
    error: float,
    *,
    clusters: int = 1_000_000_000,
    blocks: int = 100,
    events: int | None = None,
    budget: int = 0,
    strict: bool = False,
    policy: IntervalPolicy = V2,
) -> MetricVerdict:
    estimate = Estimate(value, error, clusters - 1)
    measured, whole = ({metric: Measured(estimate, MANY_DOCUMENTS, base_events=number)} for number in (events, budget))
    (verdict,) = judge_intervals(
        policy,
        measured,
        num_blocks=blocks,
        width=width,
        budget=whole,
        budget_blocks=blocks,
        deciding=policy.deciding,
        strict=strict,
    ).values()
    return verdict


def margin_of(metric: str) -> float:
    margin = V2.rules[metric].margin
    assert margin is not None
    return margin.value


def test_bounds_are_one_sided_at_the_level_of_the_policy() -> None:
    found = judged("ppl", 0.01, 0.004)
    assert found.estimate == 0.01
    assert found.lower == pytest.approx(0.01 - Z * 0.004)
    assert found.upper == pytest.approx(0.01 + Z * 0.004)
    assert (found.margin, found.verdict, found.decides) == (margin_of("ppl"), "pass", True)
    assert (found.underpowered, found.blocks_needed) == (False, None)


def test_a_ratio_is_estimated_as_its_logarithm_and_reported_as_a_ratio() -> None:
    found = judged("cc_ratio", math.log(1.2), 0.1, events=1000, budget=1000)
    assert found.estimate == pytest.approx(1.2)
    assert found.lower == pytest.approx(1.2 * math.exp(-Z * 0.1))
    assert found.upper == pytest.approx(1.2 * math.exp(Z * 0.1))
    assert (found.margin, found.verdict) == (1.5, "pass")
    assert judged("cc_ratio", math.log(1.4), 0.1, events=1000, budget=1000).verdict == "inconclusive"
    assert judged("cc_ratio", math.log(2.0), 0.1, events=1000, budget=1000).verdict == "fail"


def test_no_number_of_blocks_tells_no_change_at_all_from_no_margin_at_all() -> None:
    none = Threshold(value=0.0, rationale="equal", origin="here")
    rules = V2.rules | {"mean_p": V2.rules["mean_p"].model_copy(update={"margin": none})}
    policy = V2.model_copy(update={"rules": rules})
    found = judged("mean_p", 0.0, 0.0, policy=policy)
    assert (found.verdict, found.blocks_needed) == ("inconclusive", None)
    assert floor_problem(policy, "mean_p", found) is None


def test_a_metric_without_a_margin_is_shown_and_decides_nothing() -> None:
    found = judged("top20_jsd", 0.01, 0.004)
    assert (found.margin, found.verdict, found.decides, found.blocks_needed) == (None, None, False, None)
    assert found.lower is not None
    assert found.upper is not None


def test_what_cannot_be_estimated_is_not_known_and_inconclusive() -> None:
    found = judged("cc_ratio", math.nan, math.inf, clusters=1, events=1000, budget=1000)
    assert (found.estimate, found.lower, found.upper) == (None, None, None)
    assert (found.verdict, found.blocks_needed) == ("inconclusive", None)


@given(
    st.sampled_from([name for name, metric in METRICS.items() if metric.unit in ("share", "probability")]),
    st.floats(-1, 1),
    st.floats(0, 3),
    st.sampled_from(["worse", "both"]),
    st.floats(0, 0.999),
)
def test_bounds_are_cut_at_what_is_possible_and_no_verdict_changes_by_it(
    name: str, at: float, error: float, side: Literal["worse", "both"], limit: float
) -> None:
    least, most = METRICS[name].possible
    assert most == 1
    value = max(at, least)
    margin = Threshold(value=limit, rationale="any", origin="here")
    rules = V3.rules | {name: V3.rules[name].model_copy(update={"margin": margin, "side": side})}
    found = judged(name, value, error, policy=V3.model_copy(update={"rules": rules, "evidence": None}))
    lower, upper = value - Z * error, value + Z * error
    assert found.lower == pytest.approx(max(lower, least))
    assert found.upper == pytest.approx(min(upper, most))
    metric = METRICS[name]
    whole = decide(lower, upper, metric.limit(limit), side, less_is_worse=metric.less_is_worse)
    assert found.verdict == whole


@given(
    st.sampled_from(["ppl", "mean_p", "js2d_corrected"]),
    st.floats(-3, 3),
    st.floats(0.05, 5),
    st.integers(2, 200),
    st.integers(1, 600),
)
def test_the_blocks_said_to_be_needed_would_decide_with_the_power_that_is_said(
    metric: str, at: float, spread: float, clusters: int, blocks: int
) -> None:
    """SE falls with the root of the blocks; at those needed, bound and power together just reach the margin."""
    margin = margin_of(metric)
    value, error = at * margin, spread * margin
    found = judged(metric, value, error, clusters=clusters, blocks=blocks)
    assume(found.verdict == "inconclusive")
    distance = abs(margin - (abs(value) if V2.rules[metric].side == "both" else value))

    def reach(number: float) -> float:
        return float(Z + POWER) * error * math.sqrt(blocks / number)

    if found.blocks_needed is None:
        assert reach(1_000_000) > 0.999 * distance
        return
    assert blocks < found.blocks_needed <= 1_000_000
    assert reach(found.blocks_needed) <= 1.001 * distance
    assert found.blocks_needed == blocks + 1 or reach(found.blocks_needed - 1) >= 0.999 * distance


@pytest.mark.parametrize(("budget", "underpowered"), [(99, True), (100, False)])
def test_a_hundred_events_of_the_base_in_the_whole_budget_are_enough(budget: int, underpowered: bool) -> None:
    found = judged("cc_ratio", 0.0, 0.01, events=budget, budget=budget)
    assert found.underpowered == underpowered
    assert found.verdict == ("inconclusive" if underpowered else "pass")
    assert found.decides != underpowered


@pytest.mark.parametrize(("events", "needed"), [(30, 334), (50, 200), (0, None)])
def test_what_is_underpowered_says_how_many_blocks_would_have_enough(events: int, needed: int | None) -> None:
    """At the rate seen so far: 100 blocks hold `events`, so that 100 events take 100 / events times as many."""
    lenient, strict = (
        judged("cc_ratio", 0.0, 0.01, blocks=100, events=events, budget=events, strict=strict)
        for strict in (False, True)
    )
    assert lenient.blocks_needed == strict.blocks_needed == needed
    assert (lenient.decides, strict.decides) == (False, True)
    assert lenient.upper is not None


@pytest.mark.parametrize(("seen", "known"), [(24, False), (25, True)])
def test_an_early_look_needs_a_quarter_of_the_events(seen: int, known: bool) -> None:
    found = judged("cc_ratio", 0.0, 0.01, events=seen, budget=400)
    assert (found.verdict, found.underpowered, found.decides) == ("pass" if known else "inconclusive", False, True)
    assert (found.lower is not None, found.upper is not None) == (known, known)
    assert found.estimate == 1


def test_a_cell_is_as_bad_as_the_worst_of_what_decides() -> None:
    passed, failed, unknown = (MetricVerdict(0.0, None, None, 1.0, verdict) for verdict in ("pass", "fail", None))
    advisory = MetricVerdict(0.0, None, None, 1.0, "fail", decides=False)
    assert deciding_verdict({"a": passed, "b": advisory, "c": unknown}) == "pass"
    assert deciding_verdict({"a": passed, "b": failed}) == "fail"


# The noise floor


def test_a_policy_that_does_not_fit_the_measurement_says_what_moves_how_far() -> None:
    assert floor_problem(V2, "ppl", MetricVerdict(-1.234567e-7, None, None, 1e-7, "pass")) == (
        "ppl moves by -1.2346e-07: its margin 1e-07 is less than 3 times that, so policy and measurement do not fit"
    )
    assert floor_problem(V2, "ppl", MetricVerdict(None, None, None, 0.0488, "inconclusive")) == (
        "ppl moves by None: its margin 0.0488 is less than 3 times that, so policy and measurement do not fit"
    )
    assert floor_problem(V1, "ppl", MetricVerdict(0.3, None, None, 0.25, "fail")) == (
        "ppl moves by +0.3, more than its margin 0.25"
    )
    assert floor_problem(V1, "ppl", MetricVerdict(0.2, None, None, 0.25, "pass")) is None
    assert floor_problem(V2, "ppl", MetricVerdict(0.01, None, None, 0.03, "pass")) is None  # three times is enough
    assert floor_problem(V2, "rms_dp", MetricVerdict(9.0, None, None, None, None)) is None


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("share", "fits"), [(0.333, True), (0.334, False)])
def test_a_floor_is_held_against_a_third_of_the_margin_on_the_scale_of_the_metric(
    metric: str, share: float, fits: bool
) -> None:
    """From what two equal models have: 1 for a ratio (in logarithms) and for a share that less of is worse, else 0."""
    margin, moved = {
        "cc_ratio": (1.5, 1.5**share),
        "same_top1": (0.9, 1 - 0.1 * share),
    }.get(metric, (0.02, 0.02 * share))
    verdict = MetricVerdict(moved, None, None, margin, "pass", events=500)
    assert (floor_problem(V2, metric, verdict) is None) == fits
    assert floor_problem(V2, metric, MetricVerdict(moved, None, None, margin, "pass", underpowered=True)) is None
