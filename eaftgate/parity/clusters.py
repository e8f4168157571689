"""Standard errors of token statistics whose tokens come in clusters.

Tokens of a row share their document, tokens of a block their context, and blocks mix rows, so no one clustering covers
both: the larger standard error counts. For a statistic that is a mean of `value_T` (or is linearised to one),

    SE^2 = C / (C - 1) * sum_c (sum_{t in c} (value_t - mean))^2 / N^2,   df = C - 1

(Miller, arXiv 2411.00640).

Shapes: T tokens, C clusters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Clusters:
    """`label_T` numbers a token's cluster from 0, `size_C` counts a cluster's tokens, of which each has some."""

    label_T: NDArray[np.intp]
    size_C: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.size_C)

    def sums(self, value_T: NDArray[Any]) -> FloatArray:
        return np.bincount(self.label_T, weights=value_T)  # type: ignore[return-value]  # float64, as weights make it


def clusters_by(key_T: NDArray[np.integer]) -> Clusters:
    """Tokens with the same key, a small number from 0, are one cluster."""
    count = np.bincount(key_T)
    present = count > 0
    return Clusters((np.cumsum(present) - 1)[key_T], count[present])


@dataclass(frozen=True)
class Estimate:
    """A statistic, its standard error (inf: unknown), the degrees of freedom behind that, and the skewness of the
    contributions of its `clusters`, one more than the degrees of freedom unless said otherwise."""

    value: float
    standard_error: float
    degrees_of_freedom: float
    skewness: float = 0.0
    clusters: int | None = None

    @property
    def num_clusters(self) -> float:
        return self.degrees_of_freedom + 1 if self.clusters is None else self.clusters


UNKNOWN = Estimate(math.nan, math.inf, 0)


def clustered(
    value: float, influence_T: NDArray[Any], clusterings: Sequence[Clusters], *, rare: bool = False
) -> Estimate:
    """`value` with the larger of the standard errors of the mean of `influence_T`, which must have mean zero or is
    centred here; for an influence function that mean is irrelevant, for a plain mean it is `value` itself.

    `rare`: the influence counts events that may be so few that their sample variance says nothing (no event at all has
    variance 0). Two made-up clusters of a typical non-empty cluster's weight, one up and one down, are added: the
    cluster form of the adjusted Wald interval (Agresti and Min, Statistics in Medicine 24, 729, 2005).
    """
    tokens = len(influence_T)
    mean = float(np.mean(influence_T, dtype=np.float64))
    found = []
    for clusters in clusterings:
        count = len(clusters)
        if count == 1:
            return Estimate(value, math.inf, 0)
        sum_C = clusters.sums(influence_T)
        deviation_C = sum_C - mean * clusters.size_C
        squares = float(deviation_C @ deviation_C)
        if rare:
            weight_C = np.abs(sum_C[sum_C != 0])
            squares += 2 * max(1.0, float(weight_C.mean()) if len(weight_C) else 1.0) ** 2
        # Scaled first: the cube of a tiny deviation would be 0.
        skewness = float(((deviation_C / math.sqrt(squares)) ** 3).sum()) * math.sqrt(count) if squares else 0.0
        error = math.sqrt(count / (count - 1) * squares) / tokens
        found.append(Estimate(value, error, count - 1, skewness))
    return max(found, key=lambda estimate: estimate.standard_error)


def clustered_mean(value_T: NDArray[Any], clusterings: Sequence[Clusters], *, rare: bool = False) -> Estimate:
    return clustered(float(np.mean(value_T, dtype=np.float64)), value_T, clusterings, rare=rare)


@dataclass(frozen=True)
class Evidence:
    """How many documents a statistic rests on: `effective` is Kish's number, (sum n)^2 / sum n^2 of the documents'
    shares n; `largest` the share of the largest."""

    documents: int
    effective: float
    largest: float


def evidence_of(weight_T: NDArray[Any], documents: Clusters) -> Evidence:
    """`weight_T` >= 0: what every token (or message) counts, with a sum above 0; documents without any are none."""
    share_C = documents.sums(weight_T) / float(np.sum(weight_T, dtype=np.float64))
    return Evidence(int((share_C > 0).sum()), float(1 / (share_C @ share_C)), float(share_C.max()))


def jackknifed(
    numerator_T: NDArray[Any],
    clusterings: Sequence[Clusters],
    *,
    denominator_T: NDArray[Any] | None = None,
    rare: bool = False,
) -> Estimate:
    """sum(numerator) / sum(denominator), a mean without one, with a standard error that holds for clusters as unequal
    as real documents: delete-one-cluster jackknife, and degrees of freedom by Kish's effective number of clusters.

    A cluster that holds a fifth of all tokens pulls the mean towards itself and hides its own deviation from it;
    leaving it out does not. The skewness is that of the left-out values.

    Two made-up clusters are added. What a sample of documents knows least is its tail: those that pass at the margin
    are mostly those that happen to lack the few documents that carry the loss, and a sample without them is sure of
    itself. So the cluster that deviates farthest counts three times. `rare`: as in `clustered`, one up and one down.
    """
    weight_T = np.ones(len(numerator_T)) if denominator_T is None else denominator_T
    total, weight = float(np.sum(numerator_T, dtype=np.float64)), float(np.sum(weight_T, dtype=np.float64))
    value = total / weight
    found = []
    for clusters in clusterings:
        sum_C, weight_C = clusters.sums(numerator_T), clusters.sums(weight_T)
        there_C = (sum_C != 0) | (weight_C != 0)
        sum_C, weight_C = sum_C[there_C], weight_C[there_C]
        count, left_C = len(sum_C), weight - weight_C
        if count == 1 or not left_C.all():
            found.append(Estimate(value, math.inf, 0, clusters=count))
            continue
        deviation_C = value - (total - sum_C) / left_C
        if rare:
            event_C = np.abs(sum_C[sum_C != 0])
            made_up = max(1.0, float(event_C.mean()) if len(event_C) else 1.0) / weight * np.array([1.0, -1.0])
        else:
            made_up = np.repeat(deviation_C[np.abs(deviation_C).argmax()], 2)
        deviation_C = np.concatenate([deviation_C, made_up])
        squares = float(deviation_C @ deviation_C)
        skewness = float(((deviation_C / math.sqrt(squares)) ** 3).sum()) * math.sqrt(count) if squares else 0.0
        effective = weight**2 / float(weight_C @ weight_C)
        error = math.sqrt((count - 1) / count * squares)
        found.append(Estimate(value, error, min(effective, count) - 1, skewness, count))
    return max(found, key=lambda estimate: estimate.standard_error)
