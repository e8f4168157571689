"""Where the assistant speaks in a Harmony conversation, and what its words are for (SPEC section 2).

A message is `<|start|>HEADER<|message|>CONTENT`, CONTENT reaching to the first of `<|end|>`, `<|call|>`, `<|return|>`
(the last message of a text may lack it). Its role is HEADER before `<|channel|>`, stripped. Every message of role
`assistant` counts, whatever its channel; a tool result (`functions.x to=assistant`) does not.

A model asked for an assistant's message is given `<|start|>assistant` and writes all that follows: the rest of the
header, with the function's name in it, the content, and the token that closes it.
"""

import re
from dataclasses import dataclass
from enum import IntEnum

START, MESSAGE = "<|start|>", "<|message|>"
CLOSING = re.compile(r"<\|(?:end|call|return)\|>")
_ROLE = "assistant"
_INSTRUCTIONS = re.compile(r"<\|start\|>(?:system|developer)<\|message\|>(.*?)<\|end\|>", re.DOTALL)
_TOOLS = re.compile(r"^# Tools$.*", re.DOTALL | re.MULTILINE)
CHANNEL = re.compile(r"<\|channel\|>\s*([^\s<]*)")
_RECIPIENT = re.compile(r"(?:^|(?<=[\s>]))to=([^\s<]+)")

Span = tuple[int, int]
"""Half-open, of characters."""


class TokenClass(IntEnum):
    """What a token is to the conversation; NONE is not the assistant's."""

    NONE = 0
    HEADER = 1
    ANALYSIS = 2
    FINAL = 3
    COMMENTARY = 4
    CALL = 5
    OTHER = 6
    """Content of no or an unknown channel."""
    CLOSE = 7


_CHANNELS = {kind.name.lower(): kind for kind in (TokenClass.ANALYSIS, TokenClass.FINAL, TokenClass.COMMENTARY)}


class MalformedRow(ValueError):
    """A text that is not a Harmony conversation; the message says what is wrong, and at which character."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the assistant's. `header` begins after the role word and ends with `<|message|>`; `close` is None
    where the text ends first; `recipient` is the name after `to=`; `kind` is the class of the content."""

    header: Span
    recipient: Span | None
    content: Span
    close: Span | None
    kind: TokenClass

    def moved(self, by: int) -> "Message":
        """The same in a text that has `by` more characters before it."""
        header, recipient, content, close = (
            span and (span[0] + by, span[1] + by) for span in (self.header, self.recipient, self.content, self.close)
        )
        assert header is not None and content is not None  # noqa: PT018
        return Message(header, recipient, content, close, self.kind)


def assistant_messages(text: str) -> list[Message]:
    """The assistant's messages, in order. Every character is searched a fixed number of times, whatever the text.

    Raises MalformedRow for a message without `<|message|>`, or one that is not closed before the next `<|start|>`: only
    the last message may be cut off.
    """
    messages = []
    start = text.find(START)
    while start >= 0:
        header = start + len(START)
        following = text.find(START, header)
        limit = len(text) if following < 0 else following
        message = text.find(MESSAGE, header, limit)
        cut = CLOSING.search(text, header, limit)
        if message < 0 or (cut and cut.start() < message):
            if following < 0 and not cut:
                break  # what a model would be given to go on with
            raise MalformedRow(f"the message at character {start} has no {MESSAGE}")
        begin = message + len(MESSAGE)
        closing = CLOSING.search(text, begin, limit)
        if closing is None and following >= 0:
            raise MalformedRow(f"the message at character {start} is not closed before the next {START}")
        if found := _assistant(text, header, message, begin, closing.span() if closing else None):
            messages.append(found)
        start = following
    return messages


def _assistant(text: str, header: int, message: int, begin: int, close: Span | None) -> Message | None:
    """The message whose header lies between `header` and `message`, if it is the assistant's."""
    said = text[header:message]
    role, *_ = said.split("<|channel|>", 1)
    name = role.strip()
    if name != _ROLE and not name.startswith((f"{_ROLE} ", f"{_ROLE}:")):
        return None
    word = header + role.index(_ROLE) + len(_ROLE)
    to = _RECIPIENT.search(text, word, message)
    channel = CHANNEL.search(said)
    kind = _CHANNELS.get(channel[1], TokenClass.OTHER) if channel else TokenClass.OTHER
    return Message(
        header=(word, begin),
        recipient=to.span(1) if to else None,
        content=(begin, close[0] if close else len(text)),
        close=close,
        kind=TokenClass.CALL if to else kind,
    )


def tools_of(text: str) -> str:
    """What the system and developer messages say of tools: from `# Tools` to the end of each."""
    found = (_TOOLS.search(message[1]) for message in _INSTRUCTIONS.finditer(text))
    return "\n".join(match[0] for match in found if match)
