"""The release decision: every checkpoint against its base, one case per pack x seq_len x metric."""

import pytest

from eaftgate.gate.plan import Cell
from eaftgate.gate.run import GateRun


def test_near_lossless(cell_case: tuple[Cell, str], run: GateRun, record_verdict) -> None:
    cell, metric = cell_case
    result = run.cell(cell)
    verdict = result.verdicts[metric]
    record_verdict(verdict, result.metrics.tokens)
    # An advisory case is shown with its verdict and passes; only a deciding one can turn the run red.
    if run.plan.decides(cell, metric) and verdict.verdict != "pass":
        pytest.fail(
            f"{metric} {verdict.estimate:+.5g} is outside its margin {verdict.margin:.5g} "
            f"({result.metrics.tokens} tokens)",
            pytrace=False,
        )
