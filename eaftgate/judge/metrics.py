"""The metrics, each one entry: what it is, how it is computed, judged and shown. The order is that of every table.

A policy with intervals judges those of METRICS that its rules name; a policy of point estimates judges POINT_METRICS,
the four of the origin. To add one, add an entry here and a rule to the gates file.
"""

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from eaftgate.packs.harmony import TokenClass
from eaftgate.parity import estimates
from eaftgate.parity.estimates import BaseTokens, Measured
from eaftgate.parity.metrics import CellMetrics

if TYPE_CHECKING:  # which is checked against this table
    from eaftgate.judge.policy import PointThresholds

Unit = Literal["nats", "probability", "share", "ratio", "perplexity"]
Side = Literal["worse", "both"]

_LARGEST_LOG = math.log(sys.float_info.max)

SHARE = (0.0, 1.0)
CHANGE_OF_SHARE = (-1.0, 1.0)
LOSS_OF_WHAT_IS_RIGHT = (-math.inf, 1.0)
"""Of what the base has right no more than all is lost; there is no limit to what is gained beside it."""


def percent(value: float) -> str:
    """Of a logarithm of a ratio: the relative change."""
    return f"{math.expm1(value) if value < _LARGEST_LOG else math.inf:+.2%}"


def plain(value: float) -> str:
    return f"{value:+.5g}"


@dataclass(frozen=True)
class Column:
    """A column of the terminal's table: a number of the metric's verdict, and how it is written there."""

    head: str
    number: Literal["estimate", "lower", "upper"]
    text: Callable[[float], str]


@dataclass(frozen=True)
class Events:
    """Events of the base, of which a metric needs enough to be judged (`min_base_events` of its rule). `count` is for
    policies that look ahead to the whole budget; the statistic counts them, too."""

    name: str
    count: Callable[[BaseTokens], int] | None = None


@dataclass(frozen=True)
class Metric:
    """A metric of policies with intervals. `name` is part of test ids and has no hyphen.

    A ratio is estimated as its logarithm and reported as a ratio, as its margin is. `meaning` follows "is" in a
    sentence. `side` is that of a rule that names none. `unchanged` is what two equal models have. Where `less_is_worse`
    a margin is the least that is good enough, or of a `change`, which is 0 where nothing changed, how far it may fall.
    The bounds of a metric that is not judged `at_every_look` of --sequential are not valid at all of them. `over` names
    what it is a statistic of. `possible` are the least and the most that it can be, on the scale on which it is
    estimated: bounds are cut there, and cover no less.
    """

    name: str
    unit: Unit
    meaning: str
    measure: Callable[[Any], Measured | None]
    """A Statistic (parity.estimates) of cells, or of turns (behaviour.paired)."""
    text: Callable[[float], str]
    side: Side = "worse"
    less_is_worse: bool = False
    change: bool = False
    over: str = "content tokens"
    unchanged: float = 0.0
    events: Events | None = None
    at_every_look: bool = True
    columns: tuple[Column, ...] = ()
    possible: tuple[float, float] = (-math.inf, math.inf)

    def within_possible(self, bound: float) -> float:
        """A bound cut at what is possible; one that is not known stays so."""
        least, most = self.possible
        return min(max(bound, least), most) if math.isfinite(bound) else bound

    @property
    def counts_events(self) -> bool:
        return self.events is not None

    @property
    def counts_the_base(self) -> bool:
        """Whether its events are the base's alone: without any there is nothing to compare with."""
        return self.events is not None and self.events.count is not None

    def limit(self, margin: float) -> float:
        """The value, on the scale on which it is estimated, that a margin of its rule allows."""
        return -margin if self.less_is_worse and self.change else self.estimated(margin)

    def estimated(self, reported: float) -> float:
        """A reported value on the scale on which it is estimated and compared."""
        if self.unit != "ratio":
            return reported
        return math.log(reported) if reported > 0 else -math.inf

    def reported(self, estimated: float) -> float:
        return math.exp(estimated) if self.unit == "ratio" else estimated


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            name="ppl",
            unit="nats",
            meaning="the mean change of the log-loss, shown as a relative change of perplexity",
            measure=estimates.nll_delta,
            text=percent,
            columns=(Column("dPPL", "estimate", percent), Column("at most", "upper", percent)),
        ),
        *(
            Metric(
                name=f"nll_{kind.name.lower()}",
                unit="nats",
                meaning=f"the same over {what}",
                measure=estimates.nll_delta_of(kind),
                text=percent,
                over=f"{kind.name.lower()} tokens",
            )
            for kind, what in (
                (TokenClass.HEADER, "headers: channel, recipient, constraint, up to <|message|>"),
                (TokenClass.CALL, "the content of calls"),
                (TokenClass.FINAL, "the content of final answers"),
                (TokenClass.ANALYSIS, "the content of analyses"),
                (TokenClass.CLOSE, "the tokens that close a message"),
                (TokenClass.COMMENTARY, "commentary that calls nothing"),
                (TokenClass.OTHER, "the content of messages of no or an unknown channel"),
            )
        ),
        Metric(
            name="nll_recipient",
            unit="nats",
            meaning="the same over the names that calls are addressed to",
            measure=estimates.nll_delta_of_recipients,
            text=percent,
            over="recipient tokens",
        ),
        *(
            Metric(
                name=f"exact_{kind.name.lower()}s",
                unit="share",
                meaning=f"the net loss (lost less gained) of the {what} that the base writes exactly right",
                measure=estimates.exact_loss(kind),
                text="{:+.2%}".format,
                over=f"{kind.name.lower()} messages",
                events=Events(f"exact {what}"),
                possible=LOSS_OF_WHAT_IS_RIGHT,
            )
            for kind, what in ((TokenClass.CALL, "calls"), (TokenClass.FINAL, "final answers"))
        ),
        Metric(
            name="mean_p",
            unit="probability",
            meaning="the mean change of the probability of the reference token",
            measure=estimates.mean_p_delta,
            text="{:+.4f}".format,
            side="both",
            less_is_worse=True,
            change=True,
            columns=(Column("d mean p", "estimate", "{:+.4f}".format),),
            possible=CHANGE_OF_SHARE,
        ),
        Metric(
            name="cc_rate",
            unit="share",
            meaning="the change of the share of confident conflicts (sure and wrong)",
            measure=estimates.cc_rate_delta,
            text=lambda value: f"{100 * value:+.3f}pp",
            side="both",
            columns=(Column("dCC pp", "estimate", lambda value: f"{100 * value:+.3f}"),),
            possible=CHANGE_OF_SHARE,
        ),
        Metric(
            name="cc_ratio",
            unit="ratio",
            meaning="how many times as many confident conflicts there are",
            measure=estimates.cc_log_ratio,
            text="x{:.2f}".format,
            unchanged=1.0,
            events=Events("confident conflicts", estimates.base_conflicts),
        ),
        Metric(
            name="js2d_corrected",
            unit="nats",
            meaning=(
                "the Jensen-Shannon divergence (nats) of the histograms of probability and entropy on coarse bins, "
                "less its finite-sample bias"
            ),
            measure=estimates.js2d_corrected,
            text="{:.5f}".format,
            at_every_look=False,
            columns=(Column("JS2D", "estimate", "{:.4f}".format),),
        ),
        Metric(
            name="top20_jsd",
            unit="nats",
            meaning="the mean Jensen-Shannon divergence (nats) of a token's predictions over both models' top 20",
            measure=estimates.top20_jsd,
            text="{:.5f}".format,
        ),
        Metric(
            name="top20_kld",
            unit="nats",
            meaning=(
                "the mean KL divergence (nats) of a token's predictions from the base's, a lower bound by both models' "
                "top 20, to be put beside llama.cpp's"
            ),
            measure=estimates.top20_kld,
            text="{:.5f}".format,
        ),
        Metric(
            name="same_top1",
            unit="share",
            meaning="the share of tokens of which both models think the same most likely",
            measure=estimates.same_top1,
            text="{:.2%}".format,
            less_is_worse=True,
            unchanged=1.0,
            possible=SHARE,
        ),
        Metric(
            name="rms_dp",
            unit="probability",
            meaning="the root mean square of the change of a token's probability",
            measure=estimates.rms_dp,
            text="{:.4f}".format,
            possible=SHARE,
        ),
        Metric(
            name="ppl_all",
            unit="nats",
            meaning="the mean change of the log-loss over all tokens, prompts too, shown as a relative change",
            measure=estimates.nll_delta_of_everything,
            text=percent,
            over="all tokens",
        ),
    )
}


@dataclass(frozen=True)
class PointMetric:
    """A metric of policies of point estimates: what is held against which limit, and its column of the table."""

    name: str
    unit: Unit
    meaning: str
    estimate: Callable[[CellMetrics], float]
    limit: Callable[["PointThresholds", CellMetrics], float]
    head: str
    text: Callable[[CellMetrics], str]


POINT_METRICS = {
    metric.name: metric
    for metric in (
        PointMetric(
            name="ppl",
            unit="perplexity",
            meaning="the change of perplexity",
            estimate=lambda cell: cell.delta_ppl,
            limit=lambda limits, cell: min(
                limits.max_abs_delta_ppl.value, limits.max_rel_delta_ppl.value * cell.ppl_base
            ),
            head="dPPL",
            text=lambda cell: f"{cell.delta_ppl / cell.ppl_base:+.2%}",
        ),
        PointMetric(
            name="mean_p",
            unit="probability",
            meaning="the change of the mean probability of the reference token",
            estimate=lambda cell: cell.delta_mean_p,
            limit=lambda limits, _: limits.max_abs_delta_mean_prob.value,
            head="d mean p",
            text=lambda cell: f"{cell.delta_mean_p:+.4f}",
        ),
        PointMetric(
            name="cc_rate",
            unit="share",
            meaning="the change of the share of confident conflicts (sure and wrong)",
            estimate=lambda cell: cell.delta_cc,
            limit=lambda limits, _: limits.max_abs_delta_cc_rate.value,
            head="dCC pp",
            text=lambda cell: f"{100 * cell.delta_cc:+.3f}",
        ),
        PointMetric(
            name="js2d",
            unit="nats",
            meaning="the plug-in Jensen-Shannon divergence (nats) of the histograms of probability and entropy",
            estimate=lambda cell: cell.js2d,
            limit=lambda limits, _: limits.max_js2d.value,
            head="JS2D",
            text=lambda cell: f"{cell.js2d:.4f}",
        ),
    )
}


def has_intervals(names: Iterable[str]) -> bool:
    """Whether metrics of these names were judged by a policy with intervals: one of point estimates judges all four."""
    return set(names) != POINT_METRICS.keys()
