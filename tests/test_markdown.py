"""What comes from outside is text in Markdown, whatever it holds."""

import re

import pytest

from eaftgate.markdown import code, escaped, table

NASTY = (
    "a|b",
    "`x`",
    "**b**",
    "<img src=x>",
    "[t](http://h)",
    "@someone",
    "#12",
    "www.x.org",
    "a\nb",
    "\x1b[31m",
    "$x$",
    "~~a~~",
    ":smile:",
    "- a",
    "1. a",
    "===",
)


@pytest.mark.parametrize("name", NASTY)
def test_nothing_in_a_sentence_is_markup_a_link_or_a_mention(name: str) -> None:
    said = escaped(name)
    assert said.isprintable()
    assert not re.search(r"(?<!\\)[|`*<>\[\]~$#](?!!--)", said.replace("<!-- -->", ""))
    assert not re.match(r"[-+=]|\d+[.)]", said)
    assert not re.search(r"@\w|#\d|://\w|www\.\w|:smile", said)


def test_a_time_stays_as_it_is() -> None:
    assert escaped("01:10:43") == "01:10:43"


@pytest.mark.parametrize("name", [*NASTY, "", "``", "` `", "a`"])
def test_a_name_is_one_code_span(name: str) -> None:
    said = code(name)
    fence = re.match("`+", said)
    assert fence is not None
    assert said.endswith(fence[0])
    inside = said[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in re.findall("`+", inside)
    assert said.isprintable()
    assert "|" not in re.sub(r"\\\|", "", code(name, cell=True))


def test_a_table_has_words_to_the_left_and_numbers_to_the_right() -> None:
    assert table(("a", "b"), [("x", "1")]) == ["| a | b |", "|---|---:|", "| x | 1 |"]
