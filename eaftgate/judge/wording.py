"""A verdict in words, for failures, tables and reports."""

from eaftgate.judge.metrics import METRICS, plain
from eaftgate.judge.verdict import MetricVerdict


def shown(metric: str, value: float | None, *, interval: bool) -> str:
    """A value of a metric; under a policy with intervals ppl is a ratio's logarithm, shown as a relative change."""
    if value is None:
        return "?"
    return (METRICS[metric].text if interval and metric in METRICS else plain)(value)


def deviation_shown(metric: str, value: float | None, *, interval: bool) -> str:
    """A standard deviation, in the unit that the metric is shown in; it has no sign and is no ratio."""
    return shown(metric, value, interval=interval).lstrip("+x")


def bounds_shown(metric: str, verdict: MetricVerdict) -> str:
    return f"[{shown(metric, verdict.lower, interval=True)}, {shown(metric, verdict.upper, interval=True)}]"


def figures_shown(metric: str, verdict: MetricVerdict, *, interval: bool) -> str:
    """Estimate, bounds and margin of a metric, as far as there are any, in the unit that it is shown in."""
    figures = [shown(metric, verdict.estimate, interval=interval)]
    if interval:
        figures.append(bounds_shown(metric, verdict))
    if verdict.margin is not None:
        figures.append(f"margin {shown(metric, verdict.margin, interval=interval)}")
    return " ".join(figures)


def describe(metric: str, verdict: MetricVerdict, tokens: int, *, interval: bool) -> str:
    """One sentence about a metric that has not passed."""
    value = f"{metric} {shown(metric, verdict.estimate, interval=interval)}"
    margin = shown(metric, verdict.margin, interval=interval)
    if interval:
        value += f" {bounds_shown(metric, verdict)}"
    if verdict.verdict == "fail":
        return f"{value} is outside its margin {margin} ({tokens} tokens)"
    blocks = verdict.blocks_needed
    if verdict.lacks:
        more = "" if blocks is None else f"; about {blocks} blocks would have it"
        return f"{metric} is underpowered: {verdict.lacks}{more}"
    if verdict.underpowered:
        enough = "" if blocks is None else f"; {blocks} blocks would have enough"
        events = METRICS[metric].events
        what = "events" if events is None else events.name
        return f"{metric} is underpowered: the base has too few {what} in {tokens} tokens{enough}"
    needed = "no affordable number of blocks would" if blocks is None else f"about {blocks} blocks would"
    return f"{value} does not decide against its margin {margin} in {tokens} tokens; {needed}"
