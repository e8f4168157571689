"""Base against base: what a repetition and what the sampling of blocks alone do to every metric."""

from collections.abc import Callable
from typing import Any

import pytest

from eaftgate.gate.plan import Cell
from eaftgate.gate.run import RERUN, GateRun


def test_rerun(rerun_case: tuple[Cell, str], run: GateRun, record_verdict) -> None:
    """A repeated measurement of the same model passes its own gate."""
    cell, metric = rerun_case
    result = run.compare(cell, replicate=RERUN)
    verdict = result.verdicts[metric]
    record_verdict(verdict, result.metrics.tokens)
    if verdict.verdict != "pass":
        pytest.fail(
            f"{metric} differs by {verdict.estimate:+.5g} between two runs of the base, more than the margin "
            f"{verdict.margin:.5g}: the measurement is not good enough to decide",
            pytrace=False,
        )


def test_halves(halves_case: Cell, run: GateRun, record_property: Callable[[str, Any], None]) -> None:
    """Disjoint halves of the blocks: the sampling wobble. It is shown, never compared with a margin."""
    wobble = run.halves(halves_case)
    assert wobble.keys() == {"ppl", "mean_p", "cc_rate", "js2d"}
    for name, difference in wobble.items():
        record_property(f"halves_{name}", difference)
