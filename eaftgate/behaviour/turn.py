"""What a model did in one turn that it wrote: what did it call, what did it answer, did it go in circles."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eaftgate.behaviour.answers import answer_of
from eaftgate.chats.signatures import Function
from eaftgate.errors import UserError
from eaftgate.packs.harmony import CHANNEL, MESSAGE, START, MalformedRow, TokenClass, assistant_messages
from eaftgate.packs.turns import OPENING
from eaftgate.strict_json import parse_json

DEEPEST = 50
"""Levels of JSON."""
GRAM = 8
"""Tokens in a row that are looked for again."""


_FOR_CALLS = "commentary"
"""The channel of calls; what is said to the user there has nothing else in its header."""


@dataclass(frozen=True)
class Call:
    """`arguments` as they stand; `parsed` are those of JSON, where `parses`. One without a recipient was meant as a
    call, and no server makes it out."""

    recipient: str
    arguments: str
    parses: bool
    parsed: Any = None

    def is_same(self, other: "Call") -> bool:
        """The same function with the same arguments: as values where both are JSON, else as text."""
        if self.recipient != other.recipient or self.parses != other.parses:
            return False
        if self.parses:
            return _canonical(self.parsed) == _canonical(other.parsed)
        return self.arguments.strip() == other.arguments.strip()


@dataclass(frozen=True)
class Did:
    """`call` is the last one that was written, `answer` what the last final answer says (behaviour.answers)."""

    call: Call | None
    answer: str | None


def what_was_done(text: str) -> Did:
    """`text` is what follows `<|start|>assistant`, well-formed or not. What is on the channel of calls and no message,
    or addressed to nobody that can be made out, was meant as a call."""
    call, answer = None, None
    for segment in (OPENING + text).split(START)[1:]:
        try:
            messages = assistant_messages(START + segment)
        except MalformedRow:
            messages = []
        for message in messages:
            said = (START + segment)[slice(*message.content)]
            if message.recipient is not None:
                call = call_of((START + segment)[slice(*message.recipient)], said)
            elif message.kind == TokenClass.FINAL:
                answer = answer_of(said)
        if _is_meant_as_call(segment, whole=bool(messages)) and not any(message.recipient for message in messages):
            call = Call("", segment, parses=False)
    return Did(call, answer)


def _is_meant_as_call(segment: str, *, whole: bool) -> bool:
    """Of what has no recipient: broken, or with more in its header than the channel, as `commentary tofunctions.f`."""
    header, *_ = segment.split(MESSAGE, 1)
    channel = CHANNEL.search(header)
    if channel is None or not channel[1].startswith(_FOR_CALLS):
        return False
    return not whole or channel[1] != _FOR_CALLS or header[channel.end() :].strip() != ""


def call_of(recipient: str, arguments: str) -> Call:
    """Of arguments as they were written; nested deeper than DEEPEST they are none that a function takes."""
    try:
        parsed = parse_json(arguments.encode(), what="the arguments")
    except (UserError, UnicodeEncodeError):
        return Call(recipient, arguments, parses=False)
    if _is_deeper(parsed, DEEPEST):
        return Call(recipient, arguments, parses=False)
    return Call(recipient, arguments, parses=True, parsed=parsed)


def _is_deeper(value: Any, levels: int) -> bool:
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_deeper(inner, levels - 1) for inner in within)


@dataclass(frozen=True)
class Judged:
    """Of a call, against the functions that were offered. Each needs those before it."""

    parses: bool
    offered: bool
    suits: bool


def judge_call(call: Call, offered: Mapping[str, Function]) -> Judged:
    """A function that is not offered has a signature that nothing suits; arguments that are no JSON suit one that takes
    text."""
    function = offered.get(call.recipient)
    takes_text = function is not None and not function.takes_json
    parses = takes_text or (call.parses and isinstance(call.parsed, dict))
    return Judged(
        parses=parses,
        offered=function is not None,
        suits=function is not None and parses and function.suits(call.parsed),
    )


def repeated_share(tokens: Sequence[int]) -> float:
    """Of all stretches of GRAM tokens, the share that stood before in the same turn; 0 of a turn that is shorter."""
    grams = [tuple(tokens[place : place + GRAM]) for place in range(len(tokens) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _canonical(value: Any) -> str:
    """1 and 1.0 are one number, true is none."""
    return json.dumps(_numbers(value), sort_keys=True)


def _numbers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    return [_numbers(inner) for inner in value] if isinstance(value, list) else value
