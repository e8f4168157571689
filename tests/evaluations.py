"""Results of tasks that nobody evaluated."""

from collections.abc import Sequence
from typing import Any

from eaftgate.tasks.evaluated import Document, Evaluated, Scores


def scores(values: Sequence[float | None], *, higher_is_better: bool | None = True, **printed: float) -> Scores:
    """As `sums` has them; it prints their mean unless said otherwise."""
    numbers = [value for value in values if value is not None]
    return Scores(tuple(values), printed or {"sums": sum(numbers) / len(numbers)}, higher_is_better)


def evaluated(*, texts: Sequence[str] | None = None, tasks: Sequence[str] | None = None, **given: Any) -> Evaluated:
    """Metrics by name, as Scores or values; `texts` and `tasks` are those of the documents."""
    metrics = {name: of if isinstance(of, Scores) else scores(of) for name, of in given.items() if name not in _FIELDS}
    count = len(next(iter(metrics.values())).values)
    documents = tuple(
        Document("sums" if tasks is None else tasks[n], n, str(n) if texts is None else texts[n], f"asked {n}")
        for n in range(count)
    )
    fields = {name: of for name, of in given.items() if name in _FIELDS}
    return Evaluated(**{**_FIELDS, "documents": documents, "metrics": metrics, **fields})


_FIELDS: dict[str, Any] = {
    "schema": "evaluated-1",
    "checkpoint": "c",
    "task": "sums",
    "asked": "a",
    "settings": {"lm_eval": "planted"},
    "documents": (),
    "seconds": 1.0,
}
