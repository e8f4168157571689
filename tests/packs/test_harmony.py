"""What the assistant writes (SPEC section 2), on well-formed, cut-off and adversarial conversations."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eaftgate.packs.harmony import MalformedRow, Message, TokenClass, assistant_messages

START, MESSAGE, CHANNEL = "<|start|>", "<|message|>", "<|channel|>"
CLOSING = ("<|end|>", "<|call|>", "<|return|>")
TAGS = (START, MESSAGE, *CLOSING)


def slow_messages(text: str) -> list[Message]:
    """SPEC section 2 read aloud: cut at every tag, then walk from tag to tag. Raises MalformedRow."""
    at = sorted((i, tag) for tag in TAGS for i in range(len(text)) if text.startswith(tag, i))
    begins = [i for i, tag in at if tag == START]
    found = []
    for place, start in enumerate(begins):
        last = place == len(begins) - 1
        end = len(text) if last else begins[place + 1]
        inside = [(i, tag) for i, tag in at if start < i < end]
        if not inside and last:
            continue
        if not inside or inside[0][1] != MESSAGE:
            raise MalformedRow
        message = inside[0][0]
        closings = [(i, tag) for i, tag in inside if tag in CLOSING]
        if not closings and not last:
            raise MalformedRow
        header, begin = text[start + len(START) : message], message + len(MESSAGE)
        role = slow_role(header)
        if role != "assistant" and role[:10] not in ("assistant ", "assistant:"):
            continue
        close = (closings[0][0], closings[0][0] + len(closings[0][1])) if closings else None
        word = start + len(START) + header.index("assistant") + len("assistant")
        recipient = slow_recipient(text, word, message)
        found.append(
            Message(
                header=(word, begin),
                recipient=recipient,
                content=(begin, close[0] if close else len(text)),
                close=close,
                kind=TokenClass.CALL if recipient else slow_channel(header),
            )
        )
    return found


def slow_role(header: str) -> str:
    role = header[: header.find(CHANNEL)] if CHANNEL in header else header
    while role and role[0].isspace():
        role = role[1:]
    while role and role[-1].isspace():
        role = role[:-1]
    return role


def slow_word(text: str, begin: int, end: int) -> int:
    """Where the word that begins at `begin` ends: at white space, at a tag or at `end`."""
    while begin < end and not text[begin].isspace() and text[begin] != "<":
        begin += 1
    return begin


def slow_recipient(text: str, begin: int, end: int) -> tuple[int, int] | None:
    for i in range(begin, end):
        before = text[i - 1]
        if text.startswith("to=", i) and (before.isspace() or before == ">") and slow_word(text, i + 3, end) > i + 3:
            return i + 3, slow_word(text, i + 3, end)
    return None


def slow_channel(header: str) -> TokenClass:
    if CHANNEL not in header:
        return TokenClass.OTHER
    begin = header.index(CHANNEL) + len(CHANNEL)
    while begin < len(header) and header[begin].isspace():
        begin += 1
    name = header[begin : slow_word(header, begin, len(header))]
    known = {"analysis": TokenClass.ANALYSIS, "final": TokenClass.FINAL, "commentary": TokenClass.COMMENTARY}
    return known.get(name, TokenClass.OTHER)


def shown(text: str) -> list[tuple[str, str | None, str, str | None, str]]:
    """Header, recipient, content, closing and class of every message, in words."""

    def said(span: tuple[int, int] | None) -> str | None:
        return None if span is None else text[slice(*span)]

    return [
        (said(m.header) or "", said(m.recipient), said(m.content) or "", said(m.close), m.kind.name.lower())
        for m in assistant_messages(text)
    ]


CONVERSATIONS = {
    "one message": (
        "<|start|>assistant<|message|>hi<|end|>",
        [("<|message|>", None, "hi", "<|end|>", "other")],
    ),
    "only the assistant": (
        "<|start|>system<|message|>s<|end|><|start|>developer<|message|>d<|end|>"
        "<|start|>user<|message|>u<|end|><|start|>assistant<|message|>hi<|return|>",
        [("<|message|>", None, "hi", "<|return|>", "other")],
    ),
    "every channel": (
        "<|start|>assistant<|channel|>analysis<|message|>a<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>b<|end|>"
        "<|start|>assistant<|channel|>final<|message|>c<|return|>"
        "<|start|>assistant<|channel|>whisper<|message|>d<|end|>",
        [
            ("<|channel|>analysis<|message|>", None, "a", "<|end|>", "analysis"),
            ("<|channel|>commentary<|message|>", None, "b", "<|end|>", "commentary"),
            ("<|channel|>final<|message|>", None, "c", "<|return|>", "final"),
            ("<|channel|>whisper<|message|>", None, "d", "<|end|>", "other"),
        ],
    ),
    "recipient in the role": (
        "<|start|>assistant to=functions.x<|channel|>commentary json<|message|>{}<|call|>",
        [(" to=functions.x<|channel|>commentary json<|message|>", "functions.x", "{}", "<|call|>", "call")],
    ),
    "recipient in the channel": (
        "<|start|>assistant<|channel|>commentary to=functions.x <|constrain|>json<|message|>{}<|call|>",
        [
            (
                "<|channel|>commentary to=functions.x <|constrain|>json<|message|>",
                "functions.x",
                "{}",
                "<|call|>",
                "call",
            )
        ],
    ),
    "recipient and no channel": (
        "<|start|>assistant to=browser.open<|message|>{}<|call|>",
        [(" to=browser.open<|message|>", "browser.open", "{}", "<|call|>", "call")],
    ),
    "recipient on the analysis channel": (
        "<|start|>assistant<|channel|>analysis to=python<|message|>1+1<|call|>",
        [("<|channel|>analysis to=python<|message|>", "python", "1+1", "<|call|>", "call")],
    ),
    "a name after the role": (
        "<|start|>assistant:planner<|channel|>final<|message|>x<|end|>",
        [(":planner<|channel|>final<|message|>", None, "x", "<|end|>", "final")],
    ),
    "no recipient after to=": (
        "<|start|>assistant<|channel|>commentary to= json<|message|>x<|end|>",
        [("<|channel|>commentary to= json<|message|>", None, "x", "<|end|>", "commentary")],
    ),
    "to= within a word": (
        "<|start|>assistant<|channel|>commentary goto=x<|message|>x<|end|>",
        [("<|channel|>commentary goto=x<|message|>", None, "x", "<|end|>", "commentary")],
    ),
    "tool result": ("<|start|>functions.x to=assistant<|channel|>commentary<|message|>4<|end|>", []),
    "tool called assistant-something": ("<|start|>assistant.x to=assistant<|message|>4<|end|>", []),
    "white space around role and channel": (
        "<|start|>  assistant\n<|channel|> final <|message|>hi<|end|>",
        [("\n<|channel|> final <|message|>", None, "hi", "<|end|>", "final")],
    ),
    "empty content": (
        "<|start|>assistant<|channel|>final<|message|><|end|>",
        [("<|channel|>final<|message|>", None, "", "<|end|>", "final")],
    ),
    "role lookalikes": (
        "".join(
            f"<|start|>{role}<|message|>no<|end|>"
            for role in (
                "assistantx",
                "user assistant",
                "Assistant",
                "xassistant",
                "assistant_to=x",
                "assistant\tx",
                "",
            )
        ),
        [],
    ),
    "text between messages": (
        "a<|start|>assistant<|message|>b<|end|>c<|message|>d<|end|>e",
        [("<|message|>", None, "b", "<|end|>", "other")],
    ),
    "cut off at the end": (
        "<|start|>user<|message|>u<|end|><|start|>assistant<|channel|>final<|message|>cut o",
        [("<|channel|>final<|message|>", None, "cut o", None, "final")],
    ),
    "cut off in the header": ("<|start|>user<|message|>u<|end|><|start|>assistant<|channel|>fin", []),
    "what a model is asked with": ("<|start|>user<|message|>u<|end|><|start|>assistant", []),
    "a second channel": ("<|start|>user<|channel|>assistant<|channel|>final<|message|>x<|end|>", []),
    "several scripts": (
        "<|start|>assistant<|channel|>final<|message|>é 🙂\u2028漢<|return|>",
        [("<|channel|>final<|message|>", None, "é 🙂\u2028漢", "<|return|>", "final")],
    ),
    "nothing": ("", []),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversation(name: str) -> None:
    text, expected = CONVERSATIONS[name]
    assert shown(text) == expected
    assert assistant_messages(text) == slow_messages(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<|start|>assistant<|message|>a<|start|>user<|message|>b<|end|>", "character 0 is not closed before the next"),
        ("<|start|>user<|message|>u<|end|><|start|>user<|message|>a<|start|>assistant<|message|>b<|end|>", "32 is not"),
        ("<|start|>assistant<|channel|>final hi<|end|>", "character 0 has no <|message|>"),
        ("<|start|>assistant<|end|><|start|>user<|message|>u<|end|>", "character 0 has no <|message|>"),
        ("<|start|>assistant<|start|>assistant<|message|>x<|end|>", "character 0 has no <|message|>"),
    ],
)
def test_malformed_conversation(text: str, said: str) -> None:
    with pytest.raises(MalformedRow, match=said.replace("|", r"\|")):
        assistant_messages(text)
    with pytest.raises(MalformedRow):
        slow_messages(text)


FRAGMENTS = (
    *(
        START,
        MESSAGE,
        CHANNEL,
        *CLOSING,
        "assistant",
        "assistant ",
        "assistant:",
        "user",
        " to=functions.x",
        "to=",
        "final",
    ),
    *("x", " ", "\n", "\x1c", "🙂", "<|", "|>", "<|star", "t|>", f"{START}assistant{CHANNEL}final{MESSAGE}"),
    f"x<|end|>{START}assistant to=f.x{CHANNEL}commentary{MESSAGE}",
)


@settings(max_examples=500)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join))
def test_equals_the_slow_parser(text: str) -> None:
    try:
        expected = slow_messages(text)
    except MalformedRow:
        with pytest.raises(MalformedRow):
            assistant_messages(text)
    else:
        assert assistant_messages(text) == expected


ASSISTANT = f"{START}assistant{MESSAGE}"
MESSAGES_A_UNIT = {
    f"{START}assistant": None,
    ASSISTANT: None,
    MESSAGE: 0,
    f"{ASSISTANT}x<|end|>": 1,
    f"{START}assistant to=to=to= {CHANNEL}{CHANNEL}{MESSAGE}<|end|>": 1,
    "<|": 0,
}
"""None: not well-formed."""


@pytest.mark.parametrize("unit", MESSAGES_A_UNIT)
def test_time_is_linear_in_the_text(unit: str) -> None:
    units, each = -(-1_000_000 // len(unit)), MESSAGES_A_UNIT[unit]
    text = unit * units
    started = time.process_time()
    try:
        found: int | None = len(assistant_messages(text))
    except MalformedRow:
        found = None
    assert time.process_time() - started < 1.0  # of the processor, which others may use meanwhile
    assert found == (None if each is None else units * each)
