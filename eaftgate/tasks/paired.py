"""A task under two models, paired by document: each metric's difference with its standard error.

A metric is compared where it is a mean over documents of figures from 0 to 1, as accuracy and exact match are: lm_eval
prints just that mean. What is no such mean (a perplexity, BLEU, an F1 over all documents) has no figure of a single
document, and no interval here.

Shapes: N documents.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eaftgate.parity.clusters import Clusters, clusters_by, evidence_of, jackknifed
from eaftgate.parity.estimates import Measured
from eaftgate.tasks.evaluated import Evaluated, Scores

SAME = 1e-9
"""How far the mean of the documents may be from what lm_eval prints: it adds in another order."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class PairedTask:
    base: Evaluated
    candidate: Evaluated

    def __len__(self) -> int:
        return len(self.base)

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.base.metrics)

    @cached_property
    def documents(self) -> Clusters:
        """Of the same text, wherever they stand: a document that is asked twice is one cluster."""
        numbers: dict[str, int] = {}
        return clusters_by(np.array([numbers.setdefault(one.text, len(numbers)) for one in self.base.documents]))

    def difference(self, metric: str) -> Measured | None:
        """Candidate less base. None for what is no mean over documents of figures from 0 to 1."""
        base, candidate = self.base.metrics[metric], self.candidate.metrics[metric]
        if base.higher_is_better is None or not (self._is_mean(base) and self._is_mean(candidate)):
            return None
        base_N, candidate_N = (np.array(scores.values, np.float64) for scores in (base, candidate))
        change_N = candidate_N - base_N
        loss_N = -change_N if base.higher_is_better else change_N
        return Measured(
            jackknifed(change_N, (self.documents,), rare=True),
            evidence_of(np.ones(len(change_N)), self.documents),
            lost=int((loss_N > 0).sum()),
            gained=int((loss_N < 0).sum()),
            details={"base": float(base_N.mean()), "candidate": float(candidate_N.mean())},
        )

    def _is_mean(self, scores: Scores) -> bool:
        """Of every task by itself, so that what a group prints may weigh them as it likes."""
        values: dict[str, list[float]] = {}
        for document, value in zip(self.base.documents, scores.values, strict=True):
            if value is None or not 0 <= value <= 1:
                return False
            values.setdefault(document.task, []).append(value)
        return all(
            task in scores.printed and math.isclose(sum(of) / len(of), scores.printed[task], rel_tol=SAME, abs_tol=SAME)
            for task, of in values.items()
        )


def pair_task(base: Evaluated, candidate: Evaluated) -> PairedTask:
    """Raises ValueError when the two are of other documents, or have other metrics."""
    if (base.task, base.asked, base.documents) != (candidate.task, candidate.asked, candidate.documents):
        raise ValueError("base and candidate were asked about different documents")
    if _kinds(base.metrics) != _kinds(candidate.metrics):
        raise ValueError("base and candidate have different metrics")
    return PairedTask(base, candidate)


def _kinds(metrics: Mapping[str, Scores]) -> dict[str, bool | None]:
    return {name: scores.higher_is_better for name, scores in metrics.items()}
