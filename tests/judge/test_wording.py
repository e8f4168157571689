"""Verdicts in words: what every metric looks like, and the sentence about one that has not passed."""

import math

import pytest

from eaftgate.judge.verdict import MetricVerdict
from eaftgate.judge.wording import bounds_shown, describe, deviation_shown, shown

SHOWN = [
    ("ppl", math.log(1.05), "+5.00%"),
    ("ppl", math.log(0.9), "-10.00%"),
    ("mean_p", -0.01234, "-0.0123"),
    ("ppl", 1e9, "+inf%"),
    ("cc_rate", 0.0002, "+0.020pp"),
    ("cc_ratio", 1.5, "x1.50"),
    ("js2d_corrected", 0.00123, "0.00123"),
    ("top20_jsd", 0.0234567, "0.02346"),
    ("same_top1", 0.98765, "98.77%"),
    ("rms_dp", 0.05, "0.0500"),
]


@pytest.mark.parametrize(("metric", "value", "text"), SHOWN)
def test_a_value_is_shown_in_the_unit_of_its_metric(metric: str, value: float, text: str) -> None:
    assert shown(metric, value, interval=True) == text


@pytest.mark.parametrize(("metric", "value", "text"), SHOWN)
def test_a_deviation_has_no_sign_and_is_no_ratio(metric: str, value: float, text: str) -> None:
    if value > 0:
        assert deviation_shown(metric, value, interval=True) == text.lstrip("+x")


@pytest.mark.parametrize("interval", [True, False])
def test_what_is_not_known_is_a_question_mark(interval: bool) -> None:
    assert shown("ppl", None, interval=interval) == deviation_shown("ppl", None, interval=interval) == "?"


def test_without_intervals_and_of_an_unknown_metric_a_number_is_a_number() -> None:
    assert shown("ppl", 0.2123456, interval=False) == "+0.21235"
    assert deviation_shown("ppl", 0.2123456, interval=False) == "0.21235"
    assert shown("from_another_version", -12.0, interval=True) == "-12"


LOSS = MetricVerdict(math.log(1.06), math.log(1.051), None, math.log(1.05), "fail")


def test_bounds_are_shown_as_the_metric_is() -> None:
    assert bounds_shown("ppl", LOSS) == "[+5.10%, ?]"
    assert bounds_shown("cc_ratio", MetricVerdict(1.0, 0.5, 2.0, 1.5, "inconclusive")) == "[x0.50, x2.00]"


def test_a_failure_names_estimate_bounds_margin_and_tokens() -> None:
    assert (
        describe("ppl", LOSS, 321, interval=True) == "ppl +6.00% [+5.10%, ?] is outside its margin +5.00% (321 tokens)"
    )
    point = MetricVerdict(0.3, None, None, 0.25, "fail")
    assert describe("ppl", point, 321, interval=False) == "ppl +0.3 is outside its margin +0.25 (321 tokens)"


@pytest.mark.parametrize(
    ("blocks", "end"), [(512, "about 512 blocks would"), (None, "no affordable number of blocks would")]
)
def test_what_does_not_decide_says_what_would(blocks: int | None, end: str) -> None:
    verdict = MetricVerdict(0.0, -0.001, 0.003, 0.002, "inconclusive", blocks_needed=blocks)
    assert describe("cc_rate", verdict, 321, interval=True) == (
        "cc_rate +0.000pp [-0.100pp, +0.300pp] does not decide against its margin +0.200pp in 321 tokens; " + end
    )


@pytest.mark.parametrize(("blocks", "end"), [(512, "; 512 blocks would have enough"), (None, "")])
@pytest.mark.parametrize(("metric", "events"), [("cc_ratio", "confident conflicts"), ("ppl", "events")])
def test_what_is_underpowered_says_what_it_lacks(metric: str, events: str, blocks: int | None, end: str) -> None:
    verdict = MetricVerdict(1.0, 0.5, 2.0, 1.5, "inconclusive", underpowered=True, blocks_needed=blocks)
    expected = f"{metric} is underpowered: the base has too few {events} in 321 tokens{end}"
    assert describe(metric, verdict, 321, interval=True) == expected


@pytest.mark.parametrize(("blocks", "end"), [(6000, "; about 6,000 blocks would have it"), (None, "")])
def test_what_lacks_evidence_says_which(blocks: int | None, end: str) -> None:
    verdict = MetricVerdict(
        0.0, -0.1, 0.1, 0.03, "inconclusive", underpowered=True, blocks_needed=blocks, lacks="29 of 30 blocks"
    )
    assert describe("ppl", verdict, 321, interval=True) == f"ppl is underpowered: 29 of 30 blocks{end}"
