"""A Chat as the Harmony text that a model is served, and writes (format.md of openai/harmony).

An assistant's reasoning is a message on the channel analysis, its answer one on final, what it says beside calls one
on commentary, and a call one on commentary with a recipient, closed by `<|call|>`. The recipient stands in the channel,
where the model writes it; openai-harmony, which servers render history with, writes it into the role. What data call
a system message are instructions to Harmony, in its developer message; its system message says who the model is, how
much it is to reason, and the channels.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from eaftgate.chats.chat import Chat, Effort, Message
from eaftgate.chats.typescript import tools_section

Preamble = Literal["full", "effort", "none"]
IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
CUTOFF = "2024-06"
CHANNELS = "# Valid channels: analysis, commentary, final. Channel must be included for every message."
TO_FUNCTIONS = "Calls to these tools must go to the commentary channel: 'functions'."
_EFFORT_ALONE = re.compile(r"Reasoning: (?:low|medium|high)")
_TOOLS = "# Tools\n"
_HARMONYS_OWN = ("# Instructions\n", _TOOLS)


@dataclass(frozen=True)
class Rendering:
    """`preamble`: the system message, whole, its effort alone, or none. `effort` is of rows that say none, `date` what
    the system message calls today. `keep_analysis`: of earlier turns, which servers do not give to the model again."""

    preamble: Preamble = "full"
    effort: Effort = "medium"
    date: str | None = None
    keep_analysis: bool = True


def harmony_text(chat: Chat, rendering: Rendering) -> str:
    parts = list(_parts(chat, rendering))
    # A model that has answered is done; earlier answers are followed by more, and so merely end.
    if parts[-1].startswith("<|start|>assistant<|channel|>final"):
        parts[-1] = parts[-1].removesuffix("<|end|>") + "<|return|>"
    return "".join(parts)


def _parts(chat: Chat, rendering: Rendering) -> Iterator[str]:
    begun = opening(chat, rendering)
    messages = list(begun.messages if rendering.keep_analysis else without_earlier_analysis(begun.messages))
    if begun.own or rendering.preamble != "none":
        yield _message("system", begun.own or system_text(begun.effort, rendering, has_tools=bool(chat.tools)))
    tools = tools_section(chat.tools) if chat.tools else ""
    instructing = next((i for i, m in enumerate(messages) if m.role in ("system", "developer")), None)
    if tools and instructing != 0:
        yield _message("developer", tools)
        tools = ""
    for number, message in enumerate(messages):
        yield from _rendered(message, tools if number == instructing else "")


@dataclass(frozen=True)
class Opening:
    """What a conversation begins with: Harmony's `own` system message, where the data have one, else what to make it
    of; and the `messages` after it."""

    own: str
    effort: Effort
    messages: tuple[Message, ...]


def opening(chat: Chat, rendering: Rendering) -> Opening:
    effort = chat.effort or rendering.effort
    if chat.messages and chat.messages[0].role == "system":
        said = chat.messages[0].content or ""
        if said.startswith(IDENTITY) or _EFFORT_ALONE.fullmatch(said):
            return Opening(said, effort, chat.messages[1:])
    return Opening("", effort, chat.messages)


def system_text(effort: Effort, rendering: Rendering, *, has_tools: bool) -> str:
    if rendering.preamble == "effort":
        return f"Reasoning: {effort}"
    today = [f"Current date: {rendering.date}"] if rendering.date else []
    channels = [CHANNELS, TO_FUNCTIONS] if has_tools else [CHANNELS]
    sections = ([IDENTITY, f"Knowledge cutoff: {CUTOFF}", *today], [f"Reasoning: {effort}"], channels)
    return "\n\n".join("\n".join(lines) for lines in sections)


def instructions(text: str, tools: str = "") -> str:
    """The content of a developer message; one that is Harmony's own already stays as it is."""
    said = text if is_harmonys_own(text) else f"# Instructions\n\n{text}"
    return "\n\n".join(part for part in (said, tools) if part)


def is_harmonys_own(text: str) -> bool:
    return text.startswith(_HARMONYS_OWN)


def describes_tools(message: Message) -> bool:
    """Whether it is Harmony's own developer message, and has the tools in it."""
    text = message.content or ""
    return message.role in ("system", "developer") and is_harmonys_own(text) and f"\n{_TOOLS}" in f"\n{text}"


def without_earlier_analysis(messages: tuple[Message, ...]) -> Iterator[Message]:
    """Without the reasoning of turns that ended in an answer and were followed by the user: what a server leaves out of
    the history. Reasoning between calls stays until there is an answer."""
    users = [number for number, message in enumerate(messages) if message.role == "user"]
    answers = [n for n, m in enumerate(messages) if is_answer(m) and users and n < users[-1]]
    last = answers[-1] if answers else -1
    for number, message in enumerate(messages):
        if number > last or message.reasoning is None:
            yield message
        elif message.content is not None or message.calls:
            yield Message(message.role, message.content, None, message.calls, message.name, message.commentary)


def is_answer(message: Message) -> bool:
    return message.role == "assistant" and message.content is not None and not message.calls and not message.commentary


def _rendered(message: Message, tools: str) -> Iterator[str]:
    if message.role in ("system", "developer"):
        yield _message("developer", instructions(message.content or "", tools))
    elif message.role == "user":
        yield _message("user", message.content or "")
    elif message.role == "tool":
        yield _message(f"{message.name} to=assistant<|channel|>commentary", message.content or "")
    else:
        if message.reasoning:
            yield _message("assistant<|channel|>analysis", message.reasoning)
        if message.content is not None:
            yield _message(f"assistant<|channel|>{'final' if is_answer(message) else 'commentary'}", message.content)
        for call in message.calls:
            header = f"assistant<|channel|>commentary to={call.name} <|constrain|>json"
            yield _message(header, call.arguments, "<|call|>")


def _message(header: str, content: str, close: str = "<|end|>") -> str:
    return f"<|start|>{header}<|message|>{content}{close}"
