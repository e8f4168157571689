"""Names on their way out: whatever is in them, a terminal obeys nothing, a line stays one line, a page has no tag."""

import io
import json
import re
import shutil
import sys
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from cli_command import Command, eaftgate, refused  # noqa: F401
from gate_command import BASE, GATE_PACKS
from hypothesis import given
from hypothesis import strategies as st
from results import lost_message, parity_cell, parity_of

from eaftgate.commands.output import say
from eaftgate.files import atomic_path
from eaftgate.gate.table import render_cells
from eaftgate.report.html import render
from eaftgate.visible import MAX_STEM_BYTES, file_stem, plain, sentence, visible

ANY = st.text(st.characters(exclude_categories=()))
"""Of all code points, halves of surrogate pairs too: what a file's name may be."""
OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")
NASTY = "e\x1b[31m\x9b1m[/red][bold]:smile:\u202e\u200b\udce9<b onload='x'>&\"\nverdict: PASS"


def unseen(text: str) -> set[str]:
    return {char for char in text if unicodedata.category(char) in OBEYED}


@given(ANY)
def test_nothing_is_obeyed_and_all_of_it_can_be_told(text: str) -> None:
    for said in (visible(text), plain(text), sentence(text)):
        assert not unseen(said)
        assert said.isprintable()
        said.encode()
    assert re.sub(r"\\(\\|x..|u....|U........|.)", unescaped, visible(text)) == text


def unescaped(found: re.Match[str]) -> str:
    return found[0].encode().decode("unicode_escape")


@given(ANY.filter(str.isprintable))
def test_what_can_be_read_stays_as_it_is(text: str) -> None:
    assert plain(text) == text
    assert visible(text).replace("\\\\", "\\") == text


@given(ANY, ANY)
def test_a_file_may_be_named_after_anything_and_two_names_stay_two(a: str, b: str) -> None:
    stem = file_stem(a)
    assert stem
    assert len(stem.encode()) <= MAX_STEM_BYTES
    assert "/" not in stem
    assert not stem.startswith(".")
    assert stem.isprintable()
    assert (stem == file_stem(b)) == (a == b)


def test_a_name_that_is_one_stays(tmp_path: Path) -> None:
    assert file_stem("keep24-UNION-64-None") == "keep24-UNION-64-None"
    assert file_stem("Größe 2") == "Größe 2"
    longest = tmp_path / ("n" * 250 + ".html")
    with atomic_path(longest) as temporary:
        temporary.touch()
    assert longest.exists()


@given(ANY)
def test_a_line_of_a_command_is_the_line(text: str) -> None:
    stdout, written = sys.stdout, io.StringIO()
    sys.stdout = written
    try:
        say(text)
    finally:
        sys.stdout = stdout
    assert written.getvalue() == f"{plain(text)}\n"


def test_tables_are_no_markup_and_no_line_is_forged() -> None:
    shown = render_cells([parity_cell(name=NASTY, pack=NASTY)], width=400, colour=False)
    assert not unseen(shown) - {"\n"}
    assert "[/red][bold]:smile:" in shown
    assert not re.search(r"^verdict: PASS", shown, re.M)


class Tags(HTMLParser):
    """The names of all attributes, and all classes, of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.classes |= {word for name, value in attrs if name == "class" for word in (value or "").split()}


def seen(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def test_no_value_of_a_result_is_html() -> None:
    """Of every place of a result that holds text, also where a type would have refused it."""
    evil = '<script x=1>\x1b\u202e\' onload="alert(1)" "'
    cell = parity_cell(name=evil, pack=evil, checkpoint=evil)
    inputs = cell.inputs.model_copy(update={"collector": {evil: evil}, "checkpoint_digest": evil})
    metrics = {name: replace(verdict, verdict=evil) for name, verdict in cell.metrics.items()}  # type: ignore[arg-type]
    verdicts = {"verdict": evil, "v1_verdict": evil, "severity": evil}
    cell = cell.model_copy(update={"inputs": inputs, "metrics": metrics, **verdicts})
    calm, parity = parity_of(parity_cell()), parity_of(cell)
    said = dict.fromkeys(("verdict", "v1_verdict", "v2_verdict", "policy", "regime", "eaftgate"), evil)
    message = lost_message(pack=evil, domain=evil, row=evil, reference=evil, before=evil, expected=evil, written=evil)
    parity = parity.model_copy(update={**said, "not_run": (evil,), "lost_messages": {evil: (message,)}})
    page = render(parity)
    assert not unseen(page) - {"\n"}
    assert "script" not in seen(page).tags
    assert "onload" not in seen(page).attributes
    assert seen(page).attributes <= seen(render(calm)).attributes | {"class"}
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in page


def test_overlap_shows_directories_as_they_are(eaftgate: Command, tmp_path: Path) -> None:  # noqa: F811
    ended = eaftgate("prune", BASE, "--keep-n", "32", "--out", tmp_path / "[red]a\x1b[1m")
    assert (ended.code, unseen(ended.out)) == (0, {"\n"})
    (tmp_path / "b[").mkdir()
    shutil.copytree(tmp_path / "[red]a\x1b[1m", tmp_path / "b[" / "red]:smile:\nverdict: PASS")
    ended = eaftgate("overlap", tmp_path / "[red]a\x1b[1m", tmp_path / "b[" / "red]:smile:\nverdict: PASS")
    assert (ended.code, ended.err) == (0, "")
    assert not unseen(ended.out) - {"\n"}
    assert "[red]a\\x1b[1m" in ended.out
    assert "b[/red]:smile:\\nverdict: PASS" in re.sub(r"\s+", " ", ended.out)


def test_packs_of_any_name_are_split(eaftgate: Command, tmp_path: Path) -> None:  # noqa: F811
    packs = tmp_path / "packs"
    packs.mkdir()
    names = ["e\x1b[31m[red]:smile:\nverdict: PASS", "n" * 246, "\u202egnp"]
    for name in names:
        shutil.copy(GATE_PACKS / "chat.parquet", packs / f"{name}.parquet")
    ended = eaftgate("packs", "split", packs, "--out", tmp_path / "out")
    assert (ended.code, ended.err) == (0, "")
    assert not unseen(ended.out) - {"\n"}
    assert not re.search(r"^verdict", ended.out, re.M)
    assert {path.stem for path in (tmp_path / "out" / "gate").iterdir()} == set(names)


def test_names_that_are_not_utf8_are_refused_in_one_sentence(
    eaftgate: Command, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    packs = tmp_path / "packs"
    packs.mkdir()
    shutil.copy(GATE_PACKS / "chat.parquet", packs / "caf\udce9.parquet")
    refused(eaftgate("packs", "split", packs, "--out", tmp_path / "out"), r"'caf\udce9.parquet' is not UTF-8: rename")
    refused(eaftgate("prune", tmp_path / "\udce9", "--keep-n", "32", "--out", "x"), "is not UTF-8: rename it")
    assert [path.name for path in tmp_path.iterdir()] == ["packs"]


def test_json_for_scripts_holds_what_was_given(eaftgate: Command, tmp_path: Path) -> None:  # noqa: F811
    packs = tmp_path / "packs"
    packs.mkdir()
    shutil.copy(GATE_PACKS / "chat.parquet", packs / "a\x1b\n.parquet")
    ended = eaftgate("packs", "split", packs, "--out", tmp_path / "out", "--json")
    assert json.loads(ended.out)["packs"][0]["pack"] == "a\x1b\n"
    assert len(ended.out.splitlines()) == 1
