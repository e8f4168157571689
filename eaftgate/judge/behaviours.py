"""The metrics of what two models write by themselves, each one entry, as judge.metrics has those of tokens."""

from eaftgate.behaviour import paired
from eaftgate.judge.metrics import Events, Metric

BEHAVIOURS = {
    metric.name: metric
    for metric in (
        Metric(
            name="ends",
            unit="share",
            meaning="the net loss of turns that end by themselves, within the length that is allowed",
            measure=paired.lost_of("ends"),
            text="{:+.2%}".format,
            over="turns",
        ),
        Metric(
            name="repeats",
            unit="share",
            meaning="the net gain of turns in circles: more than half of their stretches of 8 tokens stood before",
            measure=paired.lost_of("repeats"),
            text="{:+.2%}".format,
            over="turns",
        ),
        Metric(
            name="length",
            unit="ratio",
            meaning="how many times as long the turns are",
            measure=paired.log_length_ratio,
            text="x{:.3f}".format,
            side="both",
            over="tokens",
            unchanged=1.0,
        ),
        Metric(
            name="calls_parse",
            unit="share",
            meaning="the net loss of turns without a call whose arguments are no JSON object",
            measure=paired.lost_of("calls_parse"),
            text="{:+.2%}".format,
            over="turns that call",
        ),
        Metric(
            name="calls_offered",
            unit="share",
            meaning="the net loss of turns without a call of a function that the prompt does not offer",
            measure=paired.lost_of("calls_offered"),
            text="{:+.2%}".format,
            over="turns that call",
        ),
        Metric(
            name="calls_suit",
            unit="share",
            meaning="the net loss of turns without a call whose arguments do not suit the function's signature",
            measure=paired.lost_of("calls_suit"),
            text="{:+.2%}".format,
            over="turns that call",
        ),
        Metric(
            name="calls_equal",
            unit="share",
            meaning="the net loss of the calls of the base that are the reference's, arguments as values",
            measure=paired.lost_of("calls_equal"),
            text="{:+.2%}".format,
            over="calls",
            events=Events("calls that equal the reference's"),
        ),
        Metric(
            name="finals_equal",
            unit="share",
            meaning="the net loss of the final answers of the base that say what the reference does",
            measure=paired.lost_of("finals_equal"),
            text="{:+.2%}".format,
            over="final answers",
            events=Events("final answers that equal the reference's"),
        ),
    )
}
