"""What packs build writes is what openai-harmony writes and reads: its renderer and its parser are the oracles.

Needs npm once, for the ranks of o200k.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai_harmony as library
import pyarrow.parquet as pq
import pytest
from chat_data import PACKS, messages_of, texts_of, write_lines
from cli_command import Command
from hypothesis import given, settings
from hypothesis import strategies as st
from o200k import write_ranks

from eaftgate.chats.chat import Chat, Tool
from eaftgate.chats.forms import chat_of
from eaftgate.chats.harmony import Rendering, harmony_text
from eaftgate.chats.library import library_renderer
from eaftgate.chats.typescript import tools_section

pytestmark = pytest.mark.slow
_MOVED = re.compile(r"<\|start\|>assistant<\|channel\|>commentary (to=\S+) <\|constrain\|>json")


@pytest.fixture(scope="module", autouse=True)
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_ENCODINGS_BASE", str(write_ranks(tmp_path_factory.mktemp("o200k"))))
        yield


@pytest.fixture(scope="module")
def encoding(ranks: None) -> Any:  # noqa: ARG001
    return library.load_harmony_encoding(library.HarmonyEncodingName.HARMONY_GPT_OSS)


def as_the_library(text: str) -> str:
    """With the recipients of calls behind the role."""
    return _MOVED.sub(r"<|start|>assistant \1<|channel|>commentary <|constrain|>json", text)


def parsed(encoding: Any, text: str) -> list[tuple[Any, ...]]:
    tokens = encoding.encode(text, allowed_special="all")
    messages = encoding.parse_messages_from_completion_tokens(tokens)
    return [
        (m.author.role.value, m.author.name, m.channel, m.recipient, m.content_type, "".join(c.text for c in m.content))
        for m in messages
    ]


def expected(chat: Chat) -> Iterator[tuple[Any, ...]]:
    for m in chat.messages:
        if m.role == "tool":
            yield "tool", m.name, "commentary", "assistant", None, m.content
        elif m.role != "assistant":
            yield m.role, None, None, None, None, m.content
        else:
            if m.reasoning:
                yield "assistant", None, "analysis", None, None, m.reasoning
            if m.content is not None:
                yield "assistant", None, "final", None, None, m.content
            for call in m.calls:
                yield "assistant", None, "commentary", call.name, "<|constrain|>json", call.arguments


@pytest.mark.parametrize("pack", PACKS)
def test_real_rows_come_back_from_the_librarys_parser(encoding: Any, pack: str) -> None:
    """All of a message: role, name, channel, recipient, content type, content."""
    for text in texts_of(pack):
        chat = chat_of(messages_of(text))
        written = harmony_text(chat, Rendering(preamble="effort"))
        assert written == text
        found = list(expected(chat))
        assert parsed(encoding, written) == found
        assert parsed(encoding, as_the_library(written)) == found


@pytest.mark.parametrize("preamble", ["full", "effort", "none"])
@pytest.mark.parametrize("pack", PACKS)
def test_the_library_renders_real_rows_to_the_same_text(pack: str, preamble: Any) -> None:
    for keep in (True, False):
        rendering = Rendering(preamble=preamble, date="2025-06-28", keep_analysis=keep)
        render, _ = library_renderer(rendering)
        for number, text in enumerate(texts_of(pack)[:200]):
            messages = messages_of(text)
            if number % 2:  # instructions that are not Harmony's own, with tools' schemas
                messages = [{"role": "system", "content": "Be kind.\n\n# Really"}, *messages[1:]]
            chat = chat_of(messages, [WEATHER] if number % 3 == 0 and number % 2 else None)
            assert render(chat) == as_the_library(harmony_text(chat, rendering))


CONTENTS = st.text(st.sampled_from('aä🙂 \n\r"\\#|<>{}:'), max_size=8) | st.sampled_from(
    ["# Tools\n", "assistant to=functions.f", "Reasoning: high", "<|", "日本"]
)
SAID = CONTENTS.filter(bool)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Any], list[Any]]:
    """Messages as people have them, and as openai-harmony is given them."""

    def said(role: Any, text: str, channel: str | None = None) -> Any:
        message = library.Message.from_role_and_content(role, text)
        return message if channel is None else message.with_channel(channel)

    rows: list[Any] = []
    given_: list[Any] = []
    number = 0
    for _ in range(draw(st.integers(1, 3))):
        rows.append({"role": "user", "content": draw(SAID)})
        given_.append(said(library.Role.USER, rows[-1]["content"]))
        for calls in draw(st.lists(st.integers(0, 3), max_size=2)):
            thought, before = draw(CONTENTS), draw(CONTENTS)
            row: dict[str, Any] = {"role": "assistant", "content": before or draw(st.sampled_from(["", None]))}
            row |= {draw(st.sampled_from(["reasoning", "thinking", "reasoning_content"])): thought, "tool_calls": []}
            for text, channel in ((thought, "analysis"), (before, "commentary" if calls else "final")):
                given_ += [said(library.Role.ASSISTANT, text, channel)] if text else []
            results = []
            for _ in range(calls):
                number, name, arguments = (
                    number + 1,
                    f"f{draw(st.integers(0, 2))}",
                    {"a": draw(CONTENTS), "b": [1.5, None]},
                )
                written = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
                function = {"name": name, "arguments": draw(st.sampled_from([arguments, written]))}
                row["tool_calls"].append({"id": f"c{number}", "type": "function", "function": function})
                call = said(library.Role.ASSISTANT, written, "commentary").with_recipient(f"functions.{name}")
                given_.append(call.with_content_type("<|constrain|>json"))
                results.append((number, name, draw(CONTENTS)))
            if thought or before or calls:
                rows.append(row)
            for answered, name, result in draw(st.permutations(results)):
                rows.append({"role": "tool", "tool_call_id": f"c{answered}", "content": result})
                author = library.Author.new(library.Role.TOOL, f"functions.{name}")
                message = library.Message.from_author_and_content(author, result)
                given_.append(message.with_recipient("assistant").with_channel("commentary"))
        rows.append({"role": "assistant", "content": draw(SAID)})
        given_.append(said(library.Role.ASSISTANT, rows[-1]["content"], "final"))
    return rows, given_


@settings(max_examples=400)
@given(conversations())
def test_any_conversation_reads_as_the_library_has_it(encoding: Any, made: tuple[list[Any], list[Any]]) -> None:
    rows, messages = made
    config = library.RenderConversationConfig(auto_drop_analysis=False)
    tokens = encoding.render_conversation_for_training(library.Conversation.from_messages(messages), config)
    assert as_the_library(harmony_text(chat_of(rows), Rendering(preamble="none"))) == encoding.decode_utf8(tokens)


WEATHER = {"name": "get_weather", "description": "Forecast.\n\nOf a town.\n", "parameters": {"type": "object"}}

TEXTS = st.text(st.sampled_from('ab"\\ä\n #/|{}'), max_size=6)
LEAVES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            [
                "string",
                "number",
                "integer",
                "boolean",
                "array",
                "object",
                "null",
                ["string", "null"],
                ["integer"],
                [],
                7,
            ]
        ),
        "description": TEXTS,
        "title": TEXTS,
        "enum": st.lists(TEXTS | st.integers(-9, 9), max_size=3),
        "default": TEXTS | st.integers(-9, 9) | st.booleans() | st.none() | st.just([1, "a"]) | st.just({"a": 1.5}),
        "nullable": st.booleans(),
        "examples": st.lists(TEXTS | st.integers(0, 9), max_size=2),
        "required": st.lists(st.sampled_from("abc"), max_size=2),
    },
)


def _deeper(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    more = st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from("abc"), schemas, max_size=3),
            "items": schemas,
            "oneOf": st.lists(schemas, max_size=3) | st.just("none"),
            "anyOf": st.lists(schemas, max_size=2),
        },
    )
    return st.builds(lambda leaf, rest: {**leaf, **rest}, LEAVES, more)


SCHEMAS = st.recursive(LEAVES, _deeper, max_leaves=8)


@settings(max_examples=600)
@given(st.lists(st.tuples(TEXTS, st.none() | SCHEMAS), min_size=1, max_size=3))
def test_schemas_read_as_the_library_has_them(encoding: Any, tools: list[tuple[str, Any]]) -> None:
    described = [library.ToolDescription.new(f"f{n}", text, schema) for n, (text, schema) in enumerate(tools)]
    content = library.DeveloperContent.new().with_function_tools(described)
    message = library.Message.from_role_and_content(library.Role.DEVELOPER, content)
    rendered = encoding.decode_utf8(encoding.render(message))
    ours = tools_section([Tool(f"f{n}", text, schema) for n, (text, schema) in enumerate(tools)])
    assert f"<|start|>developer<|message|>{ours}<|end|>" == rendered


def test_a_pack_can_be_the_librarys_own(eaftgate: Command, tmp_path: Path) -> None:
    texts = texts_of("tool_agentic")[:20]
    write_lines(tmp_path / "x.jsonl", ({"messages": messages_of(text)} for text in texts))
    arguments = ("--template", "openai-harmony", "--preamble", "effort", "--out", tmp_path / "o")
    assert eaftgate("packs", "build", tmp_path / "x.jsonl", *arguments).code == 0
    assert pq.read_table(tmp_path / "o" / "x.parquet")["text"].to_pylist() == [as_the_library(text) for text in texts]
