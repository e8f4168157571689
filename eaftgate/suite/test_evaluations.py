"""The unit of parallel work: what one model makes of one task. Verdicts only read it."""

from collections.abc import Callable
from typing import Any

from eaftgate.gate.run import GateRun


def test_evaluated(evaluation_case: tuple[str, str], run: GateRun, record_property: Callable[[str, Any], None]) -> None:
    evaluated = run.evaluated(*evaluation_case)
    record_property("documents", len(evaluated))
    record_property("seconds", round(evaluated.seconds, 1))
    for metric, scores in evaluated.metrics.items():
        for task, value in scores.printed.items():
            record_property(f"{task} {metric}", value)
