"""Results of tasks on disk: evaluated once per content, shared between processes.

As collections are (collect.store): the key is the sha256 of the checkpoint's digest, of what the task asks and of the
settings, it names the file, and the file is used only when it says the same of itself. A task that was not brought to
its end is begun anew.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from eaftgate.collect.store import Say
from eaftgate.errors import UserError
from eaftgate.files import sha256_json, write_failure
from eaftgate.records import Unusable
from eaftgate.tasks.evaluated import SCHEMA, Document, Evaluated, Scores, load_evaluated, problem_of, save_evaluated

Evaluate = Callable[[], tuple[tuple[Document, ...], dict[str, Scores]]]


@dataclass(frozen=True)
class Request:
    """What this model makes of this task. `evaluate` does it."""

    checkpoint_digest: str
    task: str
    asked: str
    settings: dict[str, Any]
    evaluate: Evaluate

    def of(self) -> dict[str, Any]:
        """What a file says of itself."""
        return {
            "schema": SCHEMA,
            "checkpoint": self.checkpoint_digest,
            "task": self.task,
            "asked": self.asked,
            "settings": self.settings,
        }

    @property
    def key(self) -> str:
        return sha256_json(self.of())


class EvaluatedStore:
    """Results of tasks under one directory."""

    def __init__(self, root: Path, *, say: Say = lambda _: None) -> None:
        self._root, self._say = root, say

    def path(self, request: Request) -> Path:
        return self._root / f"{request.key[:32]}.json"

    def get(self, request: Request, *, shown: Callable[[], AbstractContextManager[object]]) -> Evaluated:
        """From disk, or evaluated now, within `shown`; a second process asking for it waits for the first. Raises
        UserError when it cannot be."""
        path = self.path(request)
        with suppress(Unusable):
            if path.exists():
                return load_evaluated(path, request.of())
        self._root.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            try:
                if path.exists():
                    return load_evaluated(path, request.of())
            except Unusable as error:
                self._say(f"{path} is not used but evaluated again: {error.reason}")
            started = time.perf_counter()
            with shown():
                documents, metrics = request.evaluate()
            seconds = time.perf_counter() - started
            found = Evaluated(**request.of(), documents=documents, metrics=metrics, seconds=seconds)
            if problem := problem_of(found):
                raise UserError(f"task {request.task}: {problem}; the task or its harness is broken")
            try:
                save_evaluated(path, found)
            except OSError as error:
                raise write_failure(error, path) from None
            return found
