"""A verdict in words, for failures, tables and reports."""

import math
from collections.abc import Callable

from eaftgate.judge.verdict import MetricVerdict


def _plain(value: float) -> str:
    return f"{value:+.5g}"


_INTERVAL: dict[str, Callable[[float], str]] = {
    "ppl": lambda value: f"{math.expm1(value):+.2%}",
    "mean_p": lambda value: f"{value:+.4f}",
    "cc_rate": lambda value: f"{100 * value:+.3f}pp",
    "cc_ratio": lambda value: f"x{value:.2f}",
    "js2d_corrected": lambda value: f"{value:.5f}",
    "top20_jsd": lambda value: f"{value:.5f}",
    "same_top1": lambda value: f"{value:.2%}",
    "rms_dp": lambda value: f"{value:.4f}",
}


def shown(metric: str, value: float | None, *, interval: bool) -> str:
    """A value of a metric; under a policy with intervals ppl is a ratio's logarithm, shown as a relative change."""
    if value is None:
        return "?"
    return (_INTERVAL.get(metric, _plain) if interval else _plain)(value)


def deviation_shown(metric: str, value: float | None, *, interval: bool) -> str:
    """A standard deviation, in the unit that the metric is shown in; it has no sign and is no ratio."""
    return shown(metric, value, interval=interval).lstrip("+x")


def bounds_shown(metric: str, verdict: MetricVerdict) -> str:
    return f"[{shown(metric, verdict.lower, interval=True)}, {shown(metric, verdict.upper, interval=True)}]"


def describe(metric: str, verdict: MetricVerdict, tokens: int, *, interval: bool) -> str:
    """One sentence about a metric that has not passed."""
    value = f"{metric} {shown(metric, verdict.estimate, interval=interval)}"
    margin = shown(metric, verdict.margin, interval=interval)
    if interval:
        value += f" {bounds_shown(metric, verdict)}"
    if verdict.verdict == "fail":
        return f"{value} is outside its margin {margin} ({tokens} tokens)"
    blocks = verdict.blocks_needed
    if verdict.underpowered:
        enough = "" if blocks is None else f"; {blocks} blocks would have enough"
        return f"{metric} is underpowered: the base has too few confident conflicts in {tokens} tokens{enough}"
    needed = "no affordable number of blocks would" if blocks is None else f"about {blocks} blocks would"
    return f"{value} does not decide against its margin {margin} in {tokens} tokens; {needed}"
