"""--keep-sets: lists of lists, or an expert_mapping.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attacks.attack import Attack, Box
from attacks.malformed import LONG_NUMBER, NOT_JSON, OTHER_TYPES, retyped, with_contents, without_a_file
from attacks.sound import EXPERTS, LAYERS

FILE = "keep.json"
ROW = [0, 2, 4, 6]
SOUND = [ROW] * LAYERS
MAPPING = {
    "num_experts": EXPERTS,
    "keep_n": 4,
    "layers": {str(layer): {str(old): new for new, old in enumerate(ROW)} for layer in range(LAYERS)},
}


def keep(box: Box) -> Path:
    return box.path / FILE


def prune(box: Box) -> list[object]:
    return ["prune", box.base(), "--keep-sets", FILE, "--out", box.out]


def attacks() -> Iterator[Attack]:
    accepted: dict[str, bytes] = {
        "lists": json.dumps(SOUND).encode(),
        "a mapping": json.dumps(MAPPING).encode(),
        "indented": json.dumps(SOUND, indent=8).encode(),
        "a byte order mark": b"\xef\xbb\xbf" + json.dumps(SOUND).encode(),
        "all experts": json.dumps([list(range(EXPERTS))] * LAYERS).encode(),
        "a key that a later version may add": json.dumps({**MAPPING, "more": 1}).encode(),
    }
    yield from with_contents(keep, prune, accepted.items(), expected="accepted")
    refused: dict[str, bytes] = {f"JSON: {name}": content for name, content in NOT_JSON.items()}
    wrong: dict[str, Any] = {
        "empty list": [], "empty rows": [[]] * LAYERS, "flat": ROW, "a layer too few": SOUND[1:],
        "a layer too many": [*SOUND, ROW], "uneven": [*SOUND[1:], [0, 1, 2, 3, 4, 5, 6, 7]],
        "unsorted": [[2, 0, 4, 6]] * LAYERS, "an expert twice": [[0, 0, 2, 4]] * LAYERS,
        "an expert too high": [[0, 2, 4, EXPERTS]] * LAYERS, "negative": [[-1, 2, 4, 6]] * LAYERS,
        "fewer than top_k": [[0, 1]] * LAYERS, "no multiple of 4": [[0, 1, 2, 3, 4]] * LAYERS,
        "fractions": [[0.0, 2.0, 4.0, 6.0]] * LAYERS, "texts": [["0", "2", "4", "6"]] * LAYERS,
        "true and false": [[False, True, 2, 3]] * LAYERS, "nested once more": [SOUND] * LAYERS,
        "100,000 layers": [ROW] * 100_000, "100,000 experts": [list(range(100_000))] * LAYERS,
        "10**400": [[0, 1, 2, 10**400]] * LAYERS,
    }  # fmt: skip
    wrong |= {f"a number of {name}": value for name, value in OTHER_TYPES.items()}
    wrong |= {f"rows of {name}": [value] * LAYERS for name, value in OTHER_TYPES.items()}
    refused |= {name: json.dumps(value).encode() for name, value in wrong.items()}
    refused["an id of 5000 digits"] = b"[[" + LONG_NUMBER + b"]]"
    yield from with_contents(keep, prune, refused.items(), says=FILE)
    yield from with_contents(keep, prune, _mappings(), says=FILE)
    yield from without_a_file(keep, prune, says=FILE)


def _mappings() -> Iterator[tuple[str, bytes]]:
    yield from retyped(MAPPING, "num_experts", "keep_n", "layers", "layers.0")
    rows: dict[str, Any] = {
        "out of order": {"2": 0, "0": 1, "4": 2, "6": 3}, "numbered from 1": {"0": 1, "2": 2, "4": 3, "6": 4},
        "not numbered": {"0": 0, "2": 0, "4": 0, "6": 0}, "a leading zero": {"00": 0, "2": 1, "4": 2, "6": 3},
        "another script's digits": {"\u0660": 0, "2": 1, "4": 2, "6": 3}, "signed": {"+0": 0, "2": 1, "4": 2, "6": 3},
        "spaces": {" 0": 0, "2": 1, "4": 2, "6": 3}, "too high": {"0": 0, "2": 1, "4": 2, "8": 3},
        "text": {"0": "0", "2": "1", "4": "2", "6": "3"}, "true": {"0": False, "2": True, "4": 2, "6": 3},
        "fractions": {"0": 0.0, "2": 1.0, "4": 2.0, "6": 3.0}, "9 digits": {"0": 0, "2": 1, "4": 2, "999999999": 3},
        "4000 digits": {"0": 0, "2": 1, "4": 2, "9" * 4000: 3},
    }  # fmt: skip
    for name, row in rows.items():
        yield f"layer {name}", json.dumps({**MAPPING, "layers": {**MAPPING["layers"], "0": row}}).encode()  # type: ignore[dict-item]
    for name, layers in {"twice as many": 6, "fewer": 2, "none": 0}.items():
        mapping = {**MAPPING, "layers": {str(layer): {"0": 0} for layer in range(layers)}}
        yield f"layers {name}", json.dumps(mapping).encode()
