"""A verdict in words, for failures, tables and reports."""

from eaftgate.judge.behaviours import BEHAVIOURS
from eaftgate.judge.metrics import METRICS, Metric, plain
from eaftgate.judge.verdict import MetricVerdict


def _known(metric: str | Metric) -> Metric | None:
    return metric if isinstance(metric, Metric) else METRICS.get(metric) or BEHAVIOURS.get(metric)


def shown(metric: str | Metric, value: float | None, *, interval: bool) -> str:
    """A value of a metric; under a policy with intervals ppl is a ratio's logarithm, shown as a relative change."""
    if value is None:
        return "?"
    known = _known(metric)
    return (known.text if interval and known is not None else plain)(value)


def deviation_shown(metric: str, value: float | None, *, interval: bool) -> str:
    """A standard deviation, in the unit that the metric is shown in; it has no sign and is no ratio."""
    return shown(metric, value, interval=interval).lstrip("+x")


def bounds_shown(metric: str | Metric, verdict: MetricVerdict) -> str:
    return f"[{shown(metric, verdict.lower, interval=True)}, {shown(metric, verdict.upper, interval=True)}]"


def figures_shown(metric: str | Metric, verdict: MetricVerdict, *, interval: bool) -> str:
    """Estimate, bounds and margin of a metric, as far as there are any, in the unit that it is shown in."""
    figures = [shown(metric, verdict.estimate, interval=interval)]
    if interval:
        figures.append(bounds_shown(metric, verdict))
    if verdict.margin is not None:
        figures.append(f"margin {shown(metric, verdict.margin, interval=interval)}")
    return " ".join(figures)


def describe(
    metric: str | Metric,
    verdict: MetricVerdict,
    tokens: int,
    *,
    interval: bool,
    of: str = "tokens",
    more_of: str = "blocks",
) -> str:
    """One sentence about a metric that has not passed, judged on so many `tokens`, or what else `of` says. More of what
    `more_of` says would decide it."""
    name = metric.name if isinstance(metric, Metric) else metric
    value = f"{name} {shown(metric, verdict.estimate, interval=interval)}"
    margin = shown(metric, verdict.margin, interval=interval)
    if interval:
        value += f" {bounds_shown(metric, verdict)}"
    if verdict.verdict == "fail":
        return f"{value} is outside its margin {margin} ({tokens} {of})"
    blocks = verdict.blocks_needed
    if verdict.lacks:
        more = "" if blocks is None else f"; about {blocks:,} {more_of} would have it"
        return f"{name} is underpowered: {verdict.lacks}{more}"
    if verdict.underpowered:
        enough = "" if blocks is None else f"; {blocks:,} {more_of} would have enough"
        known = _known(metric)
        what = "events" if known is None or known.events is None else known.events.name
        return f"{name} is underpowered: the base has too few {what} in {tokens} {of}{enough}"
    needed = f"no affordable number of {more_of} would" if blocks is None else f"about {blocks:,} {more_of} would"
    return f"{value} does not decide against its margin {margin} in {tokens} {of}; {needed}"
