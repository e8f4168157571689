"""From a task of lm-evaluation-harness under two models to verdicts, by the policy's block `tasks`. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from eaftgate.judge.metrics import CHANGE_OF_SHARE, Metric
from eaftgate.judge.policy import IntervalPolicy, IntervalRule
from eaftgate.judge.verdict import MetricVerdict, Verdict, best_of_two, interval_verdict, worst
from eaftgate.parity.bounds import fixed_width
from eaftgate.parity.estimates import Measured
from eaftgate.tasks.paired import PairedTask

NO_MEAN = "it is no mean over documents of figures from 0 to 1"


@dataclass(frozen=True)
class JudgedTask:
    """Verdicts by metric; `blocks_needed` of one are documents. `details` say what each model has, by metric, as
    lm_eval prints it; `verdict` is the worst that decides, None where none does. `higher_is_better` is by metric, None
    where the task does not say."""

    documents: int
    verdicts: Mapping[str, MetricVerdict]
    verdict: Verdict | None
    details: Mapping[str, Mapping[str, int | float]]
    higher_is_better: Mapping[str, bool | None]


def task_metric(name: str, *, higher_is_better: bool) -> Metric:
    """A metric as the harness names it: candidate less base."""
    return Metric(
        name=name,
        unit="share",
        meaning="the change of the mean over documents",
        measure=lambda task: task.difference(name),
        text="{:+.2%}".format,
        less_is_worse=higher_is_better,
        change=True,
        over="documents",
        possible=CHANGE_OF_SHARE,
    )


def judge_task(policy: IntervalPolicy, rule: IntervalRule, task: PairedTask, *, best_of: int = 1) -> JudgedTask:
    """`best_of` as of cells (judge.verdict)."""
    verdicts: dict[str, MetricVerdict] = {}
    details: dict[str, Mapping[str, int | float]] = {}
    for name in task.metrics:
        metric = task_metric(name, higher_is_better=task.base.metrics[name].higher_is_better is not False)
        found = metric.measure(task)
        if found is None:
            verdicts[name], details[name] = _shown(task, metric)
            continue
        alone, divided = (
            _judged(policy, metric, rule, found, len(task), alpha) for alpha in (policy.alpha, policy.alpha / best_of)
        )
        verdicts[name], details[name] = best_of_two(metric, rule, alone, divided), found.details
    deciding = [verdict.verdict for verdict in verdicts.values() if verdict.decides and verdict.verdict is not None]
    directions = {name: scores.higher_is_better for name, scores in task.base.metrics.items()}
    return JudgedTask(len(task), verdicts, worst(deciding) if deciding else None, details, directions)


def _judged(
    policy: IntervalPolicy, metric: Metric, rule: IntervalRule, found: Measured, documents: int, alpha: float
) -> MetricVerdict:
    return interval_verdict(policy, metric, rule, found, documents, lambda _, degrees: fixed_width(alpha, degrees))


def _shown(task: PairedTask, metric: Metric) -> tuple[MetricVerdict, dict[str, int | float]]:
    """What lm_eval prints of the whole task, and no verdict."""
    both = {
        role: of.metrics[metric.name].printed.get(task.base.task)
        for role, of in (("base", task.base), ("candidate", task.candidate))
    }
    known = {role: value for role, value in both.items() if value is not None}
    change = known["candidate"] - known["base"] if len(known) == 2 else None
    verdict = MetricVerdict(
        change, None, None, margin=None, verdict=None, decides=False, unit="", side="worse", lacks=NO_MEAN
    )
    return verdict, dict(known)
