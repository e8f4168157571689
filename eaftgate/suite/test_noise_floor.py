"""Base against base: what the measurement itself, and the sampling of blocks alone, do to every metric."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from eaftgate.gate.cells import Cell
from eaftgate.gate.run import GateRun
from eaftgate.suite.conftest import RecordFloor


def test_floor(floor_case: tuple[Cell, str, str], run: GateRun, record_floor: RecordFloor) -> None:
    """A margin stands clear of what a repetition, other batches, or one ulp do to its metric."""
    cell, tier, metric = floor_case
    verdict = record_floor(run.floor(cell, tier), metric)
    if problem := run.plan.floor_problem(metric, verdict):
        pytest.fail(f"{tier}: {problem}", pytrace=False)


def test_halves(halves_case: Cell, run: GateRun, record_property: Callable[[str, Any], None]) -> None:
    """Disjoint halves of the blocks: the sampling wobble. It is shown, never compared with a margin."""
    wobble = run.halves(halves_case)
    assert wobble.keys() == {"ppl", "mean_p", "cc_rate", "js2d"}
    if not all(map(math.isfinite, wobble.values())):
        pytest.fail("a half of the blocks has no counted token: raise --num-blocks", pytrace=False)
    for name, difference in wobble.items():
        record_property(f"halves_{name}", difference)
