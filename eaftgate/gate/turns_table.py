"""What the terminal shows of turns that were written: a line a metric, and what keeps them from a pass."""

import math
from collections.abc import Iterator

from rich.text import Text

from eaftgate.gate.classes import verdict_text
from eaftgate.gate.results import Parity, ParityTurns
from eaftgate.gate.table import rendered
from eaftgate.judge.wording import describe, shown
from eaftgate.packs.pack import UNION
from eaftgate.tables import fitted_table
from eaftgate.visible import visible


def turns_lines(parity: Parity, *, width: int, colour: bool) -> Iterator[str]:
    """A table of every checkpoint over the turns of all packs, and of those packs that decide by themselves."""
    for turns in parity.behaviour:
        if turns.pack == UNION or turns.deciding:
            where = f"{visible(turns.pack)}, {turns.turns:,} turns of up to {turns.max_tokens:,} tokens"
            yield f"{visible(turns.name)}, written by itself, {where}:"
            yield _table(turns, width=width, colour=colour)


def _table(turns: ParityTurns, *, width: int, colour: bool) -> str:
    table = fitted_table(
        ("written", "base right", "lost", "gained", "net", "at most", "verdict"),
        [_row(turns, metric) for metric, verdict in turns.metrics.items() if verdict.estimate is not None],
        width=width,
        spare=(("base right",), ("gained", "lost")),
        folded={"written": 5},
        text=("verdict",),
        collapse_padding=True,
    )
    return rendered(table, width=width, colour=colour)


def _row(turns: ParityTurns, metric: str) -> list[str | Text]:
    verdict, counted = turns.metrics[metric], turns.details.get(metric, {})
    counts = ["-", "-", "-"]
    if verdict.lost is not None:
        counts = [f"{counted['base']:,} of {counted['turns']:,}", f"{verdict.lost:,}", f"{verdict.gained:,}"]
    figures = (shown(metric, value, interval=True) for value in (verdict.estimate, verdict.upper))
    return [metric, *counts, *figures, verdict_text(turns, metric)]


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
