"""A Chat as the chat template of a checkpoint renders it, the one that serves it where no Harmony renderer does."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from eaftgate.chats.chat import Chat, LeftOut, Message
from eaftgate.chats.forms import NAMESPACE
from eaftgate.chats.harmony import Rendering
from eaftgate.checkpoint.source import resolve
from eaftgate.errors import UserError
from eaftgate.files import read_regular
from eaftgate.strict_json import MAX_JSON_BYTES, read_object

REFUSED = "the checkpoint's template refuses it"
_TODAY = "strftime_now"
_FIRST_CALL = "tool_calls[0]"
"""In a template of Harmony: all but the first call of a message would be passed over."""
_FORM = re.compile(rf"{_TODAY}\(\s*[\"']([^\"']*)[\"']\s*\)")
_SAYS_TODAY = "{% macro strftime_now(form) %}{{ eaftgate_dates[form] }}{% endmacro %}"
"""Before a template, so that its today is a date that was given: what is passed to a template cannot be called."""


def template_renderer(base: str, rendering: Rendering) -> tuple[Callable[[Chat], str], str]:
    """The renderer, and the template. Raises UserError when the checkpoint has none, or it asks for a date and none is
    given: the same data would make another pack every day."""
    checkpoint = resolve(base, weights=False)
    template = _template(checkpoint)
    if _TODAY in template and rendering.date is None:
        raise UserError(
            f"the chat template of {base} writes today's date: give --date YYYY-MM-DD, so that it stays one"
        )
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoint), trust_remote_code=False)
    except Exception as error:  # whatever a damaged tokenizer makes of transformers
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"the tokenizer of {base} cannot be loaded ({reason}): take a fresh copy of it") from None

    dated = _TODAY in template and rendering.date is not None
    dates = {form: date.fromisoformat(str(rendering.date)).strftime(form) for form in _FORM.findall(template) if dated}
    written = _SAYS_TODAY + template if dated else template

    takes_one_call = _FIRST_CALL in template

    def render(chat: Chat) -> str:
        if takes_one_call and any(len(message.calls) > 1 for message in chat.messages):
            raise LeftOut(REFUSED, "it takes one call of a message")
        tools = [{"type": "function", "function": _tool(t.name, t.description, t.parameters)} for t in chat.tools]
        try:
            text = tokenizer.apply_chat_template(
                [_message(message) for message in chat.messages], tools=tools or None,
                chat_template=written,
                tokenize=False, reasoning_effort=chat.effort or rendering.effort, eaftgate_dates=dates,
            )  # fmt: skip
        except Exception as error:  # a template raises what it likes
            raise LeftOut(REFUSED, " ".join(str(error).split())[:300]) from None
        return str(text)

    return render, template


def _template(checkpoint: Path) -> str:
    beside, config = checkpoint / "chat_template.jinja", checkpoint / "tokenizer_config.json"
    if beside.exists():
        try:
            return read_regular(beside, what="chat template", limit=MAX_JSON_BYTES).decode()
        except UnicodeDecodeError:
            raise UserError(f"{beside} is not UTF-8: take a fresh copy of it") from None
    told = read_object(config, what="the tokenizer's configuration").get("chat_template") if config.exists() else None
    if not isinstance(told, str):
        raise UserError(f"{checkpoint} has no chat template: leave --template out, which writes Harmony")
    return told


def _message(message: Message) -> dict[str, Any]:
    """As templates know them: that of Harmony reads the reasoning from `thinking`, others from `reasoning_content`."""
    told: dict[str, Any] = {"role": message.role}
    if message.content is not None:
        told["content"] = message.content
    if message.reasoning:
        told |= {"thinking": message.reasoning, "reasoning_content": message.reasoning}
    if message.calls:
        told["tool_calls"] = [
            {"type": "function", "function": {"name": _bare(call.name), "arguments": json.loads(call.arguments)}}
            for call in message.calls
        ]
    if message.name:
        told["name"] = _bare(message.name)
    return told


def _bare(name: str) -> str:
    return name.removeprefix(NAMESPACE)


def _tool(name: str, description: str, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"name": name, "description": description, "parameters": parameters}
