"""Links between documents lead somewhere, and sources cite documents that are there."""

import re
from pathlib import Path

import pytest
import tables

ROOT = tables.ROOT
_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]*)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_CITED = re.compile(r"\b(?:docs|benchmarks|fixtures)/[\w./-]+\.(?:md|svg)\b")
SOURCES = [
    path
    for room in ("eaftgate", "tests", "benchmarks", "gates", "docs")
    for path in sorted((ROOT / room).rglob("*.py"))
    if path != Path(__file__)
]


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = _HEADING.findall(document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> list[str]:
    broken = []
    for link in _LINK.findall(document.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("document", [str(path.relative_to(ROOT)) for path in tables.documents()])
def test_links_lead_somewhere(document: str) -> None:
    assert broken_links(ROOT / document) == []


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# What it is, `x`\n[a](#what-it-is-x) [b](https://example.org/none)\n")
    document = tmp_path / "document.md"
    document.write_text("[a](there.md) [b](there.md#what-it-is-x) [c](there.md#gone) [d](gone.md) [e](#gone)")
    assert broken_links(tmp_path / "there.md") == []
    assert broken_links(document) == ["there.md#gone", "gone.md", "#gone"]


def test_sources_cite_documents_that_are_there() -> None:
    cited = {(path, name) for path in SOURCES for name in _CITED.findall(path.read_text(encoding="utf-8"))}
    assert len(cited) > 5
    assert [f"{path.relative_to(ROOT)}: {name}" for path, name in cited if not (ROOT / name).exists()] == []
