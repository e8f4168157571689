"""What a run says of tasks: what they were judged on, how, and why one is no pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eaftgate.checkpoint.digest import ModelIdentity
from eaftgate.errors import UserError
from eaftgate.judge.metrics import Metric
from eaftgate.judge.tasks import NO_MEAN, JudgedTask, task_metric
from eaftgate.judge.verdict import MetricVerdict, Verdict
from eaftgate.judge.wording import describe
from eaftgate.records import Record
from eaftgate.tasks.evaluated import Evaluated, load_evaluated

EVALUATIONS_DIR = "evaluations"


class TaskInputs(Record):
    """What a task was judged on, by content: `asked` is the digest of what it asks, `settings` are those of the base
    and of the harness, `evaluations` names files of RUN_DIR/evaluations by role, `base` and `checkpoint`."""

    base: ModelIdentity
    checkpoint_digest: str
    asked: str
    settings: dict[str, Any]
    evaluations: dict[str, str]

    def saved(self, results: Path, role: str, task: str) -> Evaluated:
        """That of a role. Raises UserError when the file is gone, damaged or of something else."""
        digest = self.base.digest if role == "base" else self.checkpoint_digest
        path = results / EVALUATIONS_DIR / Path(self.evaluations.get(role, "")).name
        if not path.is_file():
            raise UserError(f"{path} is gone: run the gate again")
        of: dict[str, Any] = {"checkpoint": digest, "task": task, "asked": self.asked}
        of |= {"settings": self.settings} if role == "base" else {}
        return load_evaluated(path, of)


@dataclass(frozen=True, kw_only=True)
class TaskRecord(JudgedTask):
    """A file of RUN_DIR/cells/tasks; `session` is the run that judged it."""

    session: str
    inputs: TaskInputs


class ParityTask(Record):
    """A task under a checkpoint and the base. `metrics` are by name, candidate less base, their `blocks_needed`
    documents; `details` have what each of the two has, as lm_eval prints it. `decides`: whether the task is a part of
    the run's verdict; `verdict` is the worst of its metrics, None where none could be judged."""

    checkpoint: str
    name: str
    task: str
    documents: int
    verdict: Verdict | None
    decides: bool
    metrics: dict[str, MetricVerdict]
    details: dict[str, dict[str, int | float]]
    higher_is_better: dict[str, bool | None]
    inputs: TaskInputs

    @property
    def label(self) -> str:
        return f"{self.name} {self.task}"

    def metric(self, name: str) -> Metric:
        return _metric(self.higher_is_better, name)


def _metric(higher_is_better: Mapping[str, bool | None], name: str) -> Metric:
    return task_metric(name, higher_is_better=higher_is_better.get(name) is not False)


def why_no_pass(task: str, judged: TaskRecord | ParityTask) -> str:
    """One sentence: the worst of its metrics, or that it has none that can be judged."""
    verdicts = judged.verdicts if isinstance(judged, TaskRecord) else judged.metrics
    found = [name for name, verdict in verdicts.items() if verdict.verdict == judged.verdict != "pass"]
    if judged.verdict is None or not found:
        return f"task {task} decides nothing: of {', '.join(verdicts)} {NO_MEAN}"
    name = found[0]
    said = describe(
        _metric(judged.higher_is_better, name),
        verdicts[name],
        judged.documents,
        interval=True,
        of="documents",
        more_of="documents",
    )
    return f"task {task}: {said}"
