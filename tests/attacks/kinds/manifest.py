"""manifest.json of a pruned checkpoint, as `overlap` reads it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attacks.attack import Attack, Box, edited
from attacks.malformed import bad_objects, retyped, with_contents, without_a_file
from attacks.sound import EXPERTS, LAYERS

FILE = "manifest.json"
SOUND: dict[str, Any] = {
    "schema_version": 1,
    "format": "eaftgate-checkpoint",
    "base": {"name": "base", "digest": "a" * 64, "num_experts": EXPERTS, "top_k": 4},
    "keep_n": 4,
    "keep_frac": 0.5,
    "allow_any_keep_n": False,
    "keep": [[0, 1, 2, 3]] * LAYERS,
    "provenance": {"method": "random"},
    "tool": {"name": "eaftgate", "version": "0.1"},
    "files": {"LICENSE": {"sha256": "b" * 64, "size": 7}},
}
KEYS = (
    "base", "base.name", "base.digest", "base.num_experts", "keep_n", "keep_frac", "keep",
    "provenance", "tool", "tool.version", "files",
)  # fmt: skip


def manifest(box: Box) -> Path:
    return box.pruned() / FILE


def overlap(box: Box) -> list[object]:
    return ["overlap", box.pruned(), box.pruned()]


def attacks() -> Iterator[Attack]:
    yield from with_contents(manifest, overlap, [("as written here", json.dumps(SOUND).encode())], expected="accepted")
    yield from with_contents(manifest, overlap, bad_objects(), says=FILE)
    yield from with_contents(manifest, overlap, _wrong(), says=FILE)
    yield from without_a_file(manifest, overlap, says=FILE)
    yield Attack("fewer layers than the other's", _fewer_layers, says="layers")


def _wrong() -> Iterator[tuple[str, bytes]]:
    taken = ("text", "a number as text", "an object")
    yield from retyped(SOUND, *KEYS, but=taken)
    for name, keep in {
        "empty": [], "no expert": [[]] * LAYERS, "unsorted": [[1, 0, 2, 3]] * LAYERS, "twice": [[0, 0, 1, 2]] * LAYERS,
        "too high": [[0, 1, 2, EXPERTS]] * LAYERS, "uneven": [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2, 3]],
        "negative": [[-1, 0]],
        "more than keep_n": [[0, 1, 2, 3, 4]] * LAYERS, "fewer than top_k": [[0, 1]] * LAYERS, "2**62": [[1 << 62]],
    }.items():  # fmt: skip
        yield f"keep {name}", json.dumps({**SOUND, "keep": keep}).encode()
    for name, number in {"0": 0, "5": 5, "2**62": 1 << 62}.items():
        yield f"keep_n {name}", json.dumps({**SOUND, "keep_n": number}).encode()
    for name, number in {"0": 0, "3": 3}.items():
        yield f"num_experts {name}", json.dumps({**SOUND, "base": {**SOUND["base"], "num_experts": number}}).encode()


def _fewer_layers(box: Box) -> list[object]:
    other = box.path / "other"
    shutil.copytree(box.pruned(), other)

    def shorten(found: dict[str, Any]) -> None:
        found["keep"].pop()

    edited(other / FILE, shorten)
    return ["overlap", box.pruned(), other]
