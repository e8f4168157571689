"""Estimates on documents drawn with replacement, against the estimators themselves on the documents that were drawn."""

import numpy as np
import pytest
from numpy.typing import NDArray

from eaftgate.parity import resampled
from eaftgate.parity.clusters import Estimate, clustered, clusters_by, jackknifed
from eaftgate.parity.resampled import resampled_means

CANDIDATES, DOCUMENTS, DRAWS, SEED = 3, 12, 40, 5


def documents() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    weight_C = rng.integers(1, 30, size=DOCUMENTS)
    return rng.standard_exponential((CANDIDATES, DOCUMENTS)) * weight_C, weight_C


def drawn() -> NDArray[np.int64]:
    return np.random.default_rng(SEED).integers(DOCUMENTS, size=(DRAWS, DOCUMENTS))


def estimator(delta_C: NDArray[np.float64], weight_C: NDArray[np.int64], *, jackknife: bool) -> Estimate:
    if jackknife:
        return jackknifed(delta_C, (clusters_by(np.arange(len(delta_C))),), denominator_T=weight_C)
    tokens = clusters_by(np.repeat(np.arange(len(delta_C)), weight_C))
    value_T = (delta_C / weight_C)[tokens.label_T]
    return clustered(float(value_T.mean()), value_T, (tokens,))


@pytest.mark.parametrize("jackknife", [True, False])
def test_a_draw_is_the_estimate_of_the_documents_that_were_drawn(jackknife: bool) -> None:
    delta_KC, weight_C = documents()
    found = resampled_means(delta_KC, weight_C, draws=DRAWS, seed=SEED, jackknife=jackknife)
    assert len(found) == DRAWS
    for estimates, chosen in zip(found, drawn(), strict=True):
        assert len(estimates) == CANDIDATES
        for estimate, delta_C in zip(estimates, delta_KC, strict=True):
            expected = estimator(delta_C[chosen], weight_C[chosen], jackknife=jackknife)
            for name in ("value", "standard_error", "degrees_of_freedom", "skewness", "num_clusters"):
                assert getattr(estimate, name) == pytest.approx(getattr(expected, name)), name


@pytest.mark.parametrize("at_once", [1, 3 * DOCUMENTS, 1 << 20])
def test_every_draw_is_there_however_many_are_made_at_once(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampled, "_CHUNK", at_once)
    delta_KC, weight_C = documents()
    found = resampled_means(delta_KC, weight_C, draws=DRAWS, seed=SEED, jackknife=True)
    assert len(found) == DRAWS
    assert len({estimates[0].value for estimates in found}) == DRAWS
    again = resampled_means(delta_KC, weight_C, draws=DRAWS, seed=SEED, jackknife=True)
    assert again == found


def test_candidates_without_differences_have_no_error() -> None:
    found = resampled_means(np.zeros((1, 4)), np.array([1, 2, 3, 4]), draws=3, seed=0, jackknife=True)
    assert [(e.value, e.standard_error, e.skewness) for (e,) in found] == [(0, 0, 0)] * 3
