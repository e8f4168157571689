"""The table of docs/attacks.md is of the attacks that there are (`make attacks` writes it anew)."""

import json
from pathlib import Path
from typing import Any

from attacks.__main__ import HEADINGS, TOTAL
from attacks.attack import all_kinds

TABLE = Path(__file__).parents[2] / "docs" / "data" / "attacks.json"
RIGHT = {"kind", "tried", "refused", "answered", "accepted"}


def rows() -> dict[str, dict[str, Any]]:
    return {row["kind"]: row for row in json.loads(TABLE.read_text(encoding="utf-8"))["rows"]}


def test_every_attack_is_counted() -> None:
    counted = {kind: row["tried"] for kind, row in rows().items() if kind != TOTAL}
    assert counted == {kind: len(attacks) for kind, attacks in all_kinds().items()}


def test_nothing_went_wrong() -> None:
    for kind, row in rows().items():
        assert {name: row[name] for name in HEADINGS.keys() - RIGHT} == dict.fromkeys(HEADINGS.keys() - RIGHT, 0), kind
        assert row["refused"] + row["answered"] + row["accepted"] == row["tried"], kind
