"""What benchmarks/unseen.py says of two selections is what drawing documents one by one says."""

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.paired_bootstrap import LEVEL, by_document, ratio, share_difference

SEED, DRAWS, DOCUMENTS = 3407, 400, 60
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def drawn_one_by_one(*columns: NDArray[np.float64]) -> list[list[float]]:
    """By draw, the sum of every column over the documents drawn."""
    generator = np.random.default_rng(SEED)
    draws = [generator.integers(DOCUMENTS, size=DOCUMENTS).tolist() for _ in range(DRAWS)]
    return [[sum(float(column[document]) for document in draw) for column in columns] for draw in draws]


def test_values_are_summed_by_document() -> None:
    assert by_document(np.array([0, 2, 0]), np.array([1.0, 2.0, 4.0]), 4).tolist() == [5.0, 0.0, 2.0, 0.0]


def test_a_ratio_has_the_interval_of_plain_loops() -> None:
    generator = np.random.default_rng(1)
    size_D = generator.integers(5, 400, DOCUMENTS).astype(np.float64)
    other_D = size_D * generator.normal(0.05, 0.02, DOCUMENTS)
    one_D = 0.8 * other_D + size_D * generator.normal(0, 0.002, DOCUMENTS)
    found = ratio(one_D, other_D, seed=SEED, draws=DRAWS)
    expected = np.quantile([one / other for one, other in drawn_one_by_one(one_D, other_D)], TAILS).tolist()
    assert found == pytest.approx({"ratio": one_D.sum() / other_D.sum(), "lower": expected[0], "upper": expected[1]})
    # The documents are the same ones for both: by themselves either sum is known to a tenth only.
    assert expected[1] - expected[0] < 0.04


def test_calls_lost_more_are_a_share_of_those_that_there_are() -> None:
    generator = np.random.default_rng(2)
    of_D = generator.integers(0, 4, DOCUMENTS).astype(np.float64)
    one_D, other_D = np.minimum(of_D, 1), np.where(np.arange(DOCUMENTS) < 10, of_D, 0.0)
    found = share_difference(one_D, other_D, of_D, seed=SEED, draws=DRAWS)
    slow = [(one - other) / of for one, other, of in drawn_one_by_one(one_D, other_D, of_D)]
    lower, upper = np.quantile(slow, TAILS).tolist()
    value = (one_D.sum() - other_D.sum()) / of_D.sum()
    assert found == pytest.approx({"difference": value, "lower": lower, "upper": upper})


def test_a_loss_that_may_be_none_has_no_ratio_that_could_be_believed() -> None:
    rise_D = np.array([1.0, -0.5, 0.1])
    assert ratio(rise_D, rise_D, seed=SEED, draws=DRAWS) == {"ratio": 1.0, "lower": None, "upper": None}
    assert ratio(rise_D, -rise_D, seed=SEED, draws=DRAWS)["ratio"] is None
    assert share_difference(rise_D, rise_D, np.zeros(3), seed=SEED)["difference"] is None
