"""Conversations of the embedded packs as `messages`, as a user has them."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
PACKS = ("chat", "reasoning", "tool_agentic")
_MESSAGE = re.compile(r"<\|start\|>(.*?)<\|message\|>(.*?)<\|(?:end|call|return)\|>", re.DOTALL)
_CALL = re.compile(r"assistant<\|channel\|>commentary to=functions\.(\S+) <\|constrain\|>json")


def texts_of(pack: str, split: str = "gate") -> list[str]:
    read: list[str] = pq.read_table(FIXTURES / "packs" / split / f"{pack}.parquet")["text"].to_pylist()
    return read


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


def sharegpt_of(messages: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """The same as ShareGPT has it; it has no place for reasoning."""
    turns = []
    for message in messages:
        role = message["role"]
        if calls := message.get("tool_calls"):
            function = calls[0]["function"]
            said = {"name": function["name"], "arguments": json.loads(function["arguments"])}
            turns.append({"from": "function_call", "value": json.dumps(said)})
        elif message["content"] is not None:
            name = {"user": "human", "assistant": "gpt", "tool": "observation"}.get(role, role)
            turns.append({"from": name, "value": message["content"]})
    return turns


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
