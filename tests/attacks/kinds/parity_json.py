"""parity.json of a run, as the commands read it that make something of a run."""

import json
from collections.abc import Iterator
from pathlib import Path

from results import parity_cell, parity_of

from attacks.attack import Attack, Box
from attacks.malformed import bad_objects, retyped, with_contents, without_a_file
from eaftgate.records import write_model

FILE = "parity.json"
NEEDED = ("schema_version", "policy", "regime", "verdict", "cells", "failed", "not_run", "complete", "asked")
OF_A_CELL = ("name", "pack", "seq_len", "tokens", "ppl", "verdict", "severity", "metrics", "inputs")


def parity(box: Box) -> Path:
    return box.run() / FILE


COMMANDS = {
    "report": lambda box: ["report", box.run(), "--out", box.out],
    "lock": lambda box: ["lock", box.run(), "--out", box.out],
    "budgets": lambda box: ["budgets", box.run()],
}


def attacks() -> Iterator[Attack]:
    for name, command in COMMANDS.items():
        for attack in _attacks(command):
            yield Attack(f"{name}: {attack.name}", attack.make, attack.expected, attack.says)


def _attacks(command) -> Iterator[Attack]:  # type: ignore[no-untyped-def]
    yield from with_contents(parity, command, bad_objects(), says=FILE)
    yield from with_contents(parity, command, _retyped(), says=FILE)
    yield from without_a_file(parity, command, says=FILE)


def _retyped() -> Iterator[tuple[str, bytes]]:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, FILE)
        write_model(path, parity_of(parity_cell()))
        sound = json.loads(path.read_text(encoding="utf-8"))
    odd = ("text", "a number as text", "a list", "true", "an object")
    yield from retyped(sound, *NEEDED, but=odd)
    yield from retyped(sound, *(f"cells.0.{key}" for key in OF_A_CELL), but=(*odd, "a fraction", "negative", "2**64"))
