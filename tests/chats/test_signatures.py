"""What a prompt says of its functions, read again: a call suits the schema that the text was made of, or not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaftgate.chats.chat import Tool
from eaftgate.chats.signatures import offered_functions
from eaftgate.chats.typescript import tools_section

WEATHER = {
    "type": "object",
    "properties": {
        "place": {"type": "string", "description": "Where, like \"Paris\" // or: there"},
        "unit": {"type": "string", "enum": ["celsius", "kelvin"], "default": "celsius"},
        "days": {"type": "integer", "description": "How many; at most 7"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "at": {"oneOf": [{"type": "string", "description": "a name"}, {"type": "number"}]},
        "near": {
            "type": "object", "properties": {"lat": {"type": "number"}, "sure": {"type": "boolean"}},
            "required": ["lat"],
        },
        "note": {"type": ["string", "null"]},
        "more": {"type": "array"},
        "lines": {"type": "array", "items": {"type": "string"}, "nullable": True},
        "which": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}},
        "table": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
    },
    "required": ["place"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "suits"),
    [
        ({"place": "x"}, True),
        ({"place": "x", "unit": "kelvin", "days": 3, "tags": ["a", "b"], "at": 3, "note": None}, True),
        ({"place": "x", "at": "y", "tags": [], "near": {"lat": 1, "sure": True}, "more": [1, "x"]}, True),
        ({"place": "x", "which": ["a", "b"], "table": [[1, 2], []]}, True),
        ({"place": "x", "lines": None}, True),
        ({"place": "x", "lines": [None]}, False),
        ({"place": "x", "which": ["c"]}, False),
        ({"place": "x", "table": [1]}, False),
        ({}, False),
        ({"place": 3}, False),
        ({"place": "x", "unit": "rankine"}, False),
        ({"place": "x", "days": "3"}, False),
        ({"place": "x", "days": True}, False),
        ({"place": "x", "tags": ["a", 1]}, False),
        ({"place": "x", "tags": "a"}, False),
        ({"place": "x", "at": None}, False),
        ({"place": "x", "near": {}}, False),
        ({"place": "x", "near": {"lat": 1, "far": 2}}, False),
        ({"place": "x", "note": 1}, False),
        ({"place": "x", "made_up": 1}, False),
        (["x"], False),
        ("x", False),
    ],
)  # fmt: skip
def test_arguments_suit_the_schema_that_was_rendered(given: Any, suits: bool) -> None:
    tools = [Tool("other", "Another.\ntype evil = () => any;", None), Tool("get_weather", "The weather.", WEATHER)]
    found = offered_functions(tools_section(tools))
    assert list(found) == ["functions.other", "functions.get_weather"]
    assert found["functions.get_weather"].suits(given) is suits


def test_a_function_without_parameters_takes_none() -> None:
    (found,) = offered_functions(tools_section([Tool("now", "", None)])).values()
    assert found.suits({})
    assert not found.suits({"x": 1})


def test_functions_of_other_forms() -> None:
    """In no namespace, in another one, and tools that take text; what cannot be read takes anything."""
    found = offered_functions(
        "# Tools\n\n## browser\n\n// Browse.\nnamespace browser {\n\n// Search.\ntype search = (_: {\nquery: string,\n"
        "topn?: number, // default: 10\n}) => any;\n\n} // namespace browser\n\n## python\n\nRun code.\n\n"
        "# Tools\n// Stock of a store.\ntype check_stock = ({item: string, store: string}) => any;\n"
        "type odd = (_: keyof {[k in X]: 1}) => any;\n"
    )
    assert list(found) == ["browser.search", "python", "functions.check_stock", "functions.odd"]
    assert [f.takes_json for f in found.values()] == [True, False, True, True]
    assert found["browser.search"].suits({"query": "x"})
    assert not found["browser.search"].suits({"query": "x", "topn": "3"})
    assert found["functions.check_stock"].suits({"item": "a", "store": "b"})
    assert not found["functions.check_stock"].suits({"item": "a"})
    assert found["functions.odd"].suits({"whatever": 1})
    assert offered_functions("") == {}


@pytest.mark.parametrize(
    "text", ["type f = (_: " + "{a: " * 500, "type f = (", "type f = (_: {a: (((", "type f = (_: {"]
)
def test_what_is_not_whole_takes_anything(text: str) -> None:
    assert offered_functions(text)["functions.f"].suits({"x": 1})


SIGNS = ("type f = (", "_: ", "{", "}", "a", "?", ": ", "string", "number", "[]", " | ", '"x"', "Array<", ">", ")", ",",
         "\n", "// note\n", " => any;", "namespace n {", "## title\n", "# Tools\n")  # fmt: skip


@given(st.lists(st.sampled_from(SIGNS), max_size=30).map("".join))
def test_whatever_a_prompt_says_is_read(text: str) -> None:
    for function in offered_functions(text).values():
        assert function.suits({"a": "x"}) in (True, False)
