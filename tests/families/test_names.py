"""What only holds for gpt-oss is named in families/ and nowhere else in the package.

A file outside is searched as text, comments and strings included: a name in a comment says that the code beneath it was
written for one family.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "eaftgate"

OWN = {
    "its classes and modules": r"gpt_oss|GptOss",
    "its tensors": r"embed_tokens|lm_head|gate_up|down_proj|layernorm|self_attn|[qkvo]_proj",
    "suffixes of its tensors": r"[^\w.\s]_(blocks|scales|bias)\b",
    "its modules' attributes": r"\bmlp\b|\brouter\.(weight|bias)|model\.(layers|norm|model)\b|_apply_gate",
    "keys of its config": r"num_local_experts|num_experts_per_tok|experts_per_token|num_hidden_layers|swiglu",
}
PROSE = {"__init__.py", "commands/app.py", "commands/examples.py", "report/html.py"}
"""Where gpt-oss is a word for people: what the package is for, examples, and the table of published figures."""
OTHERS = {"collect/sglang/models/scoring.py": "lm_head", "chats/library.py": "HARMONY_GPT_OSS"}
"""What SGLang calls the head of every causal language model, and openai-harmony its one encoding."""


def named(file: str, text: str) -> Iterator[str]:
    """`file:line: what`, for every line of `text` that names something of gpt-oss's."""
    for number, line in enumerate(text.splitlines(), start=1):
        searched = line.replace(OTHERS[file], "") if file in OTHERS else line
        found = [what for what, pattern in OWN.items() if re.search(pattern, searched)]
        if re.search(r"gpt.?oss", searched, re.IGNORECASE) and file not in PROSE and not found:
            found = ["its name"]
        yield from (f"{file}:{number}: {what}" for what in found)


def test_no_other_room_names_what_is_gpt_osss() -> None:
    files = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
    assert {"families/gpt_oss.py", "families/gpt_oss_model.py"} <= files.keys()
    assert files.keys() >= PROSE | OTHERS.keys(), "an exception for a file that is not there"
    outside = {file: path for file, path in files.items() if not file.startswith("families/")}
    assert [line for file, path in outside.items() for line in named(file, path.read_text(encoding="utf-8"))] == []


def test_in_families_its_own_two_modules_and_the_registry_alone_name_it() -> None:
    """The Protocols were not written for one family."""
    for path in (PACKAGE / "families").glob("*.py"):
        if path.name in ("family.py", "model.py", "__init__.py"):
            assert list(named(f"families/{path.name}", path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("from transformers import GptOssForCausalLM", "its classes and modules"),
        ('MODEL_TYPE = "gpt_oss"', "its classes and modules"),
        ('head = tensors["lm_head.weight"]', "its tensors"),
        ("experts.gate_up_proj_bias[expert]", "its tensors"),
        ('name.endswith("_blocks")', "suffixes of its tensors"),
        ('f"{name}_scales" in ("_scales")', "suffixes of its tensors"),
        ('re.compile(r"x(_blocks|_scales)")', "suffixes of its tensors"),
        ("layer.mlp.router.bias", "its modules' attributes"),
        ("for layer in model.model.layers:", "its modules' attributes"),
        ('config["num_local_experts"] = keep_n', "keys of its config"),
        ('"swiglu_limit" not in config', "keys of its config"),
        ("# gpt-oss clamps them", "its name"),
    ],
)
def test_what_would_be_found(line: str, what: str) -> None:
    assert list(named("search/somewhere.py", f"\n{line}\n")) == [f"search/somewhere.py:2: {what}"]


@pytest.mark.parametrize(
    "line",
    [
        'record_property("num_blocks", blocks.num_blocks)',
        "from eaftgate.packs.blocks import Blocks, build_blocks",
        "if family.is_scales(entry.name):",
        "model.num_layers, model.moe_layers, model.normalised(hidden_BSD)",
        "MXFP4 experts as they are",
        "--num-blocks, --allow-any-keep-n",
    ],
)
def test_what_is_nobodys_in_particular(line: str) -> None:
    assert list(named("search/somewhere.py", line)) == []
