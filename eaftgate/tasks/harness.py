"""EleutherAI's lm-evaluation-harness as it is, with a model that is loaded already. Nothing else here imports it.

Whatever its libraries raise, of a task that is none, or that cannot be fetched, or that a model does not suit, is a
sentence. A task's own files may hold Python, which the harness runs.
"""

import importlib.metadata
import json
import logging
import math
import os
import random
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from eaftgate.choices import did_you_mean
from eaftgate.errors import UserError
from eaftgate.files import sha256_json
from eaftgate.tasks.evaluated import Document, Scores

PACKAGE = "lm_eval"
NOT_INSTALLED = "--tasks needs lm-evaluation-harness, which is not installed: pip install 'eaftgate[tasks]'"
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Of a function in a task's configuration: another in every process."""
_UNFILTERED = "none"


def _batch_for(module: Any, batch_size: int) -> int:
    """The harness pads a batch to its longest document and holds the logits and attention of all of it. Where they do
    not fit, a GPU says so and --batch-size can be lowered; on a CPU, which a batch does not make faster, the process is
    killed."""
    return 1 if module.device.type == "cpu" else batch_size


def installed_version() -> str:
    """Without importing it, which takes seconds. Raises UserError when it is not there."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(NOT_INSTALLED) from None


class Harness:
    """`folder` holds task files of the user's own, which go before the harness' of the same name. `chat_template`:
    prompts are rendered by the tokenizer's."""

    def __init__(self, folder: Path | None, *, chat_template: bool) -> None:
        self._folder, self._chat_template = folder, chat_template
        self._asked: dict[str, str] = {}

    def settings(self) -> dict[str, Any]:
        """Of the harness, that decide the numbers besides task and model."""
        return {"lm_eval": installed_version(), "chat_template": self._chat_template}

    def check(self, task: str) -> None:
        """Raises UserError for a name that is none, at once: what there is may be asked long before it is loaded."""
        with _quietly("--tasks cannot be done"):
            self._manager(task)

    def asked(self, task: str) -> str:
        """The digest of what a task asks: its configuration, every prompt and what is done with the answers.

        Raises UserError for a name that is none, and for a task that cannot be read or fetched.
        """
        if task not in self._asked:
            with _quietly(f"task {task} cannot be loaded"):
                _seed()
                self._asked[task] = sha256_json(list(_told(self._loaded(task)["tasks"])))
        return self._asked[task]

    def evaluate(
        self, task: str, module: Any, tokenizer: Path, *, batch_size: int
    ) -> tuple[tuple[Document, ...], dict[str, Scores]]:
        """What transformers' model `module` makes of a task. Raises UserError where it cannot, and OutOfMemoryError."""
        import torch

        with _quietly(f"task {task} cannot be evaluated", but=(torch.OutOfMemoryError,)):
            from lm_eval.evaluator import evaluate
            from lm_eval.models.huggingface import HFLM

            _seed()
            return read_results(
                evaluate(
                    HFLM(pretrained=module, tokenizer=str(tokenizer), batch_size=_batch_for(module, batch_size)),
                    self._loaded(task),
                    apply_chat_template=self._chat_template,
                    fewshot_as_multiturn=True,
                    bootstrap_iters=0,
                )
            )

    def _loaded(self, name: str) -> Any:
        """Tasks as simple_evaluate has them, which is what `lm_eval` runs; it says more of the machine than is asked
        here. New ones each time: what draws their examples goes on from where it was."""
        from lm_eval.defaults import DEFAULT_OTHER_SEED

        loaded = self._manager(name).load([name])
        for task in loaded["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        return loaded

    def _manager(self, task: str) -> Any:
        """What knows the task. The harness' own ten thousand files are only read where the user's have none."""
        if self._folder is not None and task in self._own.task_index:
            return self._own
        if task not in self._every.task_index:
            raise UserError(f"there is no task {task!r}{did_you_mean(task, self._every.all_tasks)}")
        return self._every

    @cached_property
    def _own(self) -> Any:
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=str(self._folder), include_defaults=False)

    @cached_property
    def _every(self) -> Any:
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=None if self._folder is None else str(self._folder))


def _told(tasks: Mapping[str, Any]) -> Iterator[str]:
    """Every task with its requests, as the evaluator makes them but for a chat template."""
    for name, task in sorted(tasks.items()):
        task.build_all_requests(rank=0, world_size=1)
        requests = [
            [one.request_type, one.doc_id, one.doc, one.arguments, task.doc_to_target(one.doc)]
            for one in task.instances
        ]
        yield _ADDRESS.sub("", json.dumps([name, task.dump_config(), requests], sort_keys=True, default=str))


def _seed() -> None:
    """As simple_evaluate does: a task may draw by chance."""
    import torch
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)  # noqa: NPY002 (what tasks draw from)
    torch.manual_seed(DEFAULT_OTHER_SEED)


def read_results(found: Mapping[str, Any]) -> tuple[tuple[Document, ...], dict[str, Scores]]:
    """From what lm_eval's evaluator returns. Raises UserError where two filters are of other documents."""
    documents: dict[tuple[str, int], Document] = {}
    values: dict[str, dict[tuple[str, int], float | None]] = {}
    for task, samples in found["samples"].items():
        for sample in samples:
            place = (task, int(sample["doc_id"]))
            asked = sha256_json([sample["prompt_hash"], sample["target_hash"]])
            document = Document(task, place[1], sample["doc_hash"], asked)
            if documents.setdefault(place, document) != document:
                raise UserError(f"task {task} asks about document {place[1]} in several ways")
            for metric in sample["metrics"]:
                values.setdefault(_named(metric, sample["filter"]), {})[place] = _number(sample.get(metric))
    return tuple(documents.values()), {
        name: Scores(tuple(of.get(place) for place in documents), _printed(found, name), _direction(found, name))
        for name, of in sorted(values.items())
    }


def _named(metric: str, filtered_by: str) -> str:
    return metric if filtered_by == _UNFILTERED else f"{metric},{filtered_by}"


def _number(value: Any) -> float | None:
    """NumPy's and Python's numbers and truths; None for what else a metric is made of, and what is not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _printed(found: Mapping[str, Any], name: str) -> dict[str, float]:
    """By task and group."""
    key = name if "," in name else f"{name},{_UNFILTERED}"
    every: dict[str, Any] = {**found["results"], **found.get("groups", {})}
    numbers = {task: _number(figures.get(key)) for task, figures in every.items()}
    return {task: number for task, number in numbers.items() if number is not None}


def _direction(found: Mapping[str, Any], name: str) -> bool | None:
    """Whether more is better, where all tasks that say it say the same."""
    metric = name.partition(",")[0]
    said = {of.get(metric) for task, of in found["higher_is_better"].items() if task in found["samples"]} - {None}
    return bool(said.pop()) if len(said) == 1 else None


@contextmanager
def _quietly(problem: str, *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """What the harness and its libraries raise, `but` for that, is one sentence; what they warn of is not the user's to
    mend, and their own bars are not ours."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:  # noqa: PTH123
            warnings.simplefilter("ignore")
            with redirect_stdout(nowhere), redirect_stderr(nowhere):
                yield
    except but:
        raise
    except UserError as error:
        raise UserError(f"{problem}: {error}") from None
    except Exception as error:  # whatever a task, its data or its metrics make it raise
        lines = _lines(error)
        raise UserError(f"{problem} by lm_eval {installed_version()}: {' '.join(lines[:2])[:500]}") from None
    finally:
        logging.disable(before)


def _lines(error: BaseException) -> Sequence[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
