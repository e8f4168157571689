"""Which characters the assistant spoke (SPEC section 2), on well-formed and adversarial conversations."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eaftgate.packs.harmony import completion_spans, is_assistant

START, MESSAGE, CHANNEL = "<|start|>", "<|message|>", "<|channel|>"
CLOSING = ("<|end|>", "<|call|>", "<|return|>")


def slow_spans(text: str) -> list[tuple[int, int]]:
    """SPEC section 2 read aloud, one character at a time."""
    spans = []
    inside, begin, header = "nothing", 0, ""
    at = 0
    while at < len(text):
        step = 1
        if inside == "nothing" and text.startswith(START, at):
            step = len(START)
            inside, begin = "header", at + step
        elif inside == "header" and text.startswith(MESSAGE, at):
            step = len(MESSAGE)
            inside, header, begin = "content", text[begin:at], at + step
        elif inside == "content" and (closing := [tag for tag in CLOSING if text.startswith(tag, at)]):
            step = len(closing[0])
            inside = "nothing"
            spans += [(begin, at)] if slow_is_assistant(header) else []
        at += step
    if inside == "content" and slow_is_assistant(header):
        spans.append((begin, len(text)))
    return [(first, last) for first, last in spans if last > first]


def slow_is_assistant(header: str) -> bool:
    role = header[: header.find(CHANNEL)] if CHANNEL in header else header
    while role and role[0].isspace():
        role = role[1:]
    while role and role[-1].isspace():
        role = role[:-1]
    return role == "assistant" or role[:10] == "assistant "


def marked(text: str) -> tuple[str, list[str]]:
    """`text` without its brackets, and what each pair of brackets holds."""
    pieces = [part.split("⟧")[0] for part in text.split("⟦")[1:]]
    return text.replace("⟦", "").replace("⟧", ""), pieces


CONVERSATIONS = {
    "one message": "<|start|>assistant<|message|>⟦hi⟧<|end|>",
    "only the assistant": "<|start|>system<|message|>s<|end|><|start|>developer<|message|>d<|end|>"
    "<|start|>user<|message|>u<|end|><|start|>assistant<|message|>⟦hi⟧<|return|>",
    "every channel": "<|start|>assistant<|channel|>analysis<|message|>⟦a⟧<|end|>"
    "<|start|>assistant<|channel|>commentary<|message|>⟦b⟧<|end|>"
    "<|start|>assistant<|channel|>final<|message|>⟦c⟧<|return|>",
    "recipient in the role": "<|start|>assistant to=functions.x<|channel|>commentary json<|message|>⟦{}⟧<|call|>",
    "recipient in the channel": "<|start|>assistant<|channel|>commentary to=functions.x <|constrain|>json"
    "<|message|>⟦{}⟧<|call|>",
    "recipient and no channel": "<|start|>assistant to=functions.x<|message|>⟦{}⟧<|call|>",
    "tool result": "<|start|>functions.x to=assistant<|channel|>commentary<|message|>4<|end|>",
    "tool called assistant-something": "<|start|>assistant.x to=assistant<|message|>4<|end|>",
    "white space around the role": "<|start|>  assistant\n<|channel|>final<|message|>⟦hi⟧<|end|>",
    "white space is content": "<|start|>assistant<|message|>⟦ \n⟧<|end|>",
    "empty content": "<|start|>assistant<|message|><|end|><|start|>assistant<|message|>⟦x⟧<|end|>",
    "empty content at the end of the text": "<|start|>assistant<|message|>",
    "role lookalikes": "".join(
        f"<|start|>{role}<|message|>no<|end|>"
        for role in ("assistantx", "user assistant", "Assistant", "xassistant", "assistant_to=x", "assistant\tto=x", "")
    ),
    "text between messages": "a<|start|>assistant<|message|>⟦b⟧<|end|>c<|message|>d<|end|>e",
    "no end, end of the text": "<|start|>user<|message|>u<|end|><|start|>assistant<|message|>⟦cut o⟧",
    "no end, the next message is swallowed": "<|start|>assistant<|message|>⟦a<|start|>user<|message|>b⟧<|end|>",
    "no end of another's message": "<|start|>user<|message|>a<|start|>assistant<|message|>b<|end|>c",
    "tags in the content": "<|start|>assistant<|message|>⟦a<|message|>b<|channel|>c<|start|>d⟧<|call|>e<|end|>",
    "tags in another's content": "<|start|>user<|message|><|start|>assistant<|message|>hi<|end|>",
    "no message tag": "<|start|>assistant<|channel|>final hi<|end|>",
    "a header runs to the next message tag": "<|start|>assistant<|end|><|start|>user<|message|>u<|end|>",
    "role repeated in the header": "<|start|>assistant<|start|>assistant<|message|>x<|end|>",
    "a second channel": "<|start|>user<|channel|>assistant<|channel|>final<|message|>x<|end|>",
    "broken tags": "<|start |>assistant<|message|>a<|end|><start>assistant<|message|>b",
    "content of several characters and scripts": "<|start|>assistant<|message|>⟦é 🙂\u2028漢⟧<|return|>",
    "nothing": "",
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversation(name: str) -> None:
    text, expected = marked(CONVERSATIONS[name])
    assert [text[begin:end] for begin, end in completion_spans(text)] == expected
    assert slow_spans(text) == completion_spans(text)


FRAGMENTS = (START, MESSAGE, CHANNEL, *CLOSING, "assistant", "assistant ", "user", "to=functions.x", "final", "x", " ",
             "\n", "\x1c", "🙂", "<|", "|>", "<|star", "t|>")  # fmt: skip


@settings(max_examples=500)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join))
def test_equals_the_slow_parser(text: str) -> None:
    assert completion_spans(text) == slow_spans(text)


HEADERS = st.lists(st.sampled_from(("assistant", " ", "\n", "x", CHANNEL, "to=", "é")), max_size=6).map("".join)


@given(HEADERS)
@example(f"assistant{CHANNEL}x{CHANNEL}x")
def test_role_equals_the_slow_one(header: str) -> None:
    assert is_assistant(header) == slow_is_assistant(header)


ASSISTANT = f"{START}assistant{MESSAGE}"
LONG_TEXTS = {
    START: 0,
    f"{START}assistant": 0,
    ASSISTANT: 1,
    MESSAGE: 0,
    f"{ASSISTANT}x<|end|>": -(-1_000_000 // len(f"{ASSISTANT}x<|end|>")),
    f"{ASSISTANT}<|": 1,
}


@pytest.mark.parametrize("unit", LONG_TEXTS)
def test_time_is_linear_in_the_text(unit: str) -> None:
    text = unit * -(-1_000_000 // len(unit))
    started = time.perf_counter()
    spans = completion_spans(text)
    assert time.perf_counter() - started < 1.0
    assert len(spans) == LONG_TEXTS[unit]
