"""A cell in which nothing decides is no pass, and says why."""

from collections.abc import Callable
from typing import Any

import pytest

from eaftgate.gate.cells import Cell
from eaftgate.gate.run import GateRun


def test_something_decides(deciding_case: Cell, run: GateRun, record_property: Callable[[str, Any], None]) -> None:
    """A rule decides in the cell, whose whole verdict is a part of the run's."""
    verdicts = run.cell(deciding_case).verdicts
    if not any(verdict.decides and verdict.verdict for verdict in verdicts.values()):
        record_property("verdict", "inconclusive")
        if needed := [v.blocks_needed for v in verdicts.values() if v.underpowered and v.blocks_needed is not None]:
            record_property("blocks_needed", min(needed))
        lacking = next((f": {name} has {v.lacks}" for name, v in verdicts.items() if v.underpowered), "")
        pytest.fail(f"no rule decides in this cell{lacking}", pytrace=False)
