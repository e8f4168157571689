"""The verdict holds when other rows are drawn: the primary cells again, in the row order of further seeds."""

import pytest

from eaftgate.gate.plan import Cell
from eaftgate.gate.run import GateRun


def test_stability(stability_case: tuple[Cell, str], run: GateRun, record_verdict) -> None:
    cell, metric = stability_case
    result = run.cell(cell)
    verdict = result.verdicts[metric]
    record_verdict(verdict, result.metrics.tokens)
    if run.plan.decides(cell, metric) and verdict.verdict != "pass":
        pytest.fail(
            f"under seed {cell.seed} {metric} {verdict.estimate:+.5g} is outside its margin {verdict.margin:.5g}",
            pytrace=False,
        )
