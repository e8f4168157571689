"""The overlap of keep sets, held to counting by hand and to drawing at random."""

import itertools

import numpy as np
import pytest

from eaftgate.select.overlap import jaccard_by_chance, jaccard_L


def test_known_overlaps() -> None:
    keep = [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    other = [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    assert jaccard_L(keep, other).tolist() == [1.0, 2 / 6, 0.0]
    assert jaccard_L(other, keep).tolist() == [1.0, 2 / 6, 0.0]


def test_keep_sets_of_different_sizes() -> None:
    assert jaccard_L([[0, 1, 2, 3]], [[0, 1]]).tolist() == [0.5]


def test_other_numbers_of_layers_are_refused() -> None:
    with pytest.raises(ValueError):
        jaccard_L([[0], [1]], [[0]])


@pytest.mark.parametrize(("experts", "keep_n", "other"), [(6, 3, 3), (6, 4, 2), (5, 5, 3), (6, 1, 1)])
def test_by_chance_is_the_mean_over_all_pairs_of_keep_sets(experts: int, keep_n: int, other: int) -> None:
    everyone = range(experts)
    pairs = itertools.product(itertools.combinations(everyone, keep_n), itertools.combinations(everyone, other))
    mean = np.mean([jaccard_L([a], [b])[0] for a, b in pairs])
    assert jaccard_by_chance(experts, keep_n, other) == pytest.approx(mean)
