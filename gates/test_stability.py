"""The verdict holds when other rows are drawn: the primary cells again, in the row order of further seeds."""

import pytest

from eaftgate.gate.plan import Cell
from eaftgate.gate.run import GateRun


def test_stability(stability_case: Cell, run: GateRun, record_verdict) -> None:
    result = run.cell(stability_case)
    for verdict in result.verdicts.values():
        record_verdict(verdict, result.metrics.tokens)
    if result.verdict != "pass":
        pytest.fail(
            f"the verdict of {stability_case.id} under seed {stability_case.seed} is {result.verdict}",
            pytrace=False,
        )
