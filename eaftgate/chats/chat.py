"""A conversation as people have it, in one form, and why a row of chat data is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]
Effort = Literal["low", "medium", "high"]
EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")


class LeftOut(ValueError):
    """A row that makes no conversation. `reason` is one of a few, by which rows are counted; `said` is of this one."""

    def __init__(self, reason: str, said: str = "") -> None:
        super().__init__(f"{reason}: {said}" if said else reason)
        self.reason = reason


@dataclass(frozen=True)
class Call:
    """`name` is the recipient (functions.NAME), `arguments` JSON, as it was written where it was text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """`content` is None where a message has none. An assistant's `reasoning` comes before its content, its `calls`
    after. With a `commentary` the content is no answer. Of a tool's message, `name` is who it is from."""

    role: Role
    content: str | None = None
    reasoning: str | None = None
    calls: tuple[Call, ...] = ()
    name: str = ""
    commentary: bool = False


@dataclass(frozen=True)
class Tool:
    """A function that may be called; `parameters` is a JSON schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Chat:
    """`effort` is None where the row says none. `not_read` names what messages hold that no rendering takes."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    effort: Effort | None = None
    not_read: tuple[str, ...] = ()
