"""config.json of a checkpoint that is to be pruned."""

import json
from collections.abc import Iterator
from pathlib import Path

from tiny_checkpoint import Size, build_config, build_tokenizer

from attacks.attack import Attack, Box
from attacks.malformed import bad_objects, retyped, with_contents, without_a_file

COUNTS = ("num_hidden_layers", "num_local_experts", "hidden_size", "intermediate_size", "vocab_size")


def config(box: Box) -> Path:
    return box.base() / "config.json"


def prune(box: Box) -> list[object]:
    """The shortest way to read a checkpoint and write one: all experts are kept."""
    return ["prune", box.base(), "--keep-n", 8, "--out", box.out]


def profile(box: Box) -> list[object]:
    """The shortest way to run the model."""
    return ["profile", box.base(), "--packs", box.packs(), "--seq-len", 64, "--out", box.out]


def attacks() -> Iterator[Attack]:
    sound = build_config(Size(), mxfp4=True, vocab_size=build_tokenizer().get_vocab_size())
    odd = {"as it was": sound, "unknown keys": {**sound, "a": {"b": [None]}}}
    yield from with_contents(
        config, prune, ((name, json.dumps(value).encode()) for name, value in odd.items()), expected="accepted"
    )
    yield from with_contents(config, prune, bad_objects(), says="config.json")
    yield from with_contents(config, prune, retyped(sound, *COUNTS, "model_type"), says="config")
    yield from without_a_file(config, prune, says="config.json")
    for name, value in {"of fewer layers": ["full_attention"], "of no kind": ["linear"] * Size.layers}.items():
        content = json.dumps({**sound, "layer_types": value}).encode()
        yield from with_contents(config, profile, [(f"layer_types {name}", content)], says="layer_types")
