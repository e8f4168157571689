"""Tables for a terminal: plain columns, numbers to the right and never cut."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table


def terminal_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text: Sequence[str] = (),
    folded: Mapping[str, int] | None = None,
    **options: Any,
) -> Table:
    """`text` names the columns of words, `folded` those of them that a narrow terminal may fold, with the least width
    each must have; `options` are rich's."""
    folded = folded or {}
    table = Table(box=None, pad_edge=False, **options)
    for name in columns:
        if name in folded:
            table.add_column(name, overflow="fold", min_width=folded[name])
        else:
            table.add_column(name, justify="left" if name in text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
