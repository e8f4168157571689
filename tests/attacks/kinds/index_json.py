"""model.safetensors.index.json."""

import json
from collections.abc import Iterator
from pathlib import Path

from attacks.attack import Attack, Box, edited
from attacks.kinds.config_json import prune
from attacks.malformed import OTHER_TYPES, bad_objects, with_contents, without_a_file

FILE = "model.safetensors.index.json"
SHARDS = {
    "empty": "", "absolute": "/etc/passwd", "a parent's": "../base/model-00001-of-00002.safetensors",
    "in a directory": "a/model-00001-of-00002.safetensors", "hidden": ".model.safetensors", "a pickle": "model.bin",
    "a dot": ".", "with a backslash": "a\\b.safetensors", "with a NUL": "a\0.safetensors",
    "with a newline": "a\nb.safetensors", "with a drive": "C:a.safetensors", "with an escape": "\x1b[31m.safetensors",
    "right to left": "\u202e.safetensors", "of 5000 characters": "a" * 5000 + ".safetensors", "none": "x.safetensors",
    "a lone surrogate": "\udc80.safetensors", "another's": "model-00001-of-00002.safetensors",
}  # fmt: skip
NORM = "model.layers.0.input_layernorm.weight"


def index(box: Box) -> Path:
    return box.base() / FILE


def attacks() -> Iterator[Attack]:
    yield from with_contents(index, prune, bad_objects(), says=FILE)
    yield from without_a_file(index, prune, says="model.safetensors", but=["a directory"])
    for what, value in {f"shard {name}": shard for name, shard in SHARDS.items()}.items():
        yield _edit(what, {NORM: value})
    for what, value in OTHER_TYPES.items():
        yield _edit(f"shard is {what}", {NORM: value})
        yield Attack(f"weight_map is {what}", _set("weight_map", value), says=FILE)
        if what not in ("an object",):
            yield Attack(f"metadata is {what}", _set("metadata", value), says=FILE)
    yield _edit("a tensor that is nowhere", {"model.more.weight": "model-00001-of-00002.safetensors"})
    yield _edit("a tensor's name of 100,000 characters", {"a" * 100_000: "model-00001-of-00002.safetensors"})
    yield Attack("without metadata", _set("metadata", None, remove=True), "accepted")
    yield Attack("a tensor left out", _set("weight_map", NORM, remove=True), says=FILE)


def _edit(name: str, more: dict[str, object]) -> Attack:
    def make(box: Box) -> list[object]:
        value = json.loads(index(box).read_text(encoding="utf-8"))
        value["weight_map"] |= more
        index(box).write_text(json.dumps(value), encoding="utf-8")
        return prune(box)

    return Attack(name, make, says=".safetensors")


def _set(key: str, value: object, *, remove: bool = False):  # type: ignore[no-untyped-def]
    def change(found: dict[str, dict[str, object]]) -> None:
        if not remove:
            found[key] = value  # type: ignore[assignment]
        elif key == "weight_map":
            del found[key][str(value)]
        else:
            del found[key]

    def make(box: Box) -> list[object]:
        edited(index(box), change)
        return prune(box)

    return make
