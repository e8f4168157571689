"""README.md of a pruned checkpoint: a model card, of what is known when it is made.

The verdict is not: the card has a place for it, which publishing fills in what it uploads (report/publish.py).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eaftgate import __version__
from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.checkpoint.source import HUB_ID
from eaftgate.errors import UserError
from eaftgate.files import read_regular
from eaftgate.markdown import code, escaped, table
from eaftgate.profile.profile import ProfileDescription
from eaftgate.rewrite.manifest import CARD_FILE, MANIFEST_FILE, MAPPING_FILE
from eaftgate.strict_yaml import parse_yaml, yaml_value

MAX_CARD_BYTES = 1 << 20
VERDICT_BEGIN, VERDICT_END = "<!-- eaftgate: verdict -->", "<!-- eaftgate: end of the verdict -->"
NOT_JUDGED = "Not known when this card was written."
_FRONT = re.compile(rb"\A---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)
_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,60}", re.ASCII)
_KNOWN_TEXTS = {
    "apache-2.0": ("Apache License", "Version 2.0"),
    "mit": ("MIT License", "Permission is hereby granted, free of charge"),
}
"""Licences by the Hub's names, with what their texts begin with."""


@dataclass(frozen=True)
class Card:
    """A card in its two parts: the front matter, and the text after it."""

    front: Mapping[str, Any]
    body: str

    @property
    def text(self) -> str:
        front = yaml.safe_dump(dict(self.front), sort_keys=False, allow_unicode=True)
        return f"---\n{front}---\n{self.body}"

    @property
    def licence(self) -> str | None:
        """The Hub's name of the licence, where there is one."""
        said = self.front.get("license")
        return said if isinstance(said, str) and _TAG.fullmatch(said) and said not in ("unknown", "other") else None


def model_card(
    base: Checkpoint, base_digest: str, keep_n: int, method: str, profiled: ProfileDescription | None, recipe: str
) -> str:
    """What the checkpoint is, what it was made from, on which rows, how it is served and how it is made again: a
    function of the arguments and of the base's files."""
    name, revision = base_name(base)
    front: dict[str, Any] = {"base_model": name} if HUB_ID.fullmatch(base.name) else {}
    licence = licence_of(base.path)
    front |= {} if licence is None else {"license": licence}
    kind = base.config.get("model_type")
    tags = [kind] if isinstance(kind, str) and _TAG.fullmatch(kind) else []
    front |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    front["tags"] = [*tags, "mixture-of-experts", "expert-pruning", "eaftgate"]
    what = [
        ("base", code(name, cell=True)),
        *([("revision of the base", code(revision, cell=True))] if revision else []),
        ("digest of the base", code(base_digest)),
        *([("licence of the base", code(licence))] if licence else []),
        ("experts a layer", f"{keep_n} of {base.num_experts}, {base.top_k} of them used by a token, as in the base"),
        ("chosen by", code(method)),
        ("made by", f"eaftgate {escaped(__version__)}"),
    ]
    lines = [
        f"# {escaped(Path(name).name)} with {keep_n} of {base.num_experts} experts a layer",
        "",
        "Experts were removed, and nothing was trained: every tensor that is here is the base's, bit for bit. "
        f"{code(MANIFEST_FILE)} says which files these are, {code(MAPPING_FILE)} which experts.",
        "",
        *table(("", ""), what, text=2),
        "",
        *_calibration(profiled),
        "## Verdict",
        "",
        VERDICT_BEGIN,
        NOT_JUDGED,
        VERDICT_END,
        "",
        "## Serve",
        "",
        "Like its base. DIR is this directory, or its name on the Hub. Tried with what eaftgate pruned: SGLang, "
        "transformers, llama.cpp after its converter; vLLM only with experts in bfloat16.",
        "",
        *_block(
            "python -m sglang.launch_server --model-path DIR",
            "transformers serve DIR",
            "vllm serve DIR",
            "llama.cpp/convert_hf_to_gguf.py DIR --outfile model.gguf    # then llama-server -m model.gguf",
        ),
        "",
        *_block(
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            'model = AutoModelForCausalLM.from_pretrained("DIR", dtype="auto", device_map="auto")',
            'tokenizer = AutoTokenizer.from_pretrained("DIR")',
        ),
        "",
        "## The same again",
        "",
        *_block(*recipe.splitlines()),
    ]
    return Card(front, "\n" + "\n".join(lines) + "\n").text


def base_name(base: Checkpoint) -> tuple[str, str | None]:
    """How a card calls the base, and its revision: of one from the Hub the commit, if it lies in the Hub's cache; of a
    directory its name, which is nobody's path."""
    match = HUB_ID.fullmatch(base.name)
    if match is None:
        return base.path.resolve().name, None
    cached = base.path.name if base.path.parent.name == "snapshots" else None
    return match["repo"], cached or match["revision"]


def licence_of(directory: Path) -> str | None:
    """What the card of a checkpoint says of its licence, or the text of it does; None where neither is known."""
    if (card := read_card(directory)) is not None and card.licence is not None:
        return card.licence
    for path in sorted(directory.glob("LICENSE*")):
        try:
            begin = read_regular(path, what="the licence", limit=MAX_CARD_BYTES)[:4000].decode("utf-8", "replace")
        except UserError:
            continue
        for name, texts in _KNOWN_TEXTS.items():
            if all(text in begin for text in texts):
                return name
    return None


def read_card(directory: Path) -> Card | None:
    """The card of a checkpoint; None where there is none that can be read."""
    try:
        path = directory / CARD_FILE
        data = read_regular(path, what="the model card", limit=MAX_CARD_BYTES)
        found = _FRONT.match(data)
        front = {} if found is None else yaml_value(parse_yaml(found[1], path=path, what="the model card"), where=path)
        body = data[0 if found is None else found.end() :].decode("utf-8")
    except (UserError, UnicodeError):
        return None
    return Card(front if isinstance(front, dict) else {}, body)


def with_verdict(card: Card, lines: Sequence[str], front: Mapping[str, Any]) -> Card:
    """The card with what is known now in the place of the verdict, and more in its front matter."""
    said = "\n".join([VERDICT_BEGIN, *lines, VERDICT_END])
    begin, end = card.body.find(VERDICT_BEGIN), card.body.find(VERDICT_END)
    if 0 <= begin < end:
        body = card.body[:begin] + said + card.body[end + len(VERDICT_END) :]
    else:
        body = f"{card.body.rstrip()}\n\n## Verdict\n\n{said}\n"
    return Card({**card.front, **front}, body)


def _calibration(profiled: ProfileDescription | None) -> list[str]:
    if profiled is None:
        return []
    packs = table(("pack", "rows"), ((code(name, cell=True), f"{rows:,}") for name, rows in profiled.packs.items()))
    said = (
        f"{len(profiled.rows):,} conversations, {profiled.counted_tokens:,} tokens of what they make a model write, in "
        f"{profiled.num_blocks:,} blocks of {profiled.seq_len:,} (seed {profiled.seed}):"
    )
    return ["## Calibration", "", said, "", *packs, ""]


def _block(*lines: str) -> list[str]:
    return [f"    {line}" for line in lines]
