"""near-lossless-v1 decides on inclusive limits; nothing that is not finite passes."""

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shipped_policies import V1

from eaftgate.judge.verdict import Verdict, judge_points, worst
from eaftgate.parity.metrics import CellMetrics, Thresholds

SAME = CellMetrics(1000, Thresholds(0.1, 0.1), 4.0, 4.0, 0.5, 0.5, 0.001, 0.001, 0.0)


def verdicts(**changes: Any) -> dict[str, Verdict | None]:
    judged = judge_points(V1, dataclasses.replace(SAME, **changes))
    return {metric: result.verdict for metric, result in judged.items()}


def test_no_change_passes() -> None:
    assert verdicts() == dict.fromkeys(("ppl", "mean_p", "cc_rate", "js2d"), "pass")


def test_an_estimate_and_its_margin_are_reported() -> None:
    ppl = judge_points(V1, dataclasses.replace(SAME, ppl=4.1))["ppl"]
    assert (ppl.estimate, ppl.margin) == pytest.approx((0.1, 0.2))
    assert (ppl.lower, ppl.upper) == (None, None)


@pytest.mark.parametrize(
    ("metric", "inside", "outside"),
    [
        ("ppl", {"ppl": 4.1999}, {"ppl": 4.2001}),  # 5 % of 4 is stricter than 0.25
        ("ppl", {"ppl_base": 10.0, "ppl": 10.25}, {"ppl_base": 10.0, "ppl": 10.2501}),  # 0.25 is stricter than 5 %
        ("ppl", {"ppl": 3.8001}, {"ppl": 3.79}),  # two-sided
        ("mean_p", {"mean_p": 0.4801}, {"mean_p": 0.4799}),
        ("cc_rate", {"cc": 0.00299}, {"cc": 0.00301}),
        ("js2d", {"js2d": 0.02}, {"js2d": 0.0200001}),
    ],
)
def test_limits(metric: str, inside: dict[str, float], outside: dict[str, float]) -> None:
    assert verdicts(**inside)[metric] == "pass"
    assert verdicts(**outside)[metric] == "fail"
    assert [name for name, verdict in verdicts(**outside).items() if verdict == "fail"] == [metric]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["ppl", "ppl_base", "mean_p", "cc", "js2d"])
def test_what_is_not_finite_never_passes(field: str, value: float) -> None:
    assert "fail" in verdicts(**{field: value}).values()


@given(st.lists(st.sampled_from(["pass", "inconclusive", "fail"]), min_size=1))
def test_worst_is_fail_then_inconclusive_then_pass(found: list[Verdict]) -> None:
    expected = "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"
    assert worst(found) == expected


def test_nothing_to_judge_is_an_error_and_not_a_pass() -> None:
    with pytest.raises(ValueError):
        worst([])
