"""Tables for a terminal: plain columns, numbers to the right and never cut. What stands in them is shown as it is."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from eaftgate.visible import visible


def terminal_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    text: Sequence[str] = (),
    folded: Mapping[str, int] | None = None,
    **options: Any,
) -> Table:
    """`text` names the columns of words, `folded` those of them that a narrow terminal may fold, with the least width
    each must have; `options` are rich's. Strings are no markup, whatever is in them."""
    folded = folded or {}
    if isinstance(title := options.get("title"), str):
        options["title"] = Text(visible(title))
    table = Table(box=None, pad_edge=False, **options)
    for name in columns:
        head = Text(visible(name))
        if name in folded:
            table.add_column(head, overflow="fold", min_width=folded[name])
        else:
            table.add_column(head, justify="left" if name in text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(visible(cell)) for cell in row))
    return table


def width_of(table: Table) -> Measurement:
    """The least and the most columns of a terminal that it can use."""
    console = Console(width=10_000)
    return Measurement.get(console, console.options, table)


def fitted_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    width: int,
    spare: Sequence[Sequence[str]],
    folded: Mapping[str, int],
    text: Sequence[str] = (),
    **options: Any,
) -> Table:
    """The same for a terminal of `width`, with names whole: as many groups of `spare` columns are left out, in their
    order, as that takes. Where it takes more than all, names are folded, those of the first of `folded` first."""
    every, text = list(rows), (*text, *folded)

    def part(names: Sequence[str], narrow: Mapping[str, int]) -> Table:
        at = [columns.index(name) for name in names]
        return terminal_table(names, ([row[i] for i in at] for row in every), text=text, folded=narrow, **options)

    kept, beyond = list(columns), 0
    for group in ((), *spare):
        kept = [name for name in kept if name not in group]
        beyond = width_of(part(kept, {})).maximum - width
        if beyond <= 0:
            break
    narrow: dict[str, int] = {}
    for name, least in folded.items():
        if beyond > 0:
            narrow[name] = least
            beyond -= max(0, width_of(part([name], {})).maximum - least)
    return part(kept, narrow)
