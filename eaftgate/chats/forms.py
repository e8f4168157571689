"""A row of chat data, in the forms that people have it in, to a Chat.

OpenAI: `role` and `content` (text, or a list of parts that are text), reasoning beside it (`reasoning_content`,
`reasoning`, `thinking`) or in a `channel` of its own, `tool_calls`, the older `function_call`, a `recipient` as
openai-harmony's own messages have it, results by `tool_call_id` or `name`.
ShareGPT: `from` and `value`. Both may be mixed; either column may hold JSON text.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from eaftgate.chats.chat import EFFORTS, Call, Chat, LeftOut, Message, Role, Tool
from eaftgate.chats.harmony import describes_tools
from eaftgate.errors import UserError
from eaftgate.strict_json import parse_json, shown

NAMESPACE = "functions."
SPECIAL = re.compile(
    r"<\|(?:start|end|message|channel|constrain|return|call|startoftext|endoftext|endofprompt|reserved_\d+)\|>"
)
"""What a tokenizer of Harmony makes single tokens of: in a content it would be structure that nobody wrote."""
_NAME = re.compile(r"[^\s<>|=\"']{1,200}")
_ROLES: dict[str, Role] = {
    "system": "system", "developer": "developer", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "model": "assistant", "chatgpt": "assistant", "bot": "assistant", "function_call": "assistant",
    "tool_call": "assistant", "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool",
    "function_response": "tool",
}  # fmt: skip
_CALLING = ("function_call", "tool_call")
_REASONING = ("reasoning_content", "reasoning", "thinking")
_PARTS = ("text", "input_text", "output_text")
_READ = {
    *("role", "from", "content", "value", "name", "channel", "tool_calls", "tool_call_id", "function_call"),
    *("recipient", "content_type", *_REASONING),
}
_TO_ALL = (None, "", "all")
_JSON = ("json", "<|constrain|>json")


def chat_of(messages: Any, tools: Any = None, effort: Any = None, system: Any = None) -> Chat:
    """`system` stands before the messages, as in some data of ShareGPT's form. Raises LeftOut for what is no
    conversation, or holds a special token."""
    found = _from_text(messages, "the messages")
    if not isinstance(found, list) or not found:
        raise LeftOut("no list of messages", shown(messages))
    reader = _Reader()
    if isinstance(system, str) and system:
        found = [{"role": "system", "content": system}, *found]
    read = tuple(reader.message(number, each) for number, each in enumerate(found))
    offered = _tools(tools)
    if offered and any(describes_tools(message) for message in read):
        offered = ()
        reader.not_read.add("tools beside the developer's own")
    return Chat(read, offered, _effort(effort), tuple(sorted(reader.not_read)))


class _Reader:
    """Reads messages in order: results are told from the calls before them."""

    def __init__(self) -> None:
        self.name_of: dict[str, str] = {}
        self.waiting: list[tuple[str, str]] = []
        """Id and name of the calls since the user spoke that have no result yet."""
        self.not_read: set[str] = set()

    def message(self, number: int, each: Any) -> Message:
        if not isinstance(each, Mapping):
            raise LeftOut("a message is no object", f"message {number} is {shown(each)}")
        role, said = _role(each, number)
        self.not_read |= _passed_over(each, role)
        value = _one_of(each.get("content"), each.get("value"), "contents", number)
        if role == "tool":
            return Message("tool", _content(value, number, whole=True) or "", name=self._answering(each, number))
        if role == "user":
            self.waiting = []
        if role != "assistant":
            if (text := _content(value, number)) is None:
                raise LeftOut("a message without content", f"message {number}, of {role}")
            return Message(role, text)
        if said in _CALLING:
            calls = _from_text(value, f"the call of message {number}")
            return Message("assistant", calls=self._calls(calls if isinstance(calls, list) else [calls], number))
        return self._assistant(each, value, number)

    def _assistant(self, each: Mapping[str, Any], value: Any, number: int) -> Message:
        reasoning = _reasoning(each, number)
        content = _content(value, number) or None
        called = list(_listed(each.get("tool_calls"), number))
        if function_call := each.get("function_call"):
            called.append(_from_text(function_call, f"the call of message {number}"))
        if (to := each.get("recipient")) not in _TO_ALL:
            if called or not isinstance(to, str) or not to.startswith(NAMESPACE):
                raise LeftOut("a recipient that is no function alone", f"message {number} has {shown(to)}")
            called, content = [{"name": to, "arguments": content}], None
        calls = self._calls(called, number)
        channel = each.get("channel")
        if channel == "analysis" and content is not None:
            content, reasoning = None, "\n".join(part for part in (reasoning, content) if part)
        elif channel not in (None, "", "analysis", "commentary", "final"):
            raise LeftOut("unknown channel", f"message {number} has {shown(channel)}")
        if content is None and not reasoning and not calls:
            raise LeftOut("an assistant message says nothing", f"message {number}")
        return Message("assistant", content, reasoning or None, calls, commentary=channel == "commentary")

    def _calls(self, found: Sequence[Any], number: int) -> tuple[Call, ...]:
        calls = []
        for each in found:
            function = each.get("function", each) if isinstance(each, Mapping) else None
            if isinstance(function, str):  # {"function": NAME, "arguments": ...}
                function = each
            if not isinstance(function, Mapping):
                raise LeftOut("a call is no object", f"message {number} has {shown(each)}")
            named = function.get("name", function.get("function"))
            name = _recipient(named, f"message {number}")
            arguments = _arguments(function.get("arguments", function.get("parameters")), name, number)
            calls.append(Call(name, arguments))
            call_id = _id(each.get("id"))
            if call_id and any(other == call_id and called != name for other, called in self.waiting):
                raise LeftOut("two calls of one id", f"message {number} has {shown(call_id)}")
            self.waiting.append((call_id, name))
            if call_id:
                self.name_of[call_id] = name
        return tuple(calls)

    def _answering(self, each: Mapping[str, Any], number: int) -> str:
        """Whose result it is: of the call with its id, by its own name, or of the first call that waits for one."""
        of = _id(each.get("tool_call_id"))
        name = _recipient(each["name"], f"message {number}") if each.get("name") else None
        if of and self.name_of:
            if of not in self.name_of:
                raise LeftOut("a tool result of no call", f"message {number} answers {shown(of)}")
            if name not in (None, self.name_of[of]):
                raise LeftOut("a tool result of two calls", f"message {number} answers {shown(of)} and names {name}")
            name = self.name_of[of]
            self.waiting = [call for call in self.waiting if call[0] != of]
            return name
        if name is None and not self.waiting:
            raise LeftOut("a tool result of no call", f"message {number}")
        position = next((n for n, (_, called) in enumerate(self.waiting) if name in (None, called)), None)
        return self.waiting.pop(position)[1] if position is not None else str(name)


def _role(each: Mapping[str, Any], number: int) -> tuple[Role, str]:
    """The role, and by which name."""
    found = [name for name in (each.get("role"), each.get("from")) if name is not None] or [None]
    roles = {_ROLES.get(name.lower()) if isinstance(name, str) else None for name in found}
    role = roles.pop()
    if role is None or roles:
        raise LeftOut("unknown role", f"message {number} has {' and '.join(map(shown, found))}")
    return role, str(found[0]).lower()


def _passed_over(each: Mapping[str, Any], role: Role) -> set[str]:
    """What a message says that no text will show."""
    found = {str(key) for key, value in each.items() if key not in _READ and value not in (None, "", [], {})}
    if role != "tool":
        found |= {f"{key} of {role}" for key in ("name", "tool_call_id") if each.get(key)}
    if role != "assistant":
        found |= {f"{key} of {role}" for key in ("tool_calls", "function_call", *_REASONING) if each.get(key)}
        if each.get("channel") not in (None, "", "commentary" if role == "tool" else None):
            found.add(f"channel of {role}")
        if each.get("recipient") not in (*_TO_ALL, *(("assistant",) if role == "tool" else ())):
            found.add(f"recipient of {role}")
    if each.get("content_type") not in (None, "", *_JSON):
        found.add("content_type")
    return found


def _one_of(first: Any, second: Any, what: str, number: int) -> Any:
    if first is not None and second is not None and first != second:
        raise LeftOut(f"two {what} in one message", f"message {number}")
    return second if first is None else first


def _id(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _recipient(name: Any, where: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not name.isprintable():
        raise LeftOut("a tool without a name", f"{where} has {shown(name)}")
    return name if name.startswith(NAMESPACE) else f"{NAMESPACE}{name}"


def _arguments(value: Any, name: str, number: int) -> str:
    """Text stays as it is, if it is JSON; an object is written without blanks, as the model writes it."""
    where = f"message {number} calls {name} with"
    if value is None:
        return "{}"
    if isinstance(value, str):
        if not value.strip():
            return "{}"
        try:
            parse_json(value.encode(), what="it")
        except (UserError, UnicodeError):
            raise LeftOut("arguments of a call are not JSON", f"{where} {shown(value)}") from None
        return _safe(value, number)
    if not isinstance(value, Mapping | list):
        raise LeftOut("arguments of a call are not JSON", f"{where} {shown(value)}")
    return _safe(compact(value), number)


def _content(value: Any, number: int, *, whole: bool = False) -> str | None:
    """`whole`: what is no text is written as JSON, as of a tool that returns an object."""
    if value is None or isinstance(value, str):
        return None if value is None else _safe(value, number)
    parts = value if isinstance(value, list) else [value]
    kinds = [part.get("type", "text") if isinstance(part, Mapping) else "text" for part in parts]
    found = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    if isinstance(value, list) and len(texts) == len(found) and set(kinds) <= set(_PARTS):
        return _safe("".join(texts), number)
    if whole and (
        isinstance(value, Mapping | int | float) or not any(isinstance(p, Mapping) and "type" in p for p in parts)
    ):
        return _safe(compact(value), number)
    other = next((kind for kind in kinds if kind not in _PARTS), value)
    raise LeftOut("content that is no text", f"message {number} has {shown(other)}")


def _reasoning(each: Mapping[str, Any], number: int) -> str | None:
    found = {text for key in _REASONING if (text := _content(each.get(key), number))}
    if len(found) > 1:
        raise LeftOut("two reasonings in one message", f"message {number}")
    return found.pop() if found else None


def _safe(text: str, number: int) -> str:
    if found := SPECIAL.search(text):
        raise LeftOut("a special token in a content", f"message {number} has {found[0]}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise LeftOut("text that is no Unicode", f"message {number} has half of a surrogate pair") from None
    return text


def _tools(value: Any) -> tuple[Tool, ...]:
    found = _from_text(value, "tools")
    if found is None or found in ("", [], {}):
        return ()
    if not isinstance(found, list):
        raise LeftOut("tools are no list", shown(value))
    if token := SPECIAL.search(compact(found)):
        raise LeftOut("a special token in a content", f"tools have {token[0]}")
    tools = []
    for each in found:
        told = each.get("function", each) if isinstance(each, Mapping) else None
        if not isinstance(told, Mapping):
            raise LeftOut("a tool is no object", shown(each))
        name = _recipient(told.get("name"), "tools").removeprefix(NAMESPACE)
        description = told.get("description") or ""
        parameters = _from_text(told.get("parameters", told.get("input_schema")), f"parameters of {name}") or None
        if not isinstance(description, str) or not isinstance(parameters, Mapping | None):
            raise LeftOut("a tool's schema is none", name)
        tools.append(Tool(name, description, parameters))
    return tuple(tools)


def _effort(value: Any) -> Any:
    said = value.lower() if isinstance(value, str) else value
    if said in (None, ""):
        return None
    if said not in EFFORTS:
        raise LeftOut("unknown reasoning effort", shown(value))
    return said


def _listed(value: Any, number: int) -> Sequence[Any]:
    found = _from_text(value, f"calls of message {number}")
    if found is None or found == "":
        return []
    if not isinstance(found, list):
        raise LeftOut("calls are no list", f"message {number} has {shown(value)}")
    return found


def _from_text(value: Any, what: str) -> Any:
    """What stands in a text that is JSON; anything else as it is."""
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return parse_json(value.encode("utf-8", "surrogatepass"), what=what)
    except UserError as error:
        raise LeftOut("not JSON", str(error)) from None


def compact(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # bytes and times of a Parquet file, NaN, nested too deeply
        raise LeftOut("what JSON cannot say", shown(value)) from None
