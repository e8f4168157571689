"""Where the assistant speaks: character spans of completion text in a Harmony conversation (SPEC section 2).

A message is `<|start|>HEADER<|message|>CONTENT`, CONTENT reaching to the first of `<|end|>`, `<|call|>`,
`<|return|>` (or to the end of the text). Its role is HEADER before `<|channel|>`, stripped. Every message of role
`assistant` counts, whatever its channel; a tool result (`functions.x to=assistant`) does not.
"""

import re

MESSAGE = re.compile(
    r"<\|start\|>(?P<header>.*?)<\|message\|>(?P<content>.*?)(?:<\|end\|>|<\|call\|>|<\|return\|>|\Z)",
    re.DOTALL,
)


def is_assistant(header: str) -> bool:
    role = header.split("<|channel|>", 1)[0].strip()
    return role == "assistant" or role.startswith("assistant ")


def completion_spans(text: str) -> list[tuple[int, int]]:
    """Half-open, non-empty, ascending character spans of the content of every assistant message in `text`."""
    return [
        message.span("content")
        for message in MESSAGE.finditer(text)
        if is_assistant(message["header"]) and message["content"]
    ]
