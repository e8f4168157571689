"""Where the assistant speaks: character spans of completion text in a Harmony conversation (SPEC section 2).

A message is `<|start|>HEADER<|message|>CONTENT`, CONTENT reaching to the first of `<|end|>`, `<|call|>`,
`<|return|>` (or to the end of the text). Its role is HEADER before `<|channel|>`, stripped. Every message of role
`assistant` counts, whatever its channel; a tool result (`functions.x to=assistant`) does not.
"""

import re

START, MESSAGE = "<|start|>", "<|message|>"
CLOSING = re.compile(r"<\|(?:end|call|return)\|>")


def is_assistant(header: str) -> bool:
    role = header.partition("<|channel|>")[0].strip()
    return role == "assistant" or role.startswith("assistant ")


def completion_spans(text: str) -> list[tuple[int, int]]:
    """Half-open, non-empty, ascending character spans of the content of every assistant message in `text`.

    Every character is searched a fixed number of times, whatever the text.
    """
    spans = []
    end = 0
    while (start := text.find(START, end)) >= 0 and (message := text.find(MESSAGE, start + len(START))) >= 0:
        begin = message + len(MESSAGE)
        closing = CLOSING.search(text, begin)
        content_end, end = closing.span() if closing else (len(text), len(text))
        if begin < content_end and is_assistant(text[start + len(START) : message]):
            spans.append((begin, content_end))
    return spans
