"""What one model makes of a task of lm-evaluation-harness, document by document, and the file that holds it.

A file says what it is of, holds every figure that is compared, and carries the sha256 of everything in it: it is enough
to judge by, without the harness, the task or a model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eaftgate.records import Unusable, read_sealed, write_model

SCHEMA: Literal["evaluated-1"] = "evaluated-1"
WHAT = "results of a task"


@dataclass(frozen=True)
class Document:
    """A document that was asked about. `task` is its own (a group has several), `number` the harness' of it; `text` the
    sha256 of the document, `asked` that of prompt and target."""

    task: str
    number: int
    text: str
    asked: str


@dataclass(frozen=True)
class Scores:
    """A metric, document by document; None where one has no number of it. `printed` is what lm_eval prints, by task
    and group. `higher_is_better` is None where the task does not say."""

    values: tuple[float | None, ...]
    printed: dict[str, float]
    higher_is_better: bool | None


@dataclass(frozen=True)
class Evaluated:
    """`checkpoint` is the digest of the model, `asked` that of what the task asks (tasks.harness), `settings` decide
    the numbers besides. `metrics` are named as lm_eval prints them: with the filter's name, where that is not none."""

    schema: Literal["evaluated-1"]
    checkpoint: str
    task: str
    asked: str
    settings: dict[str, Any]
    documents: tuple[Document, ...]
    metrics: dict[str, Scores]
    seconds: float

    def __len__(self) -> int:
        return len(self.documents)


def save_evaluated(path: Path, evaluated: Evaluated) -> None:
    write_model(path, evaluated, sealed=True)


def load_evaluated(path: Path, of: Mapping[str, Any]) -> Evaluated:
    """Raises Unusable when the file is damaged, or does not say of itself what `of` does."""
    found = read_sealed(path, Evaluated, of, what=WHAT)
    if problem := problem_of(found):
        raise Unusable(path, problem, what=WHAT)
    return found


def problem_of(evaluated: Evaluated) -> str:
    """Why no harness can have said this; empty when one can."""
    if not evaluated.documents or not evaluated.metrics:
        return "it has no document, or no metric"
    for name, scores in evaluated.metrics.items():
        if len(scores.values) != len(evaluated.documents):
            return f"{name} is of {len(scores.values)} of {len(evaluated.documents)} documents"
        if any(value is not None and not math.isfinite(value) for value in (*scores.values, *scores.printed.values())):
            return f"{name} is not finite"
    return ""
