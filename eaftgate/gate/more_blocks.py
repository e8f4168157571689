"""How many blocks, or turns, would have decided a run that could not, and the words to ask for them.

An estimate: of rules that had too few documents or messages by their number, of open bounds by their width.
"""

import math
import shlex
from dataclasses import dataclass

from eaftgate.gate.conclusion import case_of
from eaftgate.gate.results import FailedCase, Parity
from eaftgate.gate.room import in_recipe, with_room
from eaftgate.packs.pack import UNION

_SILENT = ("test_must_decide::", "test_something_decides::")
"""Cases that say that nothing has decided."""
_TURNS = "test_behaviour.py::test_decides["


@dataclass(frozen=True)
class MoreBlocks:
    """`said` in one sentence, and `words` for the recipe or a shell; "" where none help."""

    said: str
    words: str


def more_blocks(parity: Parity) -> MoreBlocks | None:
    """None for a run that has decided. `parity` may be of one candidate alone."""
    if parity.verdict != "inconclusive":
        return None
    bounds, counts = _of_open_bounds(parity), _of_silence(parity)
    if not bounds and not counts and (of_turns := _more_turns(parity)) is not None:
        return of_turns
    known = [blocks for blocks in bounds + counts if blocks is not None]
    if counts and not known:
        return MoreBlocks("The data cannot tell, nor how many blocks would: they have nothing of what must decide.", "")
    if not known or None in bounds:
        return MoreBlocks(
            "No number of blocks that can be paid for would decide it: treat it as a loss, or look at what moves.", ""
        )
    least, held = max(known), _held(parity)
    if held is not None and held < least:
        rows = _more_rows(parity, least)
        return MoreBlocks(
            f"The data cannot tell. About {least:,} blocks would, and the packs hold {held:,}: it needs {rows}.", ""
        )
    asked = max([least, *(with_room(blocks, held) for blocks in counts if blocks is not None)])
    more = " or more" if None in counts else ""
    may = "" if held is not None else " and the packs hold as many"
    room = "; a tenth on top is asked for" if asked > least else ""
    said = f"The data cannot tell. About {least:,} blocks{more} would, if the estimates are right{may}{room}"
    if parity.run is not None and parity.run.by_recipe:
        return MoreBlocks(f"{said}. In the recipe, then the same command again:", in_recipe(asked))
    return MoreBlocks(f"{said}:", _command(parity, asked))


def _of_open_bounds(parity: Parity) -> list[int | None]:
    """Where a rule decides, and its bound does not tell; there is power in these numbers already."""
    return [
        verdict.blocks_needed
        for cell in parity.cells
        for metric, verdict in cell.metrics.items()
        if verdict.verdict == "inconclusive" and cell.decides(metric)
    ]


def _more_turns(parity: Parity) -> MoreBlocks | None:
    """Where it is what the models write that does not decide."""
    silent = {case.case.rpartition("-")[2].rstrip("]") for case in parity.failed if _TURNS in case.case}
    found = [
        (turns, verdict.blocks_needed)
        for turns in parity.behaviour
        for metric, verdict in turns.metrics.items()
        if verdict.verdict == "inconclusive"
        and (turns.decides(metric) or (turns.pack == UNION and metric in silent and verdict.underpowered))
    ]
    if not found:
        return None
    known = [math.ceil(needed / len(turns.inputs.packs)) for turns, needed in found if needed is not None]
    if len(known) < len(found):
        return MoreBlocks("No number of turns that can be paid for would decide it: treat it as a loss.", "")
    asked = with_room(max(known), None)
    said = f"The turns cannot tell. About {max(known):,} of every pack would, if the estimates are right"
    if parity.run is not None and parity.run.by_recipe:
        return MoreBlocks(f"{said}. In the recipe, then the same command again:", in_recipe(asked, "generate"))
    return MoreBlocks(f"{said}:", _command(parity, asked, "--generate"))


def _of_silence(parity: Parity) -> list[int | None]:
    """Of the rules that must decide and do so nowhere, and of cells in which none does."""
    return [_of_silent(parity, case) for case in parity.failed if case_of(case.case).startswith(_SILENT)]


def _of_silent(parity: Parity, case: FailedCase) -> int | None:
    """What the case says; in files of earlier versions, the least that its rule has in a primary cell."""
    if case.blocks_needed is not None:
        return case.blocks_needed
    metric = case.case.rpartition("-")[2].rstrip("]")
    found = [cell.metrics[metric].blocks_needed for cell in parity.cells if metric in cell.metrics]
    return min((blocks for blocks in found if blocks is not None), default=None)


def _held(parity: Parity) -> int | None:
    """How many blocks every pack has at every length; None where nobody has counted."""
    tokens = _tokens(parity)
    held = [tokens[cell.pack] // cell.seq_len for cell in parity.cells if cell.pack in tokens]
    return min(held) if held and len(held) == len(parity.cells) else None


def _tokens(parity: Parity) -> dict[str, int]:
    packs = parity.run.packs if parity.run else ()
    tokens = {pack.name: pack.tokens for pack in packs if pack.tokens is not None}
    return {**tokens, UNION: sum(tokens.values())} if tokens else {}


def _more_rows(parity: Parity, num_blocks: int) -> str:
    """In words, by pack, about."""
    length = max(cell.seq_len for cell in parity.cells)
    said = []
    for pack in parity.run.packs if parity.run else ():
        missing = num_blocks * length - (pack.tokens or 0)
        if pack.tokens and missing > 0:
            said.append(f"about {math.ceil(missing * pack.rows / pack.tokens):,} more rows of {pack.name}")
    return ", ".join(said) or "more rows"


def _command(parity: Parity, number: int, option: str = "--num-blocks") -> str:
    words = shlex.split(parity.run.command if parity.run else "")
    kept = [
        word
        for place, word in enumerate(words)
        if word.partition("=")[0] != option and not (place and words[place - 1] == option)
    ]
    return shlex.join([*kept, f"{option}={number}"]) if words else ""
