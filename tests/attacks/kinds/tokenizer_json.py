"""tokenizer.json and the end-of-sequence token, as profiling reads them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attacks.attack import Attack, Box, edited
from attacks.malformed import NOT_JSON, NOT_OBJECTS, OTHER_TYPES, with_contents, without_a_file

FILE = "tokenizer.json"


def tokenizer(box: Box) -> Path:
    return box.base() / FILE


def profile(box: Box) -> list[object]:
    return ["profile", box.base(), "--packs", box.packs(), "--seq-len", 64, "--num-rows", 4, "--out", box.out]


def attacks() -> Iterator[Attack]:
    taken = ("key twice", "inner key twice")
    contents = {name: data for name, data in {**NOT_JSON, **NOT_OBJECTS}.items() if name not in taken}
    yield from with_contents(tokenizer, profile, contents.items(), says=FILE)
    yield from without_a_file(tokenizer, profile, says=FILE)
    for name, change in _changes().items():
        yield Attack(name, _changed(change), says="token")
    for name, value in OTHER_TYPES.items():
        yield Attack(f"model is {name}", _changed(lambda found, value=value: found.update(model=value)), says=FILE)  # type: ignore[misc]
        yield Attack(f"eos_token_id is {name}", _eos(value), says=_said(name))
    yield Attack("eos_token_id beyond the tokenizer", _eos(10**6), says="end-of-sequence")


def _said(name: str) -> str:
    """transformers looks at its type, if we do not."""
    return "end-of-sequence" if name in ("null", "a list", "negative", "2**64") else "base"


def _changes() -> dict[str, Callable[[dict[str, Any]], object]]:
    def renumbered(number: int) -> Callable[[dict[str, Any]], None]:
        def change(found: dict[str, Any]) -> None:
            vocabulary = found["model"]["vocab"]
            vocabulary["a"] = number

        return change

    return {
        "a token's id is vocab_size": renumbered(265),
        "a token's id is 2**31 - 1": renumbered((1 << 31) - 1),
        "a token's id is 2**32": renumbered(1 << 32),
        "a token's id is negative": renumbered(-1),
        "no vocabulary": lambda found: found["model"].pop("vocab"),
        "merges of what is no token": lambda found: found["model"].update(merges=[["x\u0101x", "y"]]),
        "a model that is none": lambda found: found["model"].update(type="GPT"),
        "a pre-tokenizer that is none": lambda found: found.update(pre_tokenizer={"type": "Eval"}),
        "a pattern that is none": lambda found: found.update(
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
        ),
        "a charsmap that is none": lambda found: found.update(
            normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
        ),
    }


def _changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Box], list[object]]:
    def make(box: Box) -> list[object]:
        edited(tokenizer(box), change)
        return profile(box)

    return make


def _eos(value: object) -> Callable[[Box], list[object]]:
    def make(box: Box) -> list[object]:
        config = json.loads((box.base() / "config.json").read_text(encoding="utf-8"))
        (box.base() / "config.json").write_text(json.dumps({**config, "eos_token_id": value}), encoding="utf-8")
        return profile(box)

    return make
