"""What the terminal shows of turns that were written: a line a checkpoint and pack, and what keeps them from a pass."""

import math
from collections.abc import Iterator

from rich.text import Text

from eaftgate.gate.results import Parity, ParityTurns
from eaftgate.gate.table import COLOURS, rendered
from eaftgate.judge.wording import describe, shown
from eaftgate.packs.pack import UNION
from eaftgate.tables import terminal_table
from eaftgate.visible import visible

_WIDE = 110


def turns_lines(parity: Parity, *, width: int, colour: bool) -> Iterator[str]:
    """Estimates by metric, in brackets where they do not decide."""
    if not parity.behaviour:
        return
    metrics = list(parity.behaviour[0].metrics)
    head = ["checkpoint", "pack", "turns", *metrics, "verdict"]
    if width < _WIDE:
        head = ["checkpoint", "pack", "turns", "verdict"]
    rows: list[list[str | Text]] = [
        [
            turns.name,
            turns.pack,
            f"{turns.turns:,}",
            *(_figure(turns, metric) for metric in metrics if metric in head),
            _verdict(turns),
        ]
        for turns in parity.behaviour
    ]
    table = terminal_table(head, rows, text=("verdict",), folded={"checkpoint": 6, "pack": 5}, collapse_padding=True)
    yield f"what they write by themselves, up to {parity.behaviour[0].max_tokens} tokens a turn"
    yield rendered(table, width=width, colour=colour)


def _figure(turns: ParityTurns, metric: str) -> Text:
    verdict = turns.metrics[metric]
    if verdict.estimate is None:
        return Text("-")
    said = shown(metric, verdict.estimate, interval=True)
    decides = turns.decides(metric) and verdict.verdict is not None
    return Text(said, style=COLOURS[verdict.verdict or ""] if decides else "") if decides else Text(f"({said})")


def _verdict(turns: ParityTurns) -> Text:
    if turns.verdict is None:
        return Text("(not judged)")
    return Text(turns.verdict.upper(), style=COLOURS[turns.verdict])


def turns_remarks(parity: Parity) -> list[str]:
    """One sentence each: what keeps deciding turns from a pass; then of each checkpoint, what there are too few turns
    for, of all packs together."""
    said = [
        (verdict.verdict != "fail", f"{visible(turns.label)}: {_described(turns, metric)}")
        for turns in parity.behaviour
        for metric, verdict in turns.metrics.items()
        if turns.decides(metric) and verdict.verdict in ("fail", "inconclusive")
    ]
    return [line for _, line in sorted(said, key=lambda found: found[0])] + [
        line for turns in parity.behaviour if turns.pack == UNION for line in _silent(turns)
    ]


def _silent(turns: ParityTurns) -> list[str]:
    lacking = {metric: verdict for metric, verdict in turns.metrics.items() if verdict.underpowered}
    if not lacking:
        return []
    needed = [verdict.blocks_needed for verdict in lacking.values()]
    known = [turns_of_all for turns_of_all in needed if turns_of_all is not None]
    of_each = math.ceil(max(known) / len(turns.inputs.packs)) if known else 0
    enough = f"; --generate={of_each} would have enough" if len(known) == len(needed) else ""
    first = next(iter(lacking.values())).lacks
    return [f"{visible(turns.label)}: underpowered and undecided are {', '.join(lacking)} ({first}){enough}"]


def _described(turns: ParityTurns, metric: str) -> str:
    return describe(metric, turns.metrics[metric], turns.turns, interval=True, of="turns", more_of="turns")
