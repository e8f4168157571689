"""near-lossless-v2 on simulated cells with known truth: error rates, power, budgets, and stopping early."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from shipped_policies import V1, V2, V3, little_evidence
from simulated import TOKENS_A_BLOCK, base_alone, clustered_normal, documents, paired, simulated_cell

from eaftgate.judge.cell import JudgedCell, judge_cell, judge_in_looks, plan_looks
from eaftgate.judge.metrics import METRICS
from eaftgate.judge.policy import IntervalPolicy, PointPolicy, Threshold
from eaftgate.judge.verdict import Verdict, decide, deciding_verdict, judge_points
from eaftgate.parity.bounds import farther_bounds, fixed_width
from eaftgate.parity.estimates import Measured, PairedCell
from eaftgate.parity.js2d import Bins
from eaftgate.parity.metrics import base_thresholds, cell_metrics
from eaftgate.parity.paired import PairedTokens

FEW_SWAPS = V2.model_copy(update={"js2d": V2.js2d.model_copy(update={"swaps": 50})})
ONLY_PPL = FEW_SWAPS.model_copy(
    update={
        "rules": {
            m: rule if m == "ppl" else rule.model_copy(update={"role": "advisory"}) for m, rule in V2.rules.items()
        }
    }
)
LIMIT = math.log(1.05)
ERROR = 3 * math.sqrt(0.05 * 0.95 / 300)
"""Three standard errors of a share of 0.05 among 300 cells."""


def cell(rng: np.random.Generator, blocks: int, loss: float, spread: float = 1.0) -> PairedTokens:
    """`loss`: the true mean of nll_candidate - nll_base; the deltas of a document are alike and skewed."""
    base = simulated_cell(rng, blocks * TOKENS_A_BLOCK)
    delta_T = loss + spread * (_skewed(rng, base.row_T) + 0.5 * clustered_normal(rng, base.row_T, 0.0)) / 2
    logprob_T = np.minimum(base.logprob_base_T - delta_T, 0.0)
    logprob_base_T = logprob_T + delta_T  # keeps the truth exact where p would have passed 1
    return paired(logprob_base_T, logprob_T, base.h_base_T, base.h_base_T, base.row_T, base.block_T)


def _skewed(rng: np.random.Generator, row_T: NDArray[np.int32]) -> NDArray[np.float64]:
    return (rng.standard_exponential(int(row_T.max()) + 1) - 1)[row_T]


def judged(tokens: PairedTokens, blocks: int, *, strict: bool = False) -> JudgedCell:
    return judge_cell(FEW_SWAPS, V1, tokens, blocks, strict=strict)


# Deciding


@pytest.mark.parametrize(
    ("lower", "upper", "side", "verdict"),
    [
        (-0.5, 0.9, "worse", "pass"),
        (-9.0, 0.9, "worse", "pass"),
        (-0.5, 1.0, "worse", "inconclusive"),
        (0.9, 1.1, "worse", "inconclusive"),
        (1.1, 1.2, "worse", "fail"),
        (-0.9, 0.9, "both", "pass"),
        (-1.1, 0.9, "both", "inconclusive"),
        (-1.2, -1.1, "both", "fail"),
        (1.1, 1.2, "both", "fail"),
        (-math.inf, math.inf, "worse", "inconclusive"),
        (math.nan, math.nan, "both", "inconclusive"),
        (math.nan, math.nan, "worse", "inconclusive"),
    ],
)
def test_decide_against_a_margin_of_one(lower: float, upper: float, side: str, verdict: Verdict) -> None:
    assert decide(lower, upper, 1.0, side) == verdict  # type: ignore[arg-type]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_where_less_is_worse_the_margin_is_the_least_that_is_good(a: float, b: float, margin: float) -> None:
    lower, upper = sorted((a, b))
    verdict = decide(lower, upper, margin, "worse", less_is_worse=True)
    assert verdict == ("pass" if lower > margin else "fail" if upper < margin else "inconclusive")


def test_a_cell_of_one_document_decides_nothing() -> None:
    tokens = cell(np.random.default_rng(0), 4, 0.0)
    one = replace(tokens, row_T=np.zeros_like(tokens.row_T))
    result = judged(one, 4)
    assert result.verdict == "inconclusive"
    assert result.verdicts["ppl"].lower is result.verdicts["ppl"].upper is None


def test_a_metric_without_a_rule_is_not_judged_at_once_or_in_looks() -> None:
    policy = FEW_SWAPS.model_copy(update={"rules": {m: V2.rules[m] for m in ("same_top1", "ppl", "mean_p")}})
    tokens = cell(np.random.default_rng(13), 64, 0.0, spread=0.03)
    at_once = judge_cell(policy, V1, tokens, 64, strict=False)
    in_looks, _ = sequential(tokens, 64, 0, policy)
    for result in (at_once, in_looks):
        assert list(result.verdicts) == ["ppl", "mean_p", "same_top1"]
        assert (result.verdict, result.details) == ("pass", {})
    whole = judged(tokens, 64).verdicts
    assert {name: whole[name] for name in at_once.verdicts} == at_once.verdicts


@pytest.mark.parametrize("v1", [V1, None])
def test_a_policy_of_points_judges_the_point_estimates_of_content(v1: PointPolicy | None) -> None:
    tokens = cell(np.random.default_rng(13), 4, 0.5)
    result = judge_cell(V1, v1, tokens, 4, strict=False)
    thresholds = base_thresholds(tokens.p_base_T, tokens.h_base_T)
    columns = (tokens.logprob_base_T, tokens.h_base_T, tokens.logprob_T, tokens.h_T)
    assert result.metrics == cell_metrics(*columns, thresholds=thresholds)
    assert result.verdicts == judge_points(V1, result.metrics)
    assert (result.num_blocks, result.verdict, dict(result.details)) == (4, "fail", {})
    assert result.v1_verdict == (v1 and "fail")
    assert result.cc_events_base == result.metrics.cc_base * result.metrics.tokens > 0


def test_a_policy_of_intervals_says_what_v1_would_have_said_and_how_js2d_came_about() -> None:
    tokens = cell(np.random.default_rng(14), 100, 0.0, spread=0.05)
    result = judged(tokens, 100)
    assert (result.num_blocks, result.v1_verdict) == (100, deciding_verdict(judge_points(V1, result.metrics)))
    assert judge_cell(FEW_SWAPS, None, tokens, 100, strict=False).v1_verdict is None
    details = result.details["js2d_corrected"]
    estimate = result.verdicts["js2d_corrected"].estimate
    assert details["plug_in"] - details["bias"] == pytest.approx(estimate)
    assert list(result.details) == ["js2d_corrected"]


def test_standard_errors_are_those_that_the_policy_names() -> None:
    """Documents as unequal as these are where the two ways differ."""
    tokens = cell(np.random.default_rng(15), 20, 0.01)
    tokens = replace(tokens, row_T=np.maximum(tokens.row_T, tokens.row_T[len(tokens) // 3]))
    thresholds = base_thresholds(tokens.p_base_T, tokens.h_base_T)
    bins = Bins(V3.js2d.p_bins, V3.js2d.h_bins)
    found = judge_cell(V3, None, tokens, 20, strict=False)
    columns = (tokens.logprob_base_T, tokens.h_base_T, tokens.logprob_T, tokens.h_T)
    assert found.metrics == cell_metrics(*columns, thresholds=thresholds)
    intervals = []
    for jackknife in (True, False):
        measured = METRICS["ppl"].measure(PairedCell(tokens, tokens, thresholds, bins, 0, jackknife=jackknife))
        assert measured is not None
        estimate = measured.estimate
        lower, upper = farther_bounds(estimate, fixed_width(V3.alpha, estimate.degrees_of_freedom))
        intervals.append(tuple(map(METRICS["ppl"].reported, (lower, upper))))
    seen = (found.verdicts["ppl"].lower, found.verdicts["ppl"].upper)
    assert seen == pytest.approx(intervals[0], rel=1e-9)
    assert seen != pytest.approx(intervals[1], rel=1e-3)


# Error rates


@pytest.mark.slow
def test_a_loss_at_the_margin_passes_no_more_often_than_alpha_and_fails_no_more_often() -> None:
    """200 documents whose sums are skewed by unequal lengths and exponential damage."""
    rng = np.random.default_rng(1)
    found = [judged(cell(rng, 100, LIMIT), 100).verdicts["ppl"].verdict for _ in range(300)]
    assert found.count("pass") / 300 < 0.05 + ERROR
    assert found.count("fail") / 300 < 0.05 + ERROR


@pytest.mark.slow
def test_power_at_a_realistic_budget() -> None:
    """Half the margin passes and twice the margin fails, nearly always, at 200 blocks."""
    rng = np.random.default_rng(2)
    expected: tuple[tuple[float, Verdict], ...] = ((LIMIT / 2, "pass"), (2 * LIMIT, "fail"))
    for loss, verdict in expected:
        found = [judged(cell(rng, 200, loss, spread=0.15), 200).verdicts["ppl"].verdict for _ in range(20)]
        assert found.count(verdict) >= 18


def test_the_blocks_said_to_be_needed_decide() -> None:
    """With 80 % power by definition, if the estimate is right: of 20 runs at that budget at least 11 (probability 0.99)
    decide. The estimate that is nearest the truth is asked."""
    rng = np.random.default_rng(3)
    loss = 0.7 * LIMIT
    small = [judged(cell(rng, 30, loss, spread=0.2), 30).verdicts["ppl"] for _ in range(20)]
    undecided = [verdict for verdict in small if verdict.verdict == "inconclusive"]
    nearest = min(undecided, key=lambda verdict: abs((verdict.estimate or 0) - loss))
    blocks = nearest.blocks_needed
    assert blocks is not None
    assert 30 < blocks < 500
    verdicts = [judged(cell(rng, blocks, loss, spread=0.2), blocks).verdicts["ppl"].verdict for _ in range(20)]
    assert verdicts.count("inconclusive") <= 9


@pytest.mark.slow
def test_a_growing_budget_turns_a_pass_into_a_fail_no_more_often_than_alpha() -> None:
    """Nested budgets of 8, 32 and 128 blocks of the same cell, at the worst truth there is: on the margin."""
    rng = np.random.default_rng(4)
    flips = 0
    for _ in range(100):
        tokens = cell(rng, 128, LIMIT)
        path = [judged(tokens.select(tokens.block_T < n), n).verdicts["ppl"].verdict for n in (8, 32, 128)]
        flips += any("fail" in path[i + 1 :] for i, verdict in enumerate(path) if verdict == "pass")
    assert flips / 100 <= 0.05


# A share that ought to be large


@pytest.mark.parametrize(("differing", "verdict"), [(0.0, "pass"), (0.02, "inconclusive"), (0.1, "fail")])
def test_the_share_of_the_same_first_choice_must_not_fall_below_its_margin(differing: float, verdict: Verdict) -> None:
    margin = Threshold(value=0.98, rationale="a test's", origin="here")
    rule = V2.rules["same_top1"].model_copy(update={"role": "decides", "margin": margin})
    policy = FEW_SWAPS.model_copy(update={"rules": {**V2.rules, "same_top1": rule}})
    rng = np.random.default_rng(14)
    tokens = cell(rng, 30, 0.0, spread=0.03)
    tokens = replace(tokens, same_top1_T=rng.random(len(tokens)) >= differing)
    for result in (judge_cell(policy, V1, tokens, 30, strict=False), sequential(tokens, 30, 0, policy)[0]):
        assert result.verdicts["same_top1"].verdict == verdict


# Confident conflict


def test_few_base_events_are_underpowered_and_decide_only_when_strict() -> None:
    tokens = cell(np.random.default_rng(5), 8, 0.0, spread=0.05)
    lenient, strict = (judged(tokens, 8, strict=strict) for strict in (False, True))
    assert lenient.cc_events_base < 100
    assert lenient.underpowered
    assert not lenient.verdicts["cc_ratio"].decides
    assert strict.verdicts["cc_ratio"].decides
    assert strict.verdict == "inconclusive"


def conflicts(blocks: int, factor: float) -> PairedTokens:
    """One base conflict among 100 tokens; the candidate has `factor` times as many."""
    tokens = blocks * TOKENS_A_BLOCK
    rng = np.random.default_rng(6)
    row_T = documents(rng, tokens)
    draw_T, sure_T = rng.random(tokens), rng.random(tokens) < 0.3
    logprob = [np.where(sure_T & (draw_T < 0.01 * f), -13.0, np.where(sure_T, -0.01, -2.0)) for f in (1.0, factor)]
    h_T = np.where(sure_T, 0.05, 0.6)
    block_T = (np.arange(tokens) // TOKENS_A_BLOCK).astype(np.int32)
    # 0.35 of the tokens are unlikely without being sure, so that the threshold of p is theirs.
    logprob = [np.where(~sure_T & (draw_T < 0.5), -12.0, column) for column in logprob]
    return paired(logprob[0], logprob[1], h_T, h_T, row_T, block_T)


def test_three_times_the_conflicts_fail_by_ratio_though_the_difference_is_small() -> None:
    """The origin's gate passed +196 %."""
    result = judged(conflicts(300, 2.96), 300)
    assert result.cc_events_base > 100
    ratio = result.verdicts["cc_ratio"]
    assert ratio.verdict == "fail"
    assert ratio.estimate == pytest.approx(2.96, rel=0.2)
    assert judged(conflicts(300, 1.0), 300).verdicts["cc_ratio"].verdict == "pass"


# What a histogram cannot see


def test_a_permutation_that_leaves_the_histogram_alone_is_seen_by_the_paired_metrics() -> None:
    rng = np.random.default_rng(7)
    base = simulated_cell(rng, 30_000)
    order = rng.permutation(len(base))
    moved = paired(
        base.logprob_base_T, base.logprob_base_T[order], base.h_base_T, base.h_base_T[order], base.row_T, base.block_T
    )
    result = judged(moved, 100)
    assert result.metrics.js2d == 0
    assert result.metrics.delta_ppl == pytest.approx(0)
    assert result.verdicts["js2d_corrected"].verdict == "pass"
    lower = result.verdicts["rms_dp"].lower
    assert lower is not None
    assert lower > 0.3


# What the policy before would have said


@pytest.mark.parametrize("swaps", [50, 60])
@pytest.mark.parametrize("loss", [0.0, 0.04, 0.2, -0.2])
@pytest.mark.parametrize(("strict", "best_of"), [(False, 1), (True, 1), (False, 100)])
def test_beside_another_policy_v2_says_what_it_says_alone(swaps: int, loss: float, strict: bool, best_of: int) -> None:
    """Where JS2D is the same for both it is measured once; a better model fails under v2."""
    tokens = cell(np.random.default_rng(21), 60, loss, spread=0.2)
    options: dict[str, Any] = {"strict": strict, "best_of": best_of}
    other = FEW_SWAPS.model_copy(update={"js2d": V2.js2d.model_copy(update={"swaps": swaps})})
    alone = judge_cell(other, None, tokens, 60, **options)
    for policy in (little_evidence(), V1):
        beside = judge_cell(policy, V1, tokens, 60, v2=other, **options)
        assert beside.v2_verdict == alone.verdict
        assert replace(beside, v2_verdict=None) == judge_cell(policy, V1, tokens, 60, **options)
    assert judge_cell(other, None, tokens, 60, v2=other, **options) == replace(alone, v2_verdict=alone.verdict)


def test_v2_fails_a_better_model_and_v3_does_not() -> None:
    tokens = cell(np.random.default_rng(21), 60, -0.2, spread=0.2)
    found = judge_cell(little_evidence(), V1, tokens, 60, strict=False, v2=FEW_SWAPS)
    assert found.v2_verdict == "fail"
    assert found.verdicts["mean_p"].verdict == "pass"


def test_js2d_that_two_policies_measure_alike_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    metric = METRICS["js2d_corrected"]

    def measured(of: PairedCell) -> Measured | None:
        asked.append(of.swaps)
        return metric.measure(of)

    monkeypatch.setitem(METRICS, "js2d_corrected", replace(metric, measure=measured))
    tokens = cell(np.random.default_rng(21), 8, 0.0)
    for v2 in (FEW_SWAPS, V2):
        judge_cell(little_evidence(), None, tokens, 8, strict=False, v2=v2)
    assert asked == [50, 50, 200]


# Stopping early


def sequential(
    tokens: PairedTokens, blocks: int, seed: int, policy: IntervalPolicy = FEW_SWAPS, *, strict: bool = False
) -> tuple[JudgedCell, int]:
    """The judged cell and the number of parts that were asked for."""
    order = np.random.default_rng(seed).permutation(blocks)
    looks = plan_looks(policy.sequential, blocks)
    asked = 0

    def parts() -> Iterator[PairedTokens]:
        nonlocal asked
        begin = 0
        for look in looks:
            asked += 1
            yield tokens.select(np.isin(tokens.block_T, order[begin : look.num_blocks]))
            begin = look.num_blocks

    result = judge_in_looks(policy, V1, base_alone(tokens), looks, parts(), strict=strict)
    return result, asked


@given(st.integers(1, 3000))
def test_looks_ascend_to_the_whole_budget(blocks: int) -> None:
    looks = plan_looks(V2.sequential, blocks)
    counts = [look.num_blocks for look in looks]
    assert counts == sorted(set(counts))
    assert looks[-1].num_blocks == blocks
    assert looks[-1].full
    assert counts[0] >= min(16, blocks)


def test_no_damage_stops_early_with_a_pass_and_much_damage_earlier_with_a_fail() -> None:
    rng = np.random.default_rng(8)
    good, asked_good = sequential(cell(rng, 256, 0.0, spread=0.03), 256, 0)
    assert (good.verdict, good.num_blocks) == ("pass", 64)
    bad, asked_bad = sequential(cell(rng, 256, 0.5, spread=0.03), 256, 0)
    assert (bad.verdict, bad.num_blocks) == ("fail", 16)
    assert asked_bad < asked_good < 16


def test_an_undecided_cell_takes_its_whole_budget() -> None:
    result, _ = sequential(cell(np.random.default_rng(9), 64, LIMIT, spread=0.1), 64, 0, ONLY_PPL)
    assert (result.verdict, result.num_blocks) == ("inconclusive", 64)


@pytest.mark.slow
def test_stopping_early_passes_a_loss_at_the_margin_no_more_often_than_alpha() -> None:
    rng = np.random.default_rng(10)
    found = [sequential(cell(rng, 64, LIMIT), 64, seed)[0].verdicts["ppl"].verdict for seed in range(150)]
    assert found.count("pass") / 150 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150) / 2
    assert found.count("fail") / 150 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150) / 2


def test_thresholds_are_those_of_the_whole_base_at_every_look() -> None:
    tokens = cell(np.random.default_rng(11), 256, 0.0, spread=0.03)
    result, _ = sequential(tokens, 256, 0)
    assert result.num_blocks < 256
    assert result.metrics.thresholds == judged(tokens, 256).metrics.thresholds


def test_a_ratio_that_must_not_fall_either_fails_in_looks_as_at_once() -> None:
    rule = V2.rules["cc_ratio"].model_copy(update={"side": "both"})
    policy = FEW_SWAPS.model_copy(update={"rules": {**V2.rules, "cc_ratio": rule}})
    tokens = conflicts(300, 0.2)
    at_once = judge_cell(policy, V1, tokens, 300, strict=False).verdicts["cc_ratio"]
    in_looks = sequential(tokens, 300, 0, policy)[0].verdicts["cc_ratio"]
    assert (at_once.verdict, in_looks.verdict) == ("fail", "fail")


def test_an_underpowered_ratio_does_not_decide_in_looks_either() -> None:
    """80 blocks hold some 70 conflicts of the base, and the candidate has the same ones: inside every margin."""
    tokens = conflicts(80, 1.0)
    at_once = judge_cell(FEW_SWAPS, V1, tokens, 80, strict=True)
    in_looks = sequential(tokens, 80, 0, strict=True)[0]
    assert 50 < at_once.cc_events_base < 100
    for judged in (at_once, in_looks):
        ratio = judged.verdicts["cc_ratio"]
        assert ratio.upper is not None
        assert ratio.upper < 1.5
        assert (ratio.verdict, ratio.underpowered, judged.verdict) == ("inconclusive", True, "inconclusive")
    assert in_looks.num_blocks == 80


def test_blocks_without_a_counted_token_are_waited_for() -> None:
    tokens = cell(np.random.default_rng(12), 64, 0.0, spread=0.03)
    late = tokens.select(tokens.block_T >= 40)
    looks = plan_looks(V2.sequential, 64)
    ends = [0, *(look.num_blocks for look in looks)]
    parts = (late.select((late.block_T >= a) & (late.block_T < b)) for a, b in pairwise(ends))
    result = judge_in_looks(FEW_SWAPS, V1, base_alone(tokens), looks, parts, strict=False)
    assert result.metrics.tokens > 0
