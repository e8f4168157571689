"""A conversation reads as gpt-oss is served and writes it (format.md of openai/harmony)."""

from typing import Any

import pytest

from eaftgate.chats.chat import LeftOut
from eaftgate.chats.forms import chat_of
from eaftgate.chats.harmony import Rendering, harmony_text

BARE = Rendering(preamble="none")
SYSTEM = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06"
    "\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
)
USER, FINAL = "<|start|>user<|message|>{}<|end|>", "<|start|>assistant<|channel|>final<|message|>{}"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Forecast for a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"], "default": "C"}},
            "required": ["town"],
        },
    },
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def calling(arguments: Any, name: str = "get_weather", **more: Any) -> dict[str, Any]:
    return said(None, tool_calls=[{"id": "c1", "function": {"name": name, "arguments": arguments}}], **more)


def text_of(*messages: Any, rendering: Rendering = BARE, **row: Any) -> str:
    return harmony_text(chat_of(list(messages), **row), rendering)


def test_tools_are_not_said_twice() -> None:
    own = {"role": "developer", "content": "# Instructions\n\nBe kind.\n\n# Tools\n// none"}
    chat = chat_of([own, user("a"), said("1")], [WEATHER])
    assert harmony_text(chat, BARE).startswith(f"<|start|>developer<|message|>{own['content']}<|end|>")
    assert chat.not_read == ("tools beside the developer's own",)


def test_the_last_answer_returns_and_earlier_ones_end() -> None:
    text = text_of(user("a"), said("1"), user("b"), said("2"))
    assert text == USER.format("a") + FINAL.format("1<|end|>") + USER.format("b") + FINAL.format("2<|return|>")


def test_the_system_message_is_that_of_openai_harmony() -> None:
    assert text_of(user("a"), said("1"), rendering=Rendering()).startswith(f"{SYSTEM}<|end|>{USER.format('a')}")
    dated = text_of(user("a"), said("1"), rendering=Rendering(date="2025-06-28"))
    assert "Knowledge cutoff: 2024-06\nCurrent date: 2025-06-28\n\n" in dated


def test_instructions_and_tools_are_the_developers() -> None:
    text = text_of(
        {"role": "system", "content": "Be kind."}, user("a"), said("1"), rendering=Rendering(), tools=[WEATHER]
    )
    assert text.startswith(
        f"{SYSTEM}\nCalls to these tools must go to the commentary channel: 'functions'.<|end|>"
        "<|start|>developer<|message|># Instructions\n\nBe kind.\n\n"
        "# Tools\n\n## functions\n\nnamespace functions {\n\n"
        "// Forecast for a town.\ntype get_weather = (_: {\ntown: string,\n"
        'unit?: "C" | "F", // default: C\n}) => any;\n\n} // namespace functions<|end|><|start|>user'
    )


def test_tools_without_instructions_come_before_the_user() -> None:
    text = text_of(user("a"), said("1"), tools=[WEATHER])
    assert text.startswith("<|start|>developer<|message|># Tools\n\n## functions\n")


@pytest.mark.parametrize("own", ["# Instructions\n\nBe kind.", "# Tools\n// none"])
def test_what_is_harmonys_own_form_already_stays(own: str) -> None:
    text = text_of({"role": "developer", "content": own}, user("a"), said("1"))
    assert text.startswith(f"<|start|>developer<|message|>{own}<|end|>")
    system = f"{SYSTEM.removeprefix('<|start|>system<|message|>')} And more."
    assert text_of({"role": "system", "content": system}, user("a"), said("1")).startswith(
        f"<|start|>system<|message|>{system}<|end|><|start|>user"
    )


def test_a_system_message_of_an_effort_alone_stays() -> None:
    text = text_of({"role": "system", "content": "Reasoning: high"}, user("a"), said("1"), rendering=Rendering())
    assert text.startswith("<|start|>system<|message|>Reasoning: high<|end|><|start|>user")


def test_the_effort_is_the_rows_own_or_the_one_that_is_asked_for() -> None:
    only = Rendering(preamble="effort", effort="high")
    begin = "<|start|>system<|message|>Reasoning: {}<|end|><|start|>user"
    assert text_of(user("a"), said("1"), rendering=only, effort="Low").startswith(begin.format("low"))
    assert text_of(user("a"), said("1"), rendering=only).startswith(begin.format("high"))
    assert "Reasoning: low\n\n# Valid" in text_of(user("a"), said("1"), rendering=Rendering(), effort="low")


def test_a_call_with_its_reasoning_preamble_and_result() -> None:
    text = text_of(
        user("a"),
        calling({"town": "Ö", "n": [1, 2]}, reasoning="Look.") | {"content": "One moment."},
        {"role": "tool", "tool_call_id": "c1", "content": '{"sky": 1}'},
        said("Fine.", thinking="Good."),
    )
    assert text == (
        USER.format("a") + "<|start|>assistant<|channel|>analysis<|message|>Look.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"town":"Ö","n":[1,2]}<|call|>'
        '<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>{"sky": 1}<|end|>'
        "<|start|>assistant<|channel|>analysis<|message|>Good.<|end|>" + FINAL.format("Fine.<|return|>")
    )


@pytest.mark.parametrize(
    ("arguments", "written"), [('{ "a" : 1 }', '{ "a" : 1 }'), ({"a": 1}, '{"a":1}'), (None, "{}"), ("", "{}")]
)
def test_arguments_that_are_text_stay_as_they_are(arguments: Any, written: str) -> None:
    assert f"<|message|>{written}<|call|>" in text_of(user("a"), calling(arguments))


@pytest.mark.parametrize(
    "result",
    [
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
        {"role": "tool", "name": "get_weather", "content": "x"},
        {"role": "function", "name": "functions.get_weather", "content": [{"type": "text", "text": "x"}]},
        {"role": "tool", "content": "x"},
        {"from": "observation", "value": "x"},
    ],
)
def test_whose_result_it_is(result: dict[str, Any]) -> None:
    text = text_of(user("a"), calling("{}"), result, said("1"))
    assert "<|call|><|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>x<|end|>" in text


def test_results_that_name_no_call_are_of_the_calls_in_order() -> None:
    calls = said(None, tool_calls=[{"function": {"name": name, "arguments": "{}"}} for name in ("one", "two")])
    text = text_of(user("a"), calls, *({"role": "tool", "content": c} for c in "xy"), said("1"))
    assert "<|start|>functions.one to=assistant<|channel|>commentary<|message|>x" in text
    assert "<|start|>functions.two to=assistant<|channel|>commentary<|message|>y" in text


def results(*messages: Any) -> list[str]:
    return [m.name.removeprefix("functions.") for m in chat_of([user("a"), *messages, said("1")]).messages if m.name]


def called(**ids: Any) -> dict[str, Any]:
    """A message that calls functions of these names, with these ids."""
    calls = [{"id": i, "function": {"name": name, "arguments": "{}"}} for name, i in ids.items()]
    return said(None, tool_calls=[{k: v for k, v in call.items() if v is not None} for call in calls])


def answer(to: Any = None, name: str | None = None) -> dict[str, Any]:
    return {"role": "tool", "content": "x", "tool_call_id": to, "name": name}


def test_ids_may_be_numbers_and_come_in_any_order_and_again() -> None:
    assert results(called(one=1, two=2), answer(2), answer(1)) == ["two", "one"]
    assert results(called(one="c0"), answer("c0"), user("b"), called(two="c0"), answer("c0")) == ["one", "two"]


def test_a_call_that_stayed_without_a_result_gets_none_of_a_later_turn() -> None:
    assert results(called(one=None), user("b"), called(two=None), answer()) == ["two"]
    assert results(called(one=None, two=None), answer(name="two"), answer()) == ["two", "one"]


@pytest.mark.parametrize(
    "messages",
    [
        [called(one="c1"), answer("c2")],
        [called(one="c1"), answer("c2", "one")],
        [called(one="c1", two="c2"), answer("c1", "two")],
        [called(one="c1", two="c1"), answer("c1")],
        [called(one=None), answer(), answer()],
        [answer()],
    ],
)
def test_a_result_of_no_call_or_of_two_is_not_guessed_at(messages: list[Any]) -> None:
    with pytest.raises(LeftOut, match=r"result of|calls of one id"):
        results(*messages)


def test_a_recipient_is_a_call_as_openai_harmonys_own_messages_have_it() -> None:
    own = {"channel": "commentary", "recipient": "functions.f", "content_type": "<|constrain|>json"}
    result = {"role": "tool", "name": "functions.f", "channel": "commentary", "recipient": "assistant", "content": "x"}
    chat = chat_of([user("a"), said('{"a": 1}', **own), result, said("1")])
    assert chat.not_read == ()
    assert harmony_text(chat, BARE) == text_of(user("a"), calling('{"a": 1}', name="f"), result, said("1"))
    with pytest.raises(LeftOut, match="no function"):
        chat_of([user("a"), said("x = 1", recipient="python")])


@pytest.mark.parametrize("wrong", [{"role": "user", "from": "gpt"}, {"content": "a", "value": "b"}])
def test_a_message_that_says_two_things_is_ambiguous(wrong: dict[str, Any]) -> None:
    with pytest.raises(LeftOut, match=r"unknown role|two contents"):
        chat_of([user("a") | wrong, said("1")])


def test_what_no_text_shows_is_named_with_the_role_that_has_it() -> None:
    chat = chat_of([user("a") | {"channel": "final", "reasoning": "r"}, said("1", name="bob", recipient="all")])
    assert chat.not_read == ("channel of user", "name of assistant", "reasoning of user")


def test_content_in_parts_and_in_channels() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    channels = [said("think", channel="analysis"), said("first", channel="commentary"), said("x", channel="final")]
    text = text_of(user(parts), *channels)  # type: ignore[arg-type]
    assert text == (
        USER.format("ab") + "<|start|>assistant<|channel|>analysis<|message|>think<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>first<|end|>" + FINAL.format("x<|return|>")
    )


@pytest.mark.parametrize("token", ["<|end|>", "<|start|>", "<|call|>", "<|return|>", "<|reserved_200017|>"])
@pytest.mark.parametrize("place", ["user", "assistant", "reasoning", "arguments", "tool", "tools"])
def test_no_content_can_forge_structure(token: str, place: str) -> None:
    of = {name: f"x{token}y" if name == place else "xy" for name in ("user", "assistant", "reasoning", "tool", "tools")}
    messages = [
        user(of["user"]),
        calling({"a": token if place == "arguments" else "x"}, reasoning=of["reasoning"]),
        {"role": "tool", "content": of["tool"]},
        said(of["assistant"]),
    ]
    with pytest.raises(LeftOut, match="special token"):
        chat_of(messages, [{"name": "f", "description": of["tools"]}])


class TestEarlierAnalysis:
    MESSAGES = (
        user("a"),
        said("1", reasoning="t1"),
        user("b"),
        calling("{}", reasoning="t2"),
        {"role": "tool", "content": "x"},
        said("2", reasoning="t3"),
    )

    def test_is_kept(self) -> None:
        text = text_of(*self.MESSAGES)
        assert all(f"<|message|>t{number}<|end|>" in text for number in (1, 2, 3))

    def test_is_left_out_as_servers_leave_it_out(self) -> None:
        """That of turns that have ended in an answer; that between the calls of the last turn is still needed."""
        text = text_of(*self.MESSAGES, rendering=Rendering(preamble="none", keep_analysis=False))
        assert "t1" not in text
        assert all(f"<|message|>t{number}<|end|>" in text for number in (2, 3))
        assert text.startswith(USER.format("a") + FINAL.format("1<|end|>"))
