"""Tables for a terminal: plain columns, numbers to the right and never cut. What stands in them is shown as it is."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
