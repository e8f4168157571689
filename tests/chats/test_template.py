"""A checkpoint's own chat template renders packs, too, as long as it writes Harmony."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chat_data import FIXTURES, write_lines
from cli_command import Command, refused

TEMPLATE = """{%- for m in messages -%}
{%- if m.role == "tool" -%}<|start|>functions.{{ m.name }} to=assistant<|channel|>commentary<|message|>{{ m.content }}
{%- elif m.role == "assistant" -%}
{%- if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif -%}
{%- for call in m.tool_calls or [] -%}
{%- set f = call.function -%}
<|start|>assistant to=functions.{{ f.name }}<|channel|>commentary json<|message|>{{ f.arguments|tojson }}<|call|>
{%- endfor -%}
{%- if m.content %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}{% endif -%}
{%- else -%}<|start|>{{ m.role }}<|message|>{{ m.content }}
{%- if m.content == "refuse" %}{{ raise_exception("no, thank you") }}{% endif -%}
{%- endif -%}
{%- if not m.tool_calls %}<|end|>{% endif -%}
{%- endfor -%}"""
ROW = {
    "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "reasoning": "b", "tool_calls": [{"function": {"name": "f", "arguments": '{"x":1}'}}]},
        {"role": "tool", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
}
RENDERED = (
    "<|start|>user<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>"
    '<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"x": 1}<|call|>'
    "<|start|>functions.f to=assistant<|channel|>commentary<|message|>c<|end|>"
    "<|start|>assistant<|channel|>final<|message|>d<|end|>"
)


def checkpoint(directory: Path, template: str | None, *, beside: bool = True) -> Path:
    """The embedded one's tokenizer, with a chat template in a file of its own or in the configuration."""
    directory.mkdir()
    for name in ("tokenizer.json", "config.json"):
        shutil.copy(FIXTURES / "checkpoint" / name, directory)
    told = json.loads((FIXTURES / "checkpoint" / "tokenizer_config.json").read_text())
    if template is not None and beside:
        (directory / "chat_template.jinja").write_text(template)
    elif template is not None:
        told["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps(told))
    return directory


@pytest.mark.parametrize("beside", [True, False])
def test_the_template_is_what_renders(eaftgate: Command, tmp_path: Path, beside: bool) -> None:
    base = checkpoint(tmp_path / "base", TEMPLATE, beside=beside)
    data = write_lines(tmp_path / "x.jsonl", [ROW, {"messages": [{"role": "user", "content": "refuse"}]}])
    asked = ("--template", "checkpoint", "--base", base, "--out", tmp_path / "o")
    ended = eaftgate("packs", "build", data, *asked)
    assert ended.code == 0, ended.err
    assert pq.read_table(tmp_path / "o" / "x.parquet")["text"].to_pylist() == [RENDERED]
    assert "the checkpoint's template refuses it" in ended.out
    assert "no, thank you" in ended.out
    assert "is up to date" in eaftgate("packs", "build", data, *asked).out


def test_a_call_that_a_template_would_pass_over_is_not_lost(eaftgate: Command, tmp_path: Path) -> None:
    base = checkpoint(
        tmp_path / "base", TEMPLATE.replace("m.tool_calls or []", "([m.tool_calls[0]] if m.tool_calls else [])")
    )
    call = {"function": {"name": "f", "arguments": "{}"}}
    two = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call, call]}]}
    data = write_lines(tmp_path / "x.jsonl", [ROW, two])
    ended = eaftgate("packs", "build", data, "--template", "checkpoint", "--base", base, "--out", tmp_path / "o")
    assert "it takes one call of a message" in ended.out
    assert pq.read_table(tmp_path / "o" / "x.parquet")["text"].to_pylist() == [RENDERED]


def test_another_template_is_another_pack(eaftgate: Command, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "x.jsonl", [ROW])
    for name, template in {"a": TEMPLATE, "b": TEMPLATE.replace("final", "commentary")}.items():
        base = checkpoint(tmp_path / name, template)
        ended = eaftgate("packs", "build", data, "--template", "checkpoint", "--base", base, "--out", tmp_path / "o")
    assert (ended.code, "another template_sha256" in ended.err) == (2, True)


def test_a_template_that_writes_the_date_needs_one(eaftgate: Command, tmp_path: Path) -> None:
    base = checkpoint(
        tmp_path / "base",
        '{% macro s() %}{{ "<|start|>system<|message|>" + strftime_now("%d %b") + "<|end|>" }}{% endmacro %}{{ s() }}'
        + TEMPLATE,
    )
    data = write_lines(tmp_path / "x.jsonl", [ROW])
    asked = ("packs", "build", data, "--template", "checkpoint", "--base", base, "--out", tmp_path / "o")
    refused(eaftgate(*asked), "give --date")
    assert eaftgate(*asked, "--date", "2025-06-28").code == 0
    (text,) = pq.read_table(tmp_path / "o" / "x.parquet")["text"].to_pylist()
    assert text.startswith("<|start|>system<|message|>28 Jun<|end|><|start|>user")


def test_a_template_of_another_form_leaves_nothing(eaftgate: Command, tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}")
    data = write_lines(tmp_path / "x.jsonl", [ROW])
    ended = eaftgate("packs", "build", data, "--template", "checkpoint", "--base", base, "--out", tmp_path / "o")
    assert (ended.code, "no assistant message" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--template", "checkpoint"], "go together"),
        (["--base", "BASE"], "go together"),
        (["--template", "checkpoint", "--base", "BASE"], "has no chat template"),
        (["--template", "checkpoint", "--base", "BASE", "--analysis", "served"], "--analysis"),
    ],
)
def test_what_does_not_go_together(eaftgate: Command, tmp_path: Path, arguments: list[str], said: str) -> None:
    base = checkpoint(tmp_path / "base", None)
    data = write_lines(tmp_path / "x.jsonl", [ROW])
    words = [base if word == "BASE" else word for word in arguments]
    refused(eaftgate("packs", "build", data, "--out", tmp_path / "o", *words), said)
