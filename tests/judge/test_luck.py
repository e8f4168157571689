"""How often the best of several candidates on the margin passes by luck."""

import numpy as np
import pytest
from numpy.typing import NDArray
from shipped_policies import V2, V3

from eaftgate.judge.luck import passes_by_luck
from eaftgate.judge.policy import IntervalPolicy

DOCUMENTS, DRAWS = 800, 2_000
ERROR = 4 * (0.05 * 0.95 / DRAWS) ** 0.5
"""Four standard errors of a share of 0.05 among the draws; the documents that are drawn from add as much."""


def candidates(number: int, *, shared: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums of differences by document, of which any two candidates' have correlation `shared`; and documents' sizes."""
    rng = np.random.default_rng(1)
    weight_C = rng.integers(50, 250, size=DOCUMENTS)
    own_KC = rng.standard_normal((number, DOCUMENTS))
    return (np.sqrt(shared) * rng.standard_normal(DOCUMENTS) + np.sqrt(1 - shared) * own_KC) * 0.2 * weight_C, weight_C


def passes(policy: IntervalPolicy, number: int, *, shared: float, best_of: int = 1) -> NDArray[np.bool_]:
    return passes_by_luck(policy, *candidates(number, shared=shared), best_of=best_of, draws=DRAWS, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [V2, V3])
def test_one_passes_as_often_as_alpha_and_one_of_several_more_often(policy: IntervalPolicy) -> None:
    passes_KB = passes(policy, 4, shared=0.0)
    assert passes_KB.shape == (4, DRAWS)
    assert passes_KB.mean(axis=1) == pytest.approx(0.05, abs=ERROR)
    assert passes_KB.any(axis=0).mean() == pytest.approx(1 - 0.95**4, abs=2 * ERROR)


@pytest.mark.slow
def test_what_candidates_have_in_common_counts() -> None:
    apart, alike, same = (passes(V3, 4, shared=shared).any(axis=0).mean() for shared in (0.0, 0.9, 1.0))
    assert apart > alike + ERROR > same + ERROR
    assert same == passes(V3, 4, shared=1.0)[0].mean()


def test_as_the_best_of_as_many_they_pass_no_more_often_than_one_alone() -> None:
    assert passes(V3, 4, shared=0.0, best_of=4).any(axis=0).mean() == pytest.approx(0.05, abs=ERROR)


def test_how_good_the_candidates_are_does_not_matter() -> None:
    """They are moved to the margin; what stays is how documents differ."""
    delta_KC, weight_C = candidates(2, shared=0.5)
    moved_KC = delta_KC + np.array([[0.3], [-2.0]]) * weight_C
    found = [
        passes_by_luck(V3, of_KC, weight_C, best_of=1, draws=DRAWS, seed=0).mean(axis=1)
        for of_KC in (delta_KC, moved_KC)
    ]
    assert found[1] == pytest.approx(found[0], abs=2 / DRAWS)


def test_a_candidate_without_differences_is_always_at_the_margin() -> None:
    weight_C = np.arange(1, 101)
    assert not passes_by_luck(V3, np.zeros((2, 100)), weight_C, best_of=1, draws=50, seed=0).any()
