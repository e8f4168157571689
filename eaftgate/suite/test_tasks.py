"""What a candidate makes of a task of lm-evaluation-harness, beside what its base does of the same documents."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from eaftgate.gate.cells import TaskCell
from eaftgate.gate.run import GateRun
from eaftgate.gate.tasks import why_no_pass


def test_task(task_case: TaskCell, run: GateRun, record_property: Callable[[str, Any], None]) -> None:
    """Fail unless every metric of the task that decides passes, and one does. An advisory task is shown and passes."""
    judged, decides = run.task(task_case), run.plan.task_decides(task_case)
    record_property("severity", "primary" if decides else "advisory")
    record_property("documents", judged.documents)
    for metric, verdict in judged.verdicts.items():
        for name, value in asdict(verdict).items():
            record_property(f"{metric} {'documents_needed' if name == 'blocks_needed' else name}", value)
        for role, value in judged.details[metric].items():
            record_property(f"{metric} {role}", value)
    if decides and judged.verdict != "pass":
        record_property("verdict", judged.verdict or "inconclusive")
        pytest.fail(why_no_pass(task_case.task, judged), pytrace=False)
