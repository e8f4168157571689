"""What `eaftgate packs check` says to people, within 60 columns where words allow it."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from eaftgate.gate.enough import CellEvidence, Enough, Remedy
from eaftgate.gate.room import in_recipe
from eaftgate.packs.counted import CountedPack, SharedRows
from eaftgate.packs.harmony import TokenClass
from eaftgate.tables import terminal_table

_CLASSES = (TokenClass.HEADER, TokenClass.ANALYSIS, TokenClass.FINAL, TokenClass.CALL, TokenClass.CLOSE)


def packs_table(packs: Sequence[CountedPack]) -> Table:
    rows = [(p.pack, str(p.rows), str(p.malformed), str(p.silent), str(p.twice), str(p.domains)) for p in packs]
    return terminal_table(("pack", "rows", "left out", "silent", "twice", "domains"), rows, folded={"pack": 5})


def cells_table(cells: Sequence[CellEvidence]) -> Table:
    rows = [
        (
            c.pack, str(c.seq_len), f"{min(c.blocks, c.num_blocks)}/{c.num_blocks}", str(c.documents),
            f"{c.effective_documents:.0f}", str(c.calls), str(c.finals),
        )
        for c in cells
    ]  # fmt: skip
    head = ("pack", "seq", "blocks", "documents", "effective", "calls", "finals")
    return terminal_table(head, rows, folded={"pack": 5}, collapse_padding=True)


def classes_table(cells: Sequence[CellEvidence]) -> Table:
    names = [kind.name.lower() for kind in _CLASSES]
    rows = [(c.pack, str(c.seq_len), *(str(c.classes.get(name, 0)) for name in names)) for c in cells]
    return terminal_table(("tokens", "seq", *names), rows, folded={"tokens": 5}, collapse_padding=True)


def shared_lines(packs: Sequence[CountedPack], shared: Sequence[SharedRows]) -> Iterator[str]:
    for pack in packs:
        if pack.left_out:
            yield pack.left_out
    for found in shared:
        first, second = found.packs
        yield f"{first} and {second} share {found.rows} rows: UNION has them twice"


def enough_lines(enough: Enough, *, recipe: bool = False) -> Iterator[str]:
    """`recipe`: whoever reads it has one."""
    for problem in enough.problems:
        yield f"not enough: {problem}"
    if not enough.problems:
        yield f"enough for {enough.regime} by {enough.policy}: every rule that must decide can"
    remedy = enough.remedy
    if remedy is not None and remedy.num_blocks is not None:
        asked = in_recipe(remedy.num_blocks)
        words = asked if recipe else f"--num-blocks={remedy.num_blocks} (in a recipe {asked})"
        rows = [f"about {rows:,} more rows of {pack} to gate on" for pack, rows in remedy.more_rows.items()]
        yield f"it would be enough with {', '.join([*rows, words])}{_room(remedy)}"
    if enough.open:
        yield f"what only scoring the base can tell: {', '.join(enough.open)}"


def _room(remedy: Remedy) -> str:
    if remedy.num_blocks == remedy.at_best:
        return ""
    return f": {remedy.at_best:,} at best, and a tenth on top, for a base does not write every message exactly"
