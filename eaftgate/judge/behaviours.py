"""The metrics of what two models write by themselves, each one entry, as judge.metrics has those of tokens."""

from eaftgate.behaviour import paired
from eaftgate.judge.metrics import CHANGE_OF_SHARE, LOSS_OF_WHAT_IS_RIGHT, Events, Metric


def _net_loss(name: str, meaning: str, over: str, events: Events | None = None) -> Metric:
    """Turns that are right under one model and not under the other (behaviour.paired.RIGHT)."""
    measure = paired.lost_of(name)
    return Metric(
        name=name,
        unit="share",
        meaning=meaning,
        measure=measure,
        text="{:+.2%}".format,
        over=over,
        events=events,
        possible=LOSS_OF_WHAT_IS_RIGHT if name in paired.OF_THE_BASE else CHANGE_OF_SHARE,
    )


_ALL = (
    _net_loss("ends", "the net loss of turns that end by themselves, within the length that is allowed", "turns"),
    _net_loss(
        "repeats",
        "the net gain of turns in circles: more than half of their stretches of 8 tokens stood before",
        "turns",
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
    _net_loss(
        "calls_parse", "the net loss of turns without a call whose arguments are no JSON object", "turns that call"
    ),
    _net_loss(
        "calls_offered",
        "the net loss of turns without a call of a function that the prompt does not offer",
        "turns that call",
    ),
    _net_loss(
        "calls_suit",
        "the net loss of turns without a call whose arguments do not suit the function's signature",
        "turns that call",
    ),
    _net_loss(
        "calls_equal",
        "the net loss of the calls of the base that are the reference's, arguments as values",
        "calls",
        Events("calls that equal the reference's"),
    ),
    _net_loss(
        "finals_equal",
        "the net loss of the final answers of the base that say what the reference does",
        "final answers",
        Events("final answers that equal the reference's"),
    ),
)
BEHAVIOURS = {metric.name: metric for metric in _ALL}
