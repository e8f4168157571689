"""What a token counts in a refinement."""

import numpy as np
import pytest
from content import content_roles
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from eaftgate.collect.collection import Collection, TokenStats
from eaftgate.search.pack_weights import row_weights
from eaftgate.search.settings import PACK_EXCESS

PACKS = st.lists(st.tuples(st.floats(-0.5, 1), st.integers(1, 20)), min_size=1, max_size=5)


def collection(logprob_T: list[float], row_T: list[int]) -> Collection:
    size = len(logprob_T)
    stats = TokenStats(
        np.array(logprob_T, np.float32),
        np.zeros(size, np.float32),
        np.zeros((size, 20), np.int32),
        np.zeros((size, 20), np.float32),
    )
    nothing, content = np.zeros(size, np.int32), np.ones(size, bool)
    return Collection(
        stats, nothing, np.array(row_T, np.int32), nothing, content_roles(content), ~content, ("a", "b", "c"), {}
    )


def weights(packs: list[tuple[float, int]], pack_excess: float = PACK_EXCESS) -> NDArray[np.float64]:
    """One row a pack, that loses so much on each of so many tokens."""
    row_T = [row for row, (_, count) in enumerate(packs) for _ in range(count)]
    whole = collection([-1.0] * len(row_T), row_T)
    pruned = collection([-1 - packs[row][0] for row in row_T], row_T)
    return row_weights([(whole, pruned)], np.arange(len(packs)), pack_excess=pack_excess)


@given(PACKS)
def test_weights_are_1_on_average_and_larger_the_more_a_pack_loses(packs: list[tuple[float, int]]) -> None:
    loss_P, count_P = (np.array(column, float) for column in zip(*packs, strict=True))
    weight_P = weights(packs)
    assert weight_P @ count_P / count_P.sum() == pytest.approx(1)
    assert np.all(np.diff(weight_P[np.argsort(loss_P)]) >= -1e-4)  # the losses are of float32
    assert weight_P.max() <= weight_P.min() * (1 + PACK_EXCESS) * (1 + 1e-9)
    assert weights(packs, pack_excess=0).tolist() == pytest.approx([1] * len(packs))


def test_an_example_by_hand() -> None:
    """Losses 0.25 and 0.5, three tokens in four of the first: 0.3125 in all, of which the second is 0.6 behind."""
    assert weights([(0.25, 3), (0.5, 1)]) == pytest.approx(np.array([1, 4.6]) / 1.9)


def test_twice_the_loss_is_as_bad_as_it_gets() -> None:
    assert weights([(0.0, 9), (0.5, 1)]) == pytest.approx(np.array([1, 7]) / 1.6)


def test_one_pack_and_packs_that_lose_alike_weigh_alike() -> None:
    assert weights([(0.25, 5)]).tolist() == [1]
    assert weights([(0.25, 5), (0.25, 1)]).tolist() == [1, 1]


def test_where_all_tokens_together_gain_a_pack_that_loses_still_weighs_more() -> None:
    assert weights([(-0.5, 3), (0.25, 1), (-0.25, 1)]) == pytest.approx(np.array([1, 7, 1]) / 2.2)


def test_losses_are_means_over_all_pairs_and_a_pack_without_tokens_changes_nothing() -> None:
    first = collection([-1, -1, -1], [0, 0, 1]), collection([-1.5, -1.25, -2], [0, 0, 1])
    second = collection([-3], [1]), collection([-3.5], [1])
    # 0.375 on pack 0, 0.75 on pack 2, 0.5625 in all, of which pack 2 is a third behind
    found_R = row_weights([first, second], np.array([0, 2, 1]), pack_excess=6.0)
    assert found_R == pytest.approx(np.array([1, 3, 1]) / 2)
