"""The best of several candidates: what one alone is judged by, but that a PASS needs its bound at alpha over their
number."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shipped_policies import V1, V2, V3, little_evidence
from simulated import TOKENS_A_BLOCK, base_alone, parts_of, simulated_cell

from eaftgate.judge.cell import JudgedCell, judge_cell, judge_in_looks, plan_looks
from eaftgate.judge.metrics import METRICS
from eaftgate.judge.policy import IntervalPolicy, IntervalRule
from eaftgate.judge.verdict import MetricVerdict, best_of_several, decide_reported, judge_intervals
from eaftgate.parity.bounds import fixed_width
from eaftgate.parity.clusters import Estimate, Evidence
from eaftgate.parity.estimates import Measured
from eaftgate.parity.paired import PairedTokens

BLOCKS = 48
RULES: dict[str, tuple[str, IntervalRule]] = {
    "only a rise is worse": ("ppl", V2.rules["ppl"]),
    "only a fall is worse": ("mean_p", V3.rules["mean_p"]),
    "either is worse": ("mean_p", V2.rules["mean_p"]),
    "an upper bound of JS2D": ("js2d_corrected", V2.rules["js2d_corrected"]),
    "a ratio": ("cc_ratio", V2.rules["cc_ratio"].model_copy(update={"min_base_events": None})),
    "a ratio that must not fall either": (
        "cc_ratio",
        V2.rules["cc_ratio"].model_copy(update={"side": "both", "min_base_events": None}),
    ),
    "no margin": ("top20_jsd", V2.rules["top20_jsd"]),
}


def judged(kind: str, value: float, error: float, clusters: int, candidates: int) -> MetricVerdict:
    """`value` and `error` in units of the margin."""
    name, rule = RULES[kind]
    policy = V2.model_copy(update={"rules": {name: rule}})
    scale = 0.01 if rule.margin is None else abs(METRICS[name].limit(rule.margin.value))
    estimate = Estimate(value * scale, error * scale, clusters - 1)
    measured = {name: Measured(estimate, Evidence(clusters, float(clusters), 1 / clusters))}
    levels = (
        judge_intervals(
            policy,
            measured,
            num_blocks=100,
            width=lambda _, df, alpha=alpha: fixed_width(alpha, df),  # type: ignore[misc]
            budget=measured,
            budget_blocks=100,
            deciding=policy.deciding,
            strict=False,
        )
        for alpha in (policy.alpha, policy.alpha / candidates)
    )
    return best_of_several(policy, *levels)[name]


ANY = {
    "kind": st.sampled_from(list(RULES)),
    "value": st.floats(-3, 3),
    "error": st.floats(0.01, 2),
    "clusters": st.integers(5, 400),
    "candidates": st.integers(1, 50),
}


@given(**ANY)
def test_a_pass_is_one_of_fewer_candidates_too_and_a_fail_stays_a_fail(
    kind: str, value: float, error: float, clusters: int, candidates: int
) -> None:
    alone, several = (judged(kind, value, error, clusters, number) for number in (1, candidates))
    assert (several.verdict == "fail") == (alone.verdict == "fail")
    assert several.verdict != "pass" or alone.verdict == "pass"
    assert best_of_several(V2, {RULES[kind][0]: alone}, {RULES[kind][0]: alone}) == {RULES[kind][0]: alone}
    more = judged(kind, value, error, clusters, candidates + 1)
    assert more.verdict != "pass" or several.verdict == "pass"


@given(**ANY)
def test_the_bounds_that_are_shown_are_those_that_decide(
    kind: str, value: float, error: float, clusters: int, candidates: int
) -> None:
    name, rule = RULES[kind]
    found = judged(kind, value, error, clusters, candidates)
    assert found.lower is not None
    assert found.upper is not None
    assert found.verdict == decide_reported(METRICS[name], rule, found.lower, found.upper)


@pytest.mark.parametrize(
    ("kind", "value", "alphas"),
    [
        ("only a rise is worse", 0.5, (0.05, 0.0125)),
        ("only a rise is worse", 1.5, (0.05, 0.0125)),
        ("only a fall is worse", -0.5, (0.0125, 0.05)),
        ("either is worse", 0.0, (0.0125, 0.0125)),
        ("either is worse", 1.3, (0.0125, 0.0125)),  # undecided: no pass at the stricter level, no fail at alpha
        ("either is worse", 2.5, (0.05, 0.05)),  # a fail, by the bound at alpha
        ("an upper bound of JS2D", 0.2, (0.05, 0.0125)),
        ("no margin", 0.2, (0.05, 0.05)),
    ],
)
def test_the_level_of_either_bound(kind: str, value: float, alphas: tuple[float, float]) -> None:
    """Of four candidates."""
    rule = RULES[kind][1]
    scale = 0.01 if rule.margin is None else rule.margin.value
    found = judged(kind, value, 0.3, 200, 4)
    widths = [fixed_width(alpha, 199) * 0.3 * scale for alpha in alphas]
    assert found.lower == pytest.approx(value * scale - widths[0])
    assert found.upper == pytest.approx(value * scale + widths[1])


def test_blocks_needed_are_for_what_the_estimate_points_to() -> None:
    """Inside its margin a metric waits for a pass, at the stricter level; outside for a fail, as one alone."""
    inside, outside = (judged("only a rise is worse", value, 0.3, 200, 4) for value in (0.8, 1.2))
    alone = [judged("only a rise is worse", value, 0.3, 200, 1).blocks_needed for value in (0.8, 1.2)]
    assert {inside.verdict, outside.verdict} == {"inconclusive"}
    assert inside.blocks_needed is not None
    assert alone[0] is not None
    assert inside.blocks_needed > alone[0]
    assert outside.blocks_needed == alone[1]


# Whole cells

CELLS = [(0.0, 0.01), (0.05, 0.05), (0.09, 0.05), (0.12, 0.1), (0.2, 0.05), (0.4, 0.1)]
"""(shift, noise) of simulated candidates: from a copy to one that surely fails."""


def whole(policy: IntervalPolicy, tokens: PairedTokens, best_of: int) -> JudgedCell:
    return judge_cell(policy, V1, tokens, BLOCKS, strict=False, best_of=best_of)


def in_looks(policy: IntervalPolicy, tokens: PairedTokens, best_of: int) -> JudgedCell:
    looks = plan_looks(policy.sequential, BLOCKS)
    parts = parts_of(tokens, looks)
    return judge_in_looks(policy, V1, base_alone(tokens), looks, parts, strict=False, best_of=best_of)


JUDGES: list[Callable[[IntervalPolicy, PairedTokens, int], JudgedCell]] = [whole, in_looks]


def policies() -> Sequence[IntervalPolicy]:
    return V2.model_copy(update={"js2d": V2.js2d.model_copy(update={"swaps": 50})}), little_evidence()


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize(("shift", "noise"), CELLS)
def test_of_cells_too_at_once_or_in_looks(
    judge: Callable[[IntervalPolicy, PairedTokens, int], JudgedCell], shift: float, noise: float
) -> None:
    tokens = simulated_cell(np.random.default_rng(3), BLOCKS * TOKENS_A_BLOCK, shift=shift, noise=noise)
    for policy in policies():
        alone, four = judge(policy, tokens, 1), judge(policy, tokens, 4)
        assert (four.verdict == "fail") == (alone.verdict == "fail")
        assert four.verdict != "pass" or alone.verdict == "pass"
        assert four.num_blocks >= alone.num_blocks


@pytest.mark.parametrize("judge", JUDGES)
def test_what_passes_alone_may_not_as_the_best_of_many(
    judge: Callable[[IntervalPolicy, PairedTokens, int], JudgedCell],
) -> None:
    tokens = simulated_cell(np.random.default_rng(3), BLOCKS * TOKENS_A_BLOCK, noise=0.05)
    for policy in policies():
        assert [judge(policy, tokens, number).verdict for number in (1, 10**9)] == ["pass", "inconclusive"]
