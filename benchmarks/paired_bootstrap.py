"""Two selections on the same documents, drawn anew with replacement: a ratio of losses, and calls lost more by one.

Only sums over documents are drawn, and the same documents for both, so that what a document does to both drops out.

Shapes: D documents, X columns, N draws.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
LEVEL = 0.95
_CHUNK = 1 << 22
"""Documents drawn at a time."""

FloatArray = NDArray[np.float64]


def by_document(document_X: NDArray[np.integer], value_X: NDArray[Any], documents: int) -> FloatArray:
    """[D]: the sum of the values of every document, numbered from 0."""
    return np.bincount(document_X, weights=value_X, minlength=documents)  # type: ignore[return-value]  # float64


def drawn_sums(sum_DX: FloatArray, *, seed: int, draws: int = DRAWS) -> FloatArray:
    """[N, X]: the sums over as many documents as there are, drawn with replacement, the same ones for all columns."""
    generator, documents = np.random.default_rng(seed), len(sum_DX)
    at_a_time = max(1, _CHUNK // documents)
    return np.concatenate(
        [
            sum_DX[generator.integers(documents, size=(min(at_a_time, draws - start), documents))].sum(axis=1)
            for start in range(0, draws, at_a_time)
        ]
    )


def ratio(over_D: FloatArray, under_D: FloatArray, *, seed: int, draws: int = DRAWS) -> dict[str, float | None]:
    """sum(over) / sum(under) with its interval; None where the lower sum may be none above 0."""
    value = float(over_D.sum() / under_D.sum()) if under_D.sum() > 0 else None
    over_N, under_N = drawn_sums(np.stack([over_D, under_D], axis=1), seed=seed, draws=draws).T
    if value is None or (under_N <= 0).any():
        return {"ratio": value, "lower": None, "upper": None}
    return {"ratio": value, **_interval(over_N / under_N)}


def share_difference(
    one_D: FloatArray, other_D: FloatArray, of_D: FloatArray, *, seed: int, draws: int = DRAWS
) -> dict[str, float | None]:
    """(sum(one) - sum(other)) / sum(of) with its interval; None without any."""
    if not of_D.sum():
        return {"difference": None, "lower": None, "upper": None}
    difference_N, of_N = drawn_sums(np.stack([one_D - other_D, of_D], axis=1), seed=seed, draws=draws).T
    some_N = of_N > 0
    value = float((one_D - other_D).sum() / of_D.sum())
    return {"difference": value, **_interval(difference_N[some_N] / of_N[some_N])}


def _interval(value_N: NDArray[Any]) -> dict[str, float | None]:
    lower, upper = np.quantile(value_N, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return {"lower": lower, "upper": upper}


def with_interval(found: Mapping[str, float | None], key: str, form: str) -> str:
    """`0.850 [0.800, 0.900]`; a dash for what there is not."""
    values = (found[name] for name in (key, "lower", "upper"))
    middle, lower, upper = ("-" if value is None else format(value, form) for value in values)
    return f"{middle} [{lower}, {upper}]"
