"""What a run says of turns that were written: where the two models part, the first of them side by side.

Texts are as they are written: whoever shows them escapes them (eaftgate.visible).
"""

from collections.abc import Sequence

from eaftgate.behaviour.paired import PairedTurns
from eaftgate.gate.messages import shortened
from eaftgate.generate.generations import Generations
from eaftgate.records import Record

MOST_SHOWN = 20
"""Turns of a candidate in parity.json."""


class TurnApart(Record):
    """A turn that base and candidate write otherwise. `row` is the sha256 of its row, `number` counts the row's turns;
    `lost` names the metrics by which the base does right and the candidate does not. `asked` is the end of the prompt.
    """

    pack: str
    domain: str
    row: str
    number: int
    lost: tuple[str, ...]
    asked: str
    reference: str
    base: str
    candidate: str


def turns_apart(
    turns: PairedTurns, base: Sequence[Generations], candidate: Sequence[Generations]
) -> tuple[TurnApart, ...]:
    """The first of those in which something is lost, then of the others, in the order in which they were asked for."""
    asked = [turn for generations in base for turn in generations.asked]
    ours, theirs = ([turn for g in generations for turn in g.written] for generations in (base, candidate))
    lost = _lost(turns)
    apart = [n for n in range(len(turns)) if ours[n].tokens != theirs[n].tokens]
    apart.sort(key=lambda number: not lost[number])
    return tuple(
        TurnApart(
            pack=asked[number].pack,
            domain=asked[number].domain,
            row=asked[number].row,
            number=asked[number].number,
            lost=lost[number],
            asked=asked[number].shown,
            reference=shortened(asked[number].reference),
            base=shortened(ours[number].text),
            candidate=shortened(theirs[number].text),
        )
        for number in apart[:MOST_SHOWN]
    )


def _lost(turns: PairedTurns) -> list[tuple[str, ...]]:
    """By turn."""
    found: list[tuple[str, ...]] = [()] * len(turns)
    for name, right in turns.right.items():
        base_N, candidate_N, among_N = right
        for number in (base_N & ~candidate_N & among_N).nonzero()[0].tolist():
            found[number] += (name,)
    return found
