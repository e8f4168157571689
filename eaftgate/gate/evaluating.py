"""The tasks of a gate run: what each model makes of one, when a case first asks for it, and how it is judged."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property

from eaftgate.checkpoint.digest import ModelIdentity
from eaftgate.checkpoint.unchanged import check_unchanged
from eaftgate.collect.collector import Scorer
from eaftgate.collect.lender import Lender
from eaftgate.collect.store import Say
from eaftgate.errors import UserError
from eaftgate.gate.cells import BASE, TaskCell
from eaftgate.gate.judging import judge_planned_task
from eaftgate.gate.models import Models
from eaftgate.gate.plan import Plan
from eaftgate.gate.results import write_record
from eaftgate.gate.tasks import EVALUATIONS_DIR, TaskInputs, TaskRecord
from eaftgate.tasks.evaluated import Document, Evaluated, Scores
from eaftgate.tasks.harness import Harness
from eaftgate.tasks.paired import pair_task
from eaftgate.tasks.store import EvaluatedStore, Request


class Evaluations:
    """Of one process. `models` has those of a run with their checkpoints, `scorer` opens what runs them, `shown` opens
    a progress line of a title."""

    def __init__(
        self,
        plan: Plan,
        models: Callable[[], Models],
        *,
        session: str,
        scorer: Callable[[], Scorer],
        shown: Callable[[str], AbstractContextManager[object]],
        say: Say,
    ) -> None:
        self._plan, self._opened, self._session = plan, models, session
        self._scorer, self._shown = scorer, shown
        self._store = EvaluatedStore(plan.options.results / EVALUATIONS_DIR, say=say)
        self._evaluated: dict[tuple[str, str], Evaluated | UserError] = {}
        self._tasks: dict[TaskCell, TaskRecord] = {}

    @property
    def _models(self) -> Models:
        return self._opened()

    @cached_property
    def _harness(self) -> Harness:
        return Harness(self._plan.options.tasks_path, chat_template=self._plan.options.tasks_chat_template)

    def evaluated(self, model: str, task: str) -> Evaluated:
        """What `model` makes of a task, from the cache or now. Raises UserError where it cannot, the same whenever it
        is asked."""
        key = (model, task)
        if key not in self._evaluated:
            try:
                request = self._request(model, task)
                self._evaluated[key] = self._store.get(request, shown=lambda: self._shown(f"evaluate {task} {model}"))
            except UserError as error:
                self._evaluated[key] = error
        found = self._evaluated[key]
        if isinstance(found, UserError):
            raise UserError(str(found))
        return found

    def _request(self, model: str, task: str) -> Request:
        scorer, found = self._scorer(), self._models[model]
        if not isinstance(scorer, Lender):
            raise UserError(f"--collector={self._plan.options.collector} lends no model: leave out --tasks")
        scored = found.scored(model)

        def evaluate() -> tuple[tuple[Document, ...], dict[str, Scores]]:
            """Prompts are made of the base's tokenizer, whatever model answers them."""
            tokenizer = self._models[BASE].checkpoint.path
            with scorer.lent(scored) as module:
                check_unchanged(found.checkpoint, found.digest)
                made = self._harness.evaluate(task, module, tokenizer, batch_size=self._plan.batch_size)
            check_unchanged(found.checkpoint, found.digest)
            return made

        settings = {**scorer.lent_settings(scored), **self._harness.settings()}
        return Request(found.digest, task, self._harness.asked(task), settings, evaluate)

    def task(self, cell: TaskCell) -> TaskRecord:
        """How a candidate does in a task; the result is also left in RUN_DIR/cells."""
        if cell not in self._tasks:
            candidate = self.evaluated(
                cell.checkpoint, cell.task
            )  # before the base, which the noise floor goes on with
            base = self.evaluated(BASE, cell.task)
            found = self._models[BASE]
            record = TaskRecord(
                **vars(judge_planned_task(self._plan, cell, pair_task(base, candidate))),
                session=self._session,
                inputs=TaskInputs(
                    base=ModelIdentity(name=found.checkpoint.name, digest=found.digest),
                    checkpoint_digest=self._models[cell.checkpoint].digest,
                    asked=base.asked,
                    settings=base.settings,
                    evaluations={
                        role: self._store.path(self._request(model, cell.task)).name
                        for role, model in (("base", BASE), ("checkpoint", cell.checkpoint))
                    },
                ),
            )
            write_record(self._plan.options.results, cell.record_file, record)
            self._tasks[cell] = record
        return self._tasks[cell]
