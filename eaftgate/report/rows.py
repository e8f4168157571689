"""Rows of the report's tables, with everything that comes from outside escaped."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from eaftgate.visible import plain, visible


def html_text(text: str) -> str:
    """A sentence or a value as the text or an attribute of an element: nothing in it is a tag, an entity or unseen."""
    return escape(plain(text))


def command_html(command: str) -> str:
    """A command, which goes on below between its words, not within an option."""
    return " ".join(f"<span>{html_text(word)}</span>" for word in command.split(" "))


class Cell(NamedTuple):
    """Text, the CSS class that colours it, and smaller lines below."""

    text: str
    colour: str = ""
    below: str = ""


def row(tag: str, values: Sequence[str | Cell], *, advisory: bool = False) -> str:
    """The first two values are names."""
    cells = (
        value if isinstance(value, Cell) else Cell(value, "name" if index < 2 else "")
        for index, value in enumerate(values)
    )
    return f"<tr{' class=advisory' if advisory else ''}>{''.join(cell_html(tag, cell) for cell in cells)}</tr>"


def cell_html(tag: str, cell: Cell) -> str:
    attribute = f' class="{html_text(cell.colour)}"' if cell.colour else ""
    lines = "<br>".join(html_text(visible(line)) for line in cell.below.split("\n"))
    below = f"<br><small>{lines}</small>" if cell.below else ""
    return f"<{tag}{attribute}>{html_text(visible(cell.text))}{below}</{tag}>"


def verdict_cell(verdict: str) -> Cell:
    return Cell(verdict, f"verdict {verdict}")


def table(head: Sequence[str | Cell], body: Sequence[str], *, kind: str = "", label: str = "table") -> str:
    """`body` are finished rows. It scrolls in a box of its own, which a keyboard reaches by its `label`."""
    of = f' class="{html_text(kind)}"' if kind else ""
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{html_text(visible(label))}"><table{of}>'
        f"{row('th', head)}{''.join(body)}</table></div>"
    )
