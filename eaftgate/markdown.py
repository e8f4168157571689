"""Markdown that GitHub, the Hub or a chat renders: what comes from outside is text in it, whatever it holds."""

import re
from collections.abc import Iterable, Sequence

from eaftgate.visible import plain, visible

_PUNCTUATION = re.compile(r"([\\`*_{}\[\]<>|~&$#])")
_BEGINS = re.compile(r"^(\d*)([-+=.)])")
"""What would begin a list or underline a heading."""
_LINKED = re.compile(r"(@|\\#|://|www\.|:(?=[a-zA-Z+-][\w+-]*:))")
"""What a renderer would make a link, a mention or a picture of."""


def escaped(text: str) -> str:
    """A sentence, with the names in it, as text on one line: no markup, no link, nobody is mentioned."""
    return _LINKED.sub(r"\1<!-- -->", _BEGINS.sub(r"\1\\\2", _PUNCTUATION.sub(r"\\\1", plain(text))))


def code(name: str, *, cell: bool = False) -> str:
    """A name as a code span; in a `cell` of a table a bar would end it."""
    text = visible(name)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text[:1] in ("`", " ", "") or text[-1:] in ("`", " ") else ""
    span = f"{fence}{pad}{text}{pad}{fence}"
    return span.replace("|", r"\|") if cell else span


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, text: int = 1) -> list[str]:
    """Lines of a table, whose cells are Markdown already; the first `text` columns are words, the others numbers."""
    line = "|" + "|".join("---" if column < text else "---:" for column in range(len(head))) + "|"
    return [f"| {' | '.join(head)} |", line, *(f"| {' | '.join(row)} |" for row in rows)]
