"""A gates file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attacks.attack import Attack, Box
from attacks.malformed import bad_objects, retyped, with_contents, without_a_file
from eaftgate.judge.policy import DEFAULT_GATES

FILE = "gates.json"


def gates(box: Box) -> Path:
    return box.path / FILE


def budgets(box: Box) -> list[object]:
    """What reads a gates file and runs no model. The run has no collections: a sound file comes to grief by that."""
    return ["budgets", box.run(), "--gates", FILE]


def attacks() -> Iterator[Attack]:
    sound: dict[str, Any] = json.loads(DEFAULT_GATES.read_text(encoding="utf-8"))
    yield from with_contents(gates, budgets, [("as it was", json.dumps(sound).encode())], says="run")
    yield from with_contents(gates, budgets, bad_objects(), says=FILE)
    yield from with_contents(
        gates, budgets, retyped(sound, "default", "policies", "regimes", "policies.near-lossless-v2.rules"), says=FILE
    )
    yield from with_contents(gates, budgets, retyped(sound, "regimes.bigblocks.primary"), says=FILE)
    for key in ("seq_lens", "num_blocks", "batch_size", "packs"):
        yield from with_contents(gates, budgets, _but_odd(sound, key), says=FILE)
    yield from without_a_file(gates, budgets, says=FILE)


def _but_odd(sound: dict[str, Any], key: str) -> Iterator[tuple[str, bytes]]:
    yield from retyped(sound, f"regimes.bigblocks.{key}", but=("2**64", "10**400", "a list"))
