"""What a candidate does when it writes by itself, beside what its base does in the same turns."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from eaftgate.gate.cells import TurnCell
from eaftgate.gate.run import GateRun
from eaftgate.judge.wording import describe
from eaftgate.suite.conftest import RecordTurns


def test_behaviour(turns_case: tuple[TurnCell, str], run: GateRun, record_turns: RecordTurns) -> None:
    """Fail unless the metric of a candidate's turns passes. An advisory case is shown with its verdict and passes."""
    cell, metric = turns_case
    judged = run.turns(cell)
    verdict = record_turns(judged, metric)
    if verdict.decides and verdict.verdict != "pass":
        pytest.fail(describe(metric, verdict, judged.turns, interval=True, of="turns", more_of="turns"), pytrace=False)


def test_decides(
    turns_rule_case: tuple[tuple[TurnCell, ...], str], run: GateRun, record_property: Callable[[str, Any], None]
) -> None:
    """The metric decides over the turns of all packs or of one, unless what it speaks of occurs in none of them."""
    cells, metric = turns_rule_case
    judged = [run.turns(cell) for cell in cells if metric in run.plan.turns_deciding(cell)]
    found = [(turns, turns.verdicts[metric]) for turns in judged if turns.verdicts[metric].verdict is not None]
    record_property("cells", len(found))
    record_property("deciding_cells", sum(verdict.decides for _, verdict in found))
    if found and not any(verdict.decides for _, verdict in found):
        record_property("verdict", "inconclusive")
        nearest, verdict = min(found, key=lambda both: both[1].blocks_needed or math.inf)
        said = describe(metric, verdict, nearest.turns, interval=True, of="turns", more_of="turns")
        pytest.fail(f"decides nowhere: {said}", pytrace=False)
