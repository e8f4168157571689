"""Tables in documents come from docs/data and from the code, and say so when they are stale."""

import re
from pathlib import Path

import pytest
import reference
import tables

BY_HAND = {
    "room",
    "term",
    "format",
    "to change",
    "path",
    "input",
    "benchmark",
    "option of pytest benchmarks",
    "measured",
}
"""First heading of tables that explain and measure nothing; every other table stands between markers."""
_ANY_BLOCK = re.compile(r"<!-- table: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_TABLE_HEAD = re.compile(r"^\| *(?P<first>[^|]*?) *\|[^\n]*\n\|(?:[ :-]+\|)+ *$", re.MULTILINE)
DOCUMENTS = [str(path.relative_to(tables.ROOT)) for path in tables.documents()]


def text_of(document: str) -> str:
    return (tables.ROOT / document).read_text(encoding="utf-8")


def blocks_used() -> set[str]:
    return {name for document in DOCUMENTS for name in _ANY_BLOCK.findall(text_of(document))}


def test_the_documents_are_found_and_the_notebooks_are_not() -> None:
    assert {"README.md", "ARCHITECTURE.md", "docs/reference.md", "benchmarks/README.md"} <= set(DOCUMENTS)
    assert not [document for document in DOCUMENTS if document.startswith("docs/log/2")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_table_is_stale(document: str) -> None:
    path = tables.ROOT / document
    assert tables.rendered(path, text_of(document)) == text_of(document), "run make docs"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_table_outside_of_markers_is_one_that_explains(document: str) -> None:
    by_hand = _FENCED.sub("", _ANY_BLOCK.sub("", text_of(document)))
    assert {match["first"] for match in _TABLE_HEAD.finditer(by_hand)} <= BY_HAND


def test_every_stored_result_and_every_block_of_the_code_is_shown() -> None:
    stored = {path.stem for path in tables.DATA.glob("*.json")}
    assert blocks_used() == stored | set(reference.BLOCKS)


def test_a_changed_figure_makes_its_document_stale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tables, "DATA", tmp_path)
    stored = (
        '{"what": "Loss", "command": "run it", "date": "2026-11-26", "hardware": "one core", "software": "none", '
        '"commit": "abc1234", "columns": [{"heading": "name", "cell": "{name}"}, '
        '{"heading": "dPPL", "cell": "{loss:+.1%}"}], "rows": [{"name": "keep24", "loss": 0.011}]}'
    )
    (tmp_path / "loss.json").write_text(stored, encoding="utf-8")
    document = tmp_path / "document.md"
    text = tables.rendered(document, "Before\n<!-- table: loss -->\n<!-- end -->\nafter\n")
    assert text == (
        "Before\n<!-- table: loss -->\n| name | dPPL |\n|---|---:|\n| keep24 | +1.1% |\n\n"
        "Loss. 2026-11-26, one core, commit abc1234: [loss.json](loss.json).\n<!-- end -->\nafter\n"
    )
    assert tables.rendered(document, text) == text
    (tmp_path / "loss.json").write_text(stored.replace("0.011", "0.012"), encoding="utf-8")
    assert tables.rendered(document, text) == text.replace("+1.1%", "+1.2%")


def test_a_marker_that_names_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="no-such-table"):
        tables.rendered(tmp_path / "document.md", "<!-- table: no-such-table -->\n<!-- end -->")


def test_none_is_a_dash_and_a_list_is_its_values() -> None:
    row = {"loss": [0.01, 0.025], "margin": None}
    assert tables.cell_text("{loss:+.1%} of {margin:g}", row) == "+1.0%, +2.5% of -"
