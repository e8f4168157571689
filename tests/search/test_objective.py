"""What the refinement lowers: the loss of all tokens, and that of packs that are behind it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaftgate.collect.collection import Collection, TokenStats
from eaftgate.search.objective import EXCESS, PackLosses, pack_losses

PACKS = st.lists(st.tuples(st.floats(0.001, 1), st.integers(1, 1000)), min_size=1, max_size=5)


def losses(packs: list[tuple[float, int]]) -> PackLosses:
    loss_P, count_P = (np.array(column, float) for column in zip(*packs, strict=True))
    return PackLosses(loss_P, count_P / count_P.sum())


@given(PACKS)
def test_weights_are_how_the_objective_changes_while_the_loss_packs_are_compared_with_stands_still(
    packs: list[tuple[float, int]],
) -> None:
    at = losses(packs)
    compared = float(at.share_P @ at.loss_P)

    def objective(loss_P: np.ndarray) -> float:
        behind_P = np.maximum(loss_P / compared - 1, 0)
        return float(at.share_P @ (loss_P + EXCESS / 2 * compared * behind_P**2))

    assert at.objective == pytest.approx(objective(at.loss_P))
    step = 1e-6
    slope_P = [
        (objective(at.loss_P + step * one_P) - objective(at.loss_P - step * one_P)) / (2 * step) / share
        for one_P, share in zip(np.eye(len(packs)), at.share_P, strict=True)
    ]
    # A kink where a pack loses just what all do: the two sides differ by EXCESS * step / compared.
    scale = float(at.share_P @ slope_P)
    assert at.weight_P == pytest.approx(np.array(slope_P) / scale, rel=1e-3 + 2 * EXCESS * step / compared)


@given(PACKS)
def test_weights_are_1_on_average_and_least_where_nothing_more_is_lost(packs: list[tuple[float, int]]) -> None:
    at = losses(packs)
    assert float(at.share_P @ at.weight_P) == pytest.approx(1)
    mean = float(at.share_P @ at.loss_P)
    assert at.objective >= mean
    order = np.argsort(at.loss_P)
    assert np.all(np.diff(at.weight_P[order]) >= -1e-12)
    assert np.ptp(at.weight_P[at.loss_P <= mean * (1 + 1e-9)]) < 1e-6


def test_tokens_of_one_pack_and_of_a_model_that_gained_weigh_alike() -> None:
    assert losses([(0.1, 5)]).weight_P.tolist() == [1]
    gained = losses([(-0.2, 5), (0.1, 5)])
    assert gained.weight_P.tolist() == [1, 1]
    assert gained.objective == pytest.approx(-0.05)


def test_an_example_by_hand() -> None:
    """Losses 0.1 and 0.2, three tokens in four of the first: 0.125 in all, the second 0.6 of that behind."""
    at = losses([(0.1, 3), (0.2, 1)])
    assert at.objective == pytest.approx(0.125 * (1 + 3 * 0.25 * 0.6**2))
    assert at.weight_P == pytest.approx(np.array([1, 4.6]) / 1.9)


def collection(logprob_T: list[float], row_T: list[int]) -> Collection:
    size = len(logprob_T)
    stats = TokenStats(
        np.array(logprob_T, np.float32),
        np.zeros(size, np.float32),
        np.zeros((size, 20), np.int32),
        np.zeros((size, 20), np.float32),
    )
    return Collection(stats, np.array(row_T, np.int32), np.zeros(size, np.int32), ("a", "b", "c"), {})


def test_losses_are_means_over_all_pairs_and_a_pack_without_tokens_loses_nothing() -> None:
    first = collection([-1, -1, -1], [0, 0, 1]), collection([-1.5, -1.25, -2], [0, 0, 1])
    second = collection([-3], [1]), collection([-3.5], [1])
    found = pack_losses([first, second], np.array([0, 2, 1]))
    assert found.loss_P.tolist() == [0.375, 0, 0.75]
    assert found.share_P.tolist() == [0.5, 0, 0.5]
