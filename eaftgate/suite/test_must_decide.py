"""A run may not be silent: what it had too little of to decide anywhere keeps it from a pass."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from eaftgate.gate.cells import Cell
from eaftgate.gate.run import GateRun
from eaftgate.judge.wording import describe


def test_must_decide(
    rule_case: tuple[tuple[Cell, ...], str], run: GateRun, record_property: Callable[[str, Any], None]
) -> None:
    """The metric decides in a cell, unless what it speaks of occurs in none of them."""
    cells, metric = rule_case
    judged = [run.cell(cell) for cell in cells if run.plan.decides(cell, metric)]
    found = [(cell, cell.verdicts[metric]) for cell in judged if cell.verdicts[metric].verdict is not None]
    record_property("cells", len(found))
    record_property("deciding_cells", sum(verdict.decides for _, verdict in found))
    if found and not any(verdict.decides for _, verdict in found):
        record_property("verdict", "inconclusive")
        nearest, verdict = min(found, key=lambda both: both[1].blocks_needed or math.inf)
        tokens = nearest.metrics.tokens
        if verdict.blocks_needed is not None:
            record_property("blocks_needed", verdict.blocks_needed)
        pytest.fail(f"decides nowhere: {describe(metric, verdict, tokens, interval=True)}", pytrace=False)
