"""What is known of a metric after every look of --sequential, against bounds worked out one look after the other."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from shipped_policies import V1, V2, little_evidence
from simulated import TOKENS_A_BLOCK, base_alone, parts_of, simulated_cell

from eaftgate.judge.cell import JudgedCell, judge_cell, judge_in_looks, plan_looks
from eaftgate.judge.metrics import METRICS
from eaftgate.judge.policy import IntervalPolicy, SequentialSettings
from eaftgate.judge.verdict import Verdict, decide, deciding_verdict, judge_points
from eaftgate.parity.bounds import bounds, fixed_width, sequence_width
from eaftgate.parity.estimates import PairedCell
from eaftgate.parity.js2d import Bins
from eaftgate.parity.metrics import base_thresholds
from eaftgate.parity.paired import PairedTokens

BLOCKS = 48


@pytest.fixture(scope="module")
def tokens() -> PairedTokens:
    return simulated_cell(np.random.default_rng(0), BLOCKS * TOKENS_A_BLOCK, shift=0.05, noise=0.05)


def on_the_margin(tokens: PairedTokens) -> IntervalPolicy:
    """near-lossless-v2, but that ppl alone decides, and by a margin that is just what the candidate loses."""
    margin = V2.rules["ppl"].margin
    assert margin is not None
    rules = {name: rule.model_copy(update={"role": "advisory"}) for name, rule in V2.rules.items()}
    moved = margin.model_copy(update={"value": float(np.mean(tokens.nll_delta_T))})
    rules["ppl"] = V2.rules["ppl"].model_copy(update={"margin": moved})
    return V2.model_copy(update={"rules": rules, "js2d": V2.js2d.model_copy(update={"swaps": 50})})


def in_looks(policy: IntervalPolicy, tokens: PairedTokens, **options: bool) -> JudgedCell:
    looks = plan_looks(policy.sequential, BLOCKS)
    return judge_in_looks(policy, V1, base_alone(tokens), looks, parts_of(tokens, looks), **{"strict": False} | options)


@dataclass
class Known:
    """Of one metric, after some looks; bounds on the scale of the estimate."""

    estimate: float = math.nan
    lower: float = -math.inf
    upper: float = math.inf
    verdict: Verdict | None = "inconclusive"
    details: Mapping[str, float] | None = None


def look_by_look(policy: IntervalPolicy, tokens: PairedTokens) -> dict[str, Known]:
    looks = plan_looks(policy.sequential, BLOCKS)
    full_looks = sum(look.full for look in looks)
    thresholds = base_thresholds(tokens.p_base_T, tokens.h_base_T)
    known = {name: Known() for name in policy.metrics}
    for look in looks:
        seen = tokens.select(tokens.block_T < look.num_blocks)
        cell = PairedCell(seen, seen, thresholds, Bins(20, 15), swaps=50)
        for name, was in known.items():
            metric, rule = METRICS[name], policy.rules[name]
            if not metric.at_every_look and not (look.full and was.verdict == "inconclusive"):
                continue
            measured = metric.measure(cell)
            assert measured is not None
            df = measured.estimate.degrees_of_freedom
            if metric.at_every_look:
                lower, upper = bounds(measured.estimate, sequence_width(0.05, df, look.num_blocks / BLOCKS))
                if rule.margin is not None:  # of a sequence all bounds hold at once, so that the tightest do
                    lower, upper = max(lower, was.lower), min(upper, was.upper)
            else:
                lower, upper = bounds(measured.estimate, fixed_width(0.05 / full_looks, df))
            now = Known(measured.estimate.value, lower, upper, None, measured.details)
            if rule.margin is not None:
                limit = metric.limit(rule.margin.value)
                now.verdict = decide(lower, upper, limit, rule.side, less_is_worse=metric.less_is_worse)
            known[name] = now
    return known


def test_the_bounds_of_a_sequence_are_the_tightest_so_far_and_the_estimate_is_the_latest(tokens: PairedTokens) -> None:
    policy = on_the_margin(tokens)
    result = in_looks(policy, tokens)
    assert (result.num_blocks, result.verdict) == (BLOCKS, "inconclusive")
    for name, known in look_by_look(policy, tokens).items():
        found, metric = result.verdicts[name], METRICS[name]
        assert found.estimate == pytest.approx(metric.reported(known.estimate))
        assert found.lower == pytest.approx(metric.reported(known.lower))
        assert found.upper == pytest.approx(metric.reported(known.upper))
        assert found.verdict == known.verdict
        assert result.details.get(name, {}) == known.details
    assert result.v1_verdict == deciding_verdict(judge_points(V1, result.metrics))


def test_the_case_is_a_hard_one(tokens: PairedTokens) -> None:
    """Some bound is not the latest, the ratio is estimated at every look, and js2d is decided before the last."""
    policy = on_the_margin(tokens)
    known = look_by_look(policy, tokens)
    last = PairedCell(tokens, tokens, base_thresholds(tokens.p_base_T, tokens.h_base_T), Bins(20, 15), swaps=50)
    latest = METRICS["ppl"].measure(last)
    assert latest is not None
    width = sequence_width(0.05, latest.estimate.degrees_of_freedom, 1.0)
    alone = bounds(latest.estimate, width)
    assert (known["ppl"].lower, known["ppl"].upper) != alone
    assert known["ppl"].verdict == "inconclusive"
    assert math.isfinite(known["cc_ratio"].upper)
    js2d = METRICS["js2d_corrected"].measure(last)
    assert js2d is not None
    assert known["js2d_corrected"].verdict == "pass"
    assert known["js2d_corrected"].estimate != js2d.estimate.value


@pytest.mark.parametrize(
    ("options", "deciding"),
    [
        ({}, {"ppl", "mean_p", "cc_rate", "cc_ratio", "js2d_corrected", "rms_dp"}),
        ({"primary_pack": False}, {"ppl"}),
        ({"primary_pack": False, "strict": True}, {"ppl", "mean_p", "cc_rate", "cc_ratio", "js2d_corrected", "rms_dp"}),
    ],
)
def test_in_looks_the_same_rules_decide_as_at_once(
    tokens: PairedTokens, options: dict[str, Any], deciding: set[str]
) -> None:
    """The cell has content of no channel only, so that no rule of a class applies."""
    policy = little_evidence()
    at_once = judge_cell(policy, V1, tokens, BLOCKS, **{"strict": False} | options)
    for result in (in_looks(policy, tokens, **options), at_once):
        assert {name for name, found in result.verdicts.items() if found.decides} == deciding
        for name in policy.metrics:
            if METRICS[name].over not in ("content tokens", "other tokens"):
                found = result.verdicts[name]
                assert (found.verdict, found.lacks) == (None, f"{METRICS[name].over} do not occur")


def test_a_cell_that_has_passed_or_failed_is_not_looked_at_again(tokens: PairedTokens) -> None:
    same = base_alone(tokens)
    assert in_looks(little_evidence(), same).verdict == "pass"
    assert in_looks(little_evidence(), same).num_blocks < BLOCKS
    worse = replace(same, logprob_T=same.logprob_T - 1.0, p_T=same.p_T / math.e)
    assert (in_looks(little_evidence(), worse).verdict, in_looks(little_evidence(), worse).num_blocks) == ("fail", 18)


def test_a_look_at_too_few_blocks_decides_nothing_and_the_next_is_asked(tokens: PairedTokens) -> None:
    """Underpowered is what the whole budget is too small for: a look at 18 of 48 blocks is none of those."""
    little = little_evidence()
    assert little.evidence is not None
    policy, beyond = (
        little.model_copy(update={"evidence": little.evidence.model_copy(update={"min_blocks": blocks})})
        for blocks in (30, 96)
    )
    same = base_alone(tokens)
    found = in_looks(policy, same)
    assert (found.verdict, found.num_blocks >= 30, found.underpowered) == ("pass", True, False)
    ppl = in_looks(beyond, same).verdicts["ppl"]
    assert (ppl.underpowered, ppl.lacks, ppl.blocks_needed) == (True, "48 of 96 blocks", 96)


@pytest.mark.parametrize(
    ("num_blocks", "looks", "full"),
    [
        (512, [32 * look for look in range(1, 17)], {128, 256, 512}),
        (48, [18, 21, 24, 27, 30, 33, 36, 39, 42, 45, 48], {24, 48}),  # a quarter would be before the first 16 blocks
        (10, [10], {10}),
        (17, [16, 17], {17}),
    ],
)
def test_looks_by_hand(num_blocks: int, looks: list[int], full: set[int]) -> None:
    """Sixteen of equal size from 16 blocks on; js2d is judged at a quarter, a half and the whole."""
    settings = SequentialSettings(looks=16, min_blocks=16, js2d_looks=[0.25, 0.5, 1.0])
    found = plan_looks(settings, num_blocks)
    assert [look.num_blocks for look in found] == looks
    assert {look.num_blocks for look in found if look.full} == full
