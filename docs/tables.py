"""Tables of the documents, written from stored results and from the code, never by hand.

    python docs/tables.py            # writes every table anew (make docs)
    python docs/tables.py --check    # says which are stale, and ends with 1 then

A document holds a table between two markers, NAME being a file docs/data/NAME.json or an entry of `reference.BLOCKS`:

    <!-- table: NAME -->
    <!-- end -->

To add a table, write its file (class Measurement) and the markers, and run this.
"""

import os
import re
import string
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markdown_table import markdown_table
from pydantic import BaseModel, ConfigDict, Field
from reference import BLOCKS

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs" / "data"
LOG = ROOT / "docs" / "log"
"""Notebooks: kept as they were written, tables and all."""

_BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


class Column(BaseModel):
    """`cell` is a format string over the values of a row."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    heading: str
    cell: str


class Measurement(BaseModel):
    """A stored result: what was measured, how to measure it again, and the table it makes.

    `commit` is the one whose documents first showed these figures. None where every row says its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    what: str
    command: str | list[str] | None
    date: str
    hardware: str | None
    software: str
    commit: str | None
    columns: list[Column] = Field(min_length=1)
    rows: list[dict[str, Any]] = Field(min_length=1)


class _Cell(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return "-"
        if isinstance(value, list):
            return ", ".join(self.format_field(one, format_spec) for one in value)
        return format(value, format_spec)


def cell_text(cell: str, row: Mapping[str, Any]) -> str:
    """A value that is None is shown as a dash, and a list as its values with commas between."""
    return _Cell().vformat(cell, (), row)


def measured_table(path: Path, document: Path) -> str:
    """Markdown: the table and, below it, where its figures come from."""
    measurement = Measurement.model_validate_json(path.read_text(encoding="utf-8"))
    columns = measurement.columns
    cells = [[cell_text(column.cell, row) for column in columns] for row in measurement.rows]
    said = (measurement.date, measurement.hardware, measurement.commit and f"commit {measurement.commit}")
    link = os.path.relpath(path, document.parent)
    table = markdown_table((column.heading for column in columns), cells)
    return f"{table}\n\n{measurement.what}. {', '.join(filter(None, said))}: [{path.name}]({link})."


def documents() -> list[Path]:
    """Every document of the repository but the notebooks."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("[a-z]*/README.md")]
    return sorted({path for path in found if LOG not in path.parents and not path.is_relative_to(ROOT / ".venv")})


def block_text(name: str, document: Path) -> str:
    """Raises KeyError for a name that is neither a stored result nor a block of the code."""
    path = DATA / f"{name}.json"
    if path.is_file():
        return measured_table(path, document)
    return BLOCKS[name]()


def rendered(document: Path, text: str) -> str:
    """`text` of `document` with everything between markers made anew."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}{block_text(match['name'], document)}\n{match[3]}"

    return _BLOCK.sub(block, text)


def stale() -> list[Path]:
    return [path for path in documents() if rendered(path, text := path.read_text(encoding="utf-8")) != text]


def main() -> int:
    outdated = stale()
    check = sys.argv[1:] == ["--check"]
    for path in outdated:
        print(f"{path.relative_to(ROOT)}: {'stale, run make docs' if check else 'written'}")
        if not check:
            path.write_text(rendered(path, path.read_text(encoding="utf-8")), encoding="utf-8")
    return int(check and bool(outdated))


if __name__ == "__main__":
    sys.exit(main())
