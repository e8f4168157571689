"""A table in Markdown."""

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?%)?")


def markdown_table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Columns that hold numbers only are set to the right; a dash is a number that there is not."""
    head, *body = [list(line) for line in (headings, *rows)]
    right = [all(_NUMBER.fullmatch(cell) or cell == "-" for cell in column) for column in zip(*body, strict=True)]
    rule = f"|{'|'.join('---:' if is_right else '---' for is_right in right)}|"
    return "\n".join([_line(head), rule, *map(_line, body)])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
