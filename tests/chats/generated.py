"""The fixture's generator's conversations as `messages`, as a user has them."""

import json
import re
from collections.abc import Iterator
from random import Random
from typing import Any

from conversations.aside import with_asides
from conversations.corpus import PACKS

_MESSAGE = re.compile(r"<\|start\|>(.*?)<\|message\|>(.*?)<\|(?:end|call|return)\|>", re.DOTALL)
_CALL = re.compile(r"assistant<\|channel\|>commentary to=functions\.(\S+) <\|constrain\|>json")


def texts(pack: str, rows: int, *, seed: int = 11) -> list[str]:
    rngs = (Random(f"{seed}:{pack}:{index}") for index in range(rows))
    return [with_asides(rng, PACKS[pack](rng)).text for rng in rngs]


def messages_of(text: str) -> list[dict[str, Any]]:
    """OpenAI's form: reasoning beside what it leads to, calls with ids, results by them."""
    messages: list[dict[str, Any]] = []
    reasoning = ""
    for number, (header, content) in enumerate(_MESSAGE.findall(text)):
        thought = {"reasoning_content": reasoning} if reasoning else {}
        if header == "assistant<|channel|>analysis":
            if reasoning:
                messages.append({"role": "assistant", "content": None, **thought})
            reasoning = content
            continue
        if call := _CALL.fullmatch(header):
            function = {"name": call[1], "arguments": content}
            calls = [{"id": f"call_{number}", "type": "function", "function": function}]
            messages.append({"role": "assistant", "content": None, "tool_calls": calls, **thought})
        elif header.startswith("functions."):
            messages.append({"role": "tool", "tool_call_id": messages[-1]["tool_calls"][0]["id"], "content": content})
        elif header == "assistant<|channel|>final":
            messages.append({"role": "assistant", "content": content, **thought})
        else:
            messages.append({"role": header, "content": content})
        reasoning = ""
    return messages


def lines(pack: str, rows: int, *, seed: int = 11) -> Iterator[str]:
    for text in texts(pack, rows, seed=seed):
        yield json.dumps({"messages": messages_of(text)})
