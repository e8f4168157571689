"""Keeping all experts through the same rewrite path changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from eaftgate.gate.cells import BASE, NOOP, Cell
from eaftgate.gate.run import GateRun
from eaftgate.rewrite.integrity import compare_tensors
from eaftgate.suite.conftest import RecordFloor


def test_tensors(run: GateRun, record_property: Callable[[str, Any], None]) -> None:
    """Every tensor is bit-identical to the base's."""
    base, noop = run.here[BASE].checkpoint, run.here[NOOP].checkpoint
    everything = [range(base.num_experts)] * base.num_layers
    if problems := compare_tensors(noop, base, everything):
        record_property("verdict", "fail")
        pytest.fail("; ".join(problems[:5]), pytrace=False)


def test_metrics(noop_case: tuple[Cell, str], run: GateRun, record_floor: RecordFloor) -> None:
    """Measured from the rewritten files, no metric moves by more than the noise floor may."""
    cell, metric = noop_case
    verdict = record_floor(run.cell(cell), metric)
    if problem := run.plan.floor_problem(metric, verdict):
        pytest.fail(f"nothing was removed, and yet {problem}", pytrace=False)
