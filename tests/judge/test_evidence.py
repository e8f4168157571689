"""When a rule of near-lossless-v3 may decide a cell, and what is said where it may not (SPEC section 3)."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from shipped_policies import V1, V2, V3
from simulated import simulated_cell

from eaftgate.judge.cell import judge_cell
from eaftgate.judge.metrics import METRICS, Metric
from eaftgate.judge.policy import IntervalPolicy, PointPolicy
from eaftgate.judge.verdict import MetricVerdict, decide_reported, deciding_verdict, floor_problem, judge_intervals
from eaftgate.parity.bounds import fixed_width
from eaftgate.parity.clusters import Estimate, Evidence
from eaftgate.parity.estimates import Measured

ENOUGH = Measured(Estimate(0.0, 0.001, 99, skewness=0.0), Evidence(300, 60.0, 0.1), base_events=200, lost=4, gained=3)
"""Just enough of everything for every rule of means, at 30 blocks."""
ENOUGH_EXACT = replace(ENOUGH, evidence=Evidence(300, 160.0, 0.1))
"""The same for exact messages, whose effective documents would be fewer than documents, were they real."""


def enough(metric: str) -> Measured:
    return ENOUGH_EXACT if V3.rules[metric].min_effective_documents else ENOUGH


def width(_: Metric, degrees_of_freedom: float) -> float:
    return fixed_width(0.05, degrees_of_freedom)


def judged(
    metric: str,
    seen: Measured | None = None,
    budget: Measured | None = None,
    *,
    blocks: int = 30,
    deciding: frozenset[str] = V3.deciding,
    strict: bool = False,
) -> MetricVerdict:
    seen = seen or enough(metric)
    (verdict,) = judge_intervals(
        V3,
        {metric: seen},
        num_blocks=blocks,
        width=width,
        budget={metric: budget or seen},
        budget_blocks=blocks,
        deciding=deciding,
        strict=strict,
    ).values()
    return verdict


@pytest.mark.parametrize("metric", sorted(V3.deciding))
def test_just_enough_of_everything_decides(metric: str) -> None:
    found = judged(metric)
    assert (found.verdict, found.decides, found.underpowered, found.lacks) == ("pass", True, False, "")
    effective = 160.0 if metric in ("exact_calls", "exact_finals") else 60.0
    assert (found.documents, found.effective_documents, found.events) == (300, effective, 200)
    assert (found.lost, found.gained) == (4, 3)
    assert (found.unit, found.side) == (METRICS[metric].unit, "worse")


SHORT: dict[str, tuple[dict[str, Any], dict[str, Any], int, str, int | None]] = {
    "documents": ({"documents": 299}, {}, 30, "299 of 300 documents", 31),
    "effective documents": ({"effective": 159.9}, {}, 30, "159.9 of 160 effective documents", 31),
    "an even spread": ({"largest": 0.11}, {}, 30, "one document holds 11% of its call messages", 33),
    "blocks": ({}, {}, 29, "29 of 30 blocks", 30),
    "exact messages": ({}, {"base_events": 199}, 30, "199 of 200 exact calls", 31),
    "any exact message": ({}, {"base_events": 0}, 30, "0 of 200 exact calls", None),
    "a count of them": ({}, {"base_events": None}, 30, "0 of 200 exact calls", None),
    "documents and messages": (
        {"documents": 240}, {"base_events": 50}, 30, "240 of 300 documents, 50 of 200 exact calls", 120,
    ),
    "documents, and an even spread": (
        {"documents": 240, "largest": 0.4}, {}, 30, "240 of 300 documents, one document holds 40% of its call messages",
        120,
    ),
    "messages, and documents of which more would come": (
        {"documents": 150}, {"base_events": 0}, 30, "150 of 300 documents, 0 of 200 exact calls", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("strict", [False, True])
def test_too_little_in_the_whole_budget_is_underpowered_and_says_what_is_missing(name: str, strict: bool) -> None:
    """`blocks_needed` is for what more blocks bring, in proportion; the scarcest counts."""
    evidence, measured, blocks, lacks, needed = SHORT[name]
    seen = replace(ENOUGH_EXACT, evidence=replace(ENOUGH_EXACT.evidence, **evidence), **measured)
    found = judged("exact_calls", seen, blocks=blocks, strict=strict)
    assert (found.verdict, found.underpowered, found.decides) == ("inconclusive", True, False)
    assert (found.lacks, found.blocks_needed) == (lacks, needed)
    assert found.upper is not None  # it is shown all the same


def test_too_little_so_far_is_not_yet_known_and_goes_on() -> None:
    for seen in (replace(ENOUGH_EXACT, evidence=Evidence(300, 159.0, 0.1)), replace(ENOUGH_EXACT, base_events=0)):
        found = judged("exact_calls", seen, ENOUGH_EXACT)
        assert (found.verdict, found.underpowered, found.decides, found.lacks) == ("inconclusive", False, True, "")
        assert (found.lower, found.upper) == (None, None)
        assert found.estimate == 0


@pytest.mark.parametrize(("effective", "enough"), [(59.96, True), (59.94, False)])
def test_effective_documents_are_compared_as_they_are_shown(effective: float, enough: bool) -> None:
    found = judged("ppl", replace(ENOUGH, evidence=Evidence(300, effective, 0.1)))
    assert found.lacks == ("" if enough else "59.9 of 60 effective documents")


def test_what_is_only_shown_needs_no_evidence() -> None:
    found = judged("top20_jsd", replace(ENOUGH, evidence=Evidence(1, 1.0, 1.0)))
    assert (found.verdict, found.decides, found.underpowered) == (None, False, False)
    assert found.upper is not None


def test_a_rule_decides_where_its_policy_says() -> None:
    assert not judged("ppl", deciding=frozenset({"nll_call"})).decides
    assert judged("nll_call", deciding=frozenset({"nll_call"})).decides


def test_the_farther_of_two_upper_bounds_counts() -> None:
    """Hall's, moved for skewness, or the symmetric one: v2 takes the first as it is."""
    seen = replace(ENOUGH, estimate=Estimate(0.0, 0.001, 99, skewness=-3.0))
    symmetric = float(fixed_width(0.05, 99)) * 0.001
    v2 = judge_intervals(
        V2,
        {"ppl": seen},
        num_blocks=30,
        width=width,
        budget={"ppl": seen},
        budget_blocks=30,
        deciding=V2.deciding,
        strict=False,
    )["ppl"]
    assert v2.upper is not None
    assert v2.upper < symmetric
    assert judged("ppl", seen).upper == pytest.approx(symmetric)


def test_a_cell_in_which_nothing_may_decide_is_inconclusive() -> None:
    shown = MetricVerdict(0.0, -1.0, 1.0, 2.0, "pass", decides=False)
    assert deciding_verdict({"ppl": shown, "mean_p": replace(shown, verdict=None, decides=True)}) == "inconclusive"


def test_what_does_not_occur_in_a_cell_is_not_judged_there() -> None:
    """The simulated cell has content of no channel, and nothing else."""
    cell = judge_cell(V3, V1, simulated_cell(np.random.default_rng(0), 3_000), 10, strict=False)
    assert list(cell.verdicts) == list(V3.metrics)
    for name in V3.metrics:
        found, occurs = cell.verdicts[name], METRICS[name].over in ("content tokens", "other tokens")
        assert (found.verdict is None) == (not occurs or V3.rules[name].margin is None)
        assert found.decides is False
        if not occurs:
            assert found.lacks == f"{METRICS[name].over} do not occur"
            assert floor_problem(V3, name, found) is None  # of the base against itself, too
            assert (found.estimate, found.unit, found.side) == (None, METRICS[name].unit, "worse")
            assert found.margin == (margin.value if (margin := V3.rules[name].margin) else None)


def test_a_base_that_is_never_sure_and_wrong_has_no_ratio_to_judge() -> None:
    """Of a policy that may not be silent no number of blocks would be enough; near-lossless-v2 asks for more."""
    tokens = simulated_cell(np.random.default_rng(0), 3_000)
    low_T = np.asarray(tokens.p_base_T) < np.quantile(tokens.p_base_T, 0.3)
    never = replace(tokens, h_base_T=np.where(low_T, 1.0, tokens.h_base_T), h_T=np.where(low_T, 0.0, tokens.h_T))
    found = judge_cell(V3, V1, never, 10, strict=False).verdicts["cc_ratio"]
    assert (found.verdict, found.underpowered, found.lacks) == (None, False, "confident conflicts do not occur")
    before = judge_cell(V2, V1, never, 10, strict=False).verdicts["cc_ratio"]
    assert (before.verdict, before.underpowered, before.events) == ("inconclusive", True, 0)


# Where a rule decides


EVERYWHERE = {
    "ppl", "nll_header", "nll_call", "nll_final", "nll_analysis", "nll_close", "exact_calls", "exact_finals",
}  # fmt: skip


def test_classes_and_messages_decide_in_every_pack_and_the_rest_in_the_primary_one() -> None:
    assert V3.decides_in_every_pack
    assert V3.deciding_in(primary_pack=False, strict=False) == EVERYWHERE < V3.deciding
    for primary_pack, strict in ((True, False), (False, True), (True, True)):
        assert V3.deciding_in(primary_pack=primary_pack, strict=strict) == V3.deciding


@pytest.mark.parametrize("policy", [V1, V2])
def test_older_policies_judge_every_cell_by_all_their_rules(policy: PointPolicy | IntervalPolicy) -> None:
    assert not policy.decides_in_every_pack
    assert policy.deciding_in(primary_pack=False, strict=False) == policy.deciding
    assert policy.must_decide("all") == ()


def test_a_run_may_not_be_silent_about_what_its_regime_asks_for() -> None:
    assert set(V3.must_decide("all")) == V3.deciding
    assert V3.must_decide(["exact_calls", "ppl", "top20_jsd"]) == ("ppl", "exact_calls")  # in the order of the table
    assert V3.must_decide([]) == ()


# Sides and the noise floor


@pytest.mark.parametrize(("moved", "verdict"), [(-0.019, "pass"), (0.5, "pass"), (-0.021, "fail")])
def test_a_mean_probability_may_rise_and_must_not_fall(moved: float, verdict: str) -> None:
    seen = replace(ENOUGH, estimate=Estimate(moved, 1e-5, 99))
    found = judged("mean_p", seen)
    assert (found.verdict, found.margin) == (verdict, 0.02)
    assert decide_reported(METRICS["mean_p"], V3.rules["mean_p"], moved, moved) == verdict


@pytest.mark.parametrize(
    ("exact", "lost", "gained", "fits"),
    [(200, 9, 2, True), (200, 10, 2, False), (200, 2, 10, False), (1100, 17, 0, True), (1100, 18, 0, False)],
)
def test_messages_that_flip_either_way_by_chance_are_no_floor(exact: int, lost: int, gained: int, fits: bool) -> None:
    """What is net beyond 1.645 sqrt(lost + gained), held three times against the margin of 3 %."""
    net = (lost - gained) / exact
    floor = max(0.0, abs(net) - 1.645 * math.sqrt(lost + gained) / exact)
    assert (3 * floor <= 0.03) == fits
    assert 3 * abs(net) > 0.03
    moved = MetricVerdict(net, None, None, 0.03, "inconclusive", events=exact, lost=lost, gained=gained)
    assert (floor_problem(V3, "exact_calls", moved) is None) == fits
