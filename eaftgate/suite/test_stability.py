"""The verdict holds when other rows are drawn: for the gate, and for the profile that the experts were chosen on."""

from collections.abc import Callable
from typing import Any

import pytest

from eaftgate.gate.cells import Cell
from eaftgate.gate.profiling_seeds import ProfilingGroup
from eaftgate.gate.run import GateRun
from eaftgate.gate.stability import agreement, disagreement, seeds_shown
from eaftgate.suite.conftest import Decide, RecordSpread


def test_stability(stability_case: tuple[Cell, str], decide: Decide) -> None:
    """The primary cells again, in the row order of further seeds."""
    decide(*stability_case)


def test_spread(
    spread_case: tuple[Cell, ...],
    run: GateRun,
    record_spread: RecordSpread,
    record_property: Callable[[str, Any], None],
) -> None:
    """How far the row order alone moves every metric. It is shown, never compared with a margin."""
    record_property("seeds", seeds_shown([cell.seed for cell in spread_case]))
    spread = record_spread([run.cell(cell) for cell in spread_case])
    assert spread.keys() == set(run.plan.policy.metrics)


def test_profiling_seeds(
    profiling_case: tuple[ProfilingGroup, tuple[Cell, ...]],
    run: GateRun,
    record_spread: RecordSpread,
    record_property: Callable[[str, Any], None],
) -> None:
    """Checkpoints that differ only in their profiling seed have the same verdict."""
    group, cells = profiling_case
    judged = [run.cell(cell) for cell in cells]
    record_property("seeds", seeds_shown(group.seeds))
    record_spread(judged)
    verdicts = [cell.verdict for cell in judged]
    stable = agreement(verdicts)
    record_property("stable", stable == "pass")
    if stable != "pass":
        record_property("verdict", stable)
        pytest.fail(disagreement(group, verdicts), pytrace=False)


def test_keep_overlap(overlap_case: ProfilingGroup, record_property: Callable[[str, Any], None]) -> None:
    """How far the profiling seed changes which experts are kept. It is shown; there is no margin to compare it with."""
    assert len(overlap_case.mean_jaccard_L) == len(overlap_case.min_jaccard_L) > 0
    record_property("rows_jaccard", overlap_case.rows_jaccard)
    overlap = zip(overlap_case.mean_jaccard_L, overlap_case.min_jaccard_L, strict=True)
    for layer, (mean, least) in enumerate(overlap):
        record_property(f"layer{layer}_jaccard_mean", mean)
        record_property(f"layer{layer}_jaccard_min", least)
