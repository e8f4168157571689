"""Halves of the calibration blocks: what was measured of a part is not run again for another."""

from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch
from content import content_blocks
from tiny_checkpoint import Size
from tiny_model import TinyModel, load_lively, write_lively_checkpoint

from eaftgate.packs.blocks import Blocks
from eaftgate.search import half as halves
from eaftgate.search.evaluate import predicted, predicted_after, referred
from eaftgate.search.half import Half
from eaftgate.search.objective import Objective, Predictions, Reference
from eaftgate.select.keep import KeepSets, replaced

LAYERS, SHAPE = 3, (8, 12)
KEEP: KeepSets = [[0, 2, 4], [1, 3, 5], [0, 3, 4]]
OTHER: KeepSets = [[0, 1, 4], [1, 3, 5], [0, 1, 4]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    size = Size(layers=LAYERS, experts=6, top_k=2)
    return load_lively(write_lively_checkpoint(tmp_path_factory.mktemp("base"), size=size))


@pytest.fixture(scope="module")
def blocks(model: TinyModel) -> Blocks:
    rng = np.random.default_rng(0)
    scored_BS = rng.random(SHAPE) < 0.7
    scored_BS[:, 0] = False
    ids_BS = rng.integers(0, len(model.head_VD), SHAPE).astype(np.int32)
    row_BS = np.broadcast_to(np.arange(SHAPE[0], dtype=np.int32)[:, None], SHAPE)
    return content_blocks("chat", SHAPE[1], ids_BS, scored_BS, row_BS, tuple(map(str, range(SHAPE[0]))))


@pytest.fixture
def whole(model: TinyModel, blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> Objective:
    monkeypatch.setattr(halves, "FEWEST_TOKENS", 1)
    return Objective(blocks, referred(model, blocks), np.zeros(SHAPE[0], int), {"ppl": 0.04})


@pytest.mark.parametrize(("share", "fewest", "expected"), [
    (1 / 4, 1, [0, 4]), (1 / 3, 1, [0, 2, 5]), (1 / 4, 26, [0, 2, 4, 6]), (1 / 4, 1000, range(8)), (1, 1, range(8)),
])  # fmt: skip
def test_a_part_is_of_evenly_spread_blocks(
    model: TinyModel, whole: Objective, monkeypatch: pytest.MonkeyPatch, share: float, fewest: int, expected: list[int]
) -> None:
    """The half has 8 blocks with about 60 tokens."""
    monkeypatch.setattr(halves, "FEWEST_TOKENS", fewest)
    part = Half(model, whole, batch_size=3).part(share)
    np.testing.assert_array_equal(part.blocks.token_ids_BS, whole.blocks.token_ids_BS[list(expected)])


@pytest.fixture
def asked_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of every measurement how many blocks were run."""
    found: list[int] = []

    def told(
        model: TinyModel, layer: int, states: Iterable[torch.Tensor], blocks: Blocks, base: Reference
    ) -> Predictions:
        found.append(blocks.num_blocks)
        return measure(model, layer, states, blocks, base)

    measure = predicted_after
    monkeypatch.setattr(halves, "predicted_after", told)
    return found


def check(half: Half, model: TinyModel, keep: KeepSets, share: float) -> None:
    found, part = half.predictions(keep, share), half.part(share)
    with model.keeping(keep):
        expected = predicted(model, part.blocks, part.base)
    np.testing.assert_allclose(found.divergence_T, expected.divergence_T, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.lead_T, expected.lead_T, rtol=1e-4, atol=1e-5)
    assert expected.divergence_T.mean() > 0.01, "what removes nothing shows nothing"


@pytest.mark.parametrize("shares", [(1 / 4, 3 / 4, 1), (1, 1 / 2, 1 / 4), (1 / 2, 3 / 4, 1 / 2, 1)])
def test_what_was_measured_of_a_part_is_not_run_again(
    model: TinyModel, whole: Objective, asked_blocks: list[int], shares: Sequence[float]
) -> None:
    """And gives what running all of it gives, whatever layer the half has come to."""
    half = Half(model, whole, batch_size=3)
    half.begin(1)
    for layer in range(LAYERS):
        other = replaced(KEEP, layer, [0, 1, 5])
        for share in shares:
            check(half, model, KEEP, share)
            check(half, model, other, share)
        assert sum(asked_blocks) == 8 * (2 if layer == 0 else 1)
        asked_blocks.clear()
        half.forget_all_but(KEEP)
        half.pass_layer(KEEP)


def test_what_is_forgotten_is_run_again(model: TinyModel, whole: Objective, asked_blocks: list[int]) -> None:
    half = Half(model, whole, batch_size=3)
    half.begin(1 / 3, 1 / 2)
    for _ in range(2):
        half.predictions(KEEP, 1 / 2)
        half.predictions(OTHER, 1 / 3)
    half.forget_all_but(KEEP)
    half.predictions(OTHER, 1 / 2)
    check(half, model, KEEP, 1 / 3)
    assert asked_blocks == [4, 3, 4, 1], "of [0, 2, 5] all but what is in [0, 2, 4, 6]"


def test_losses_are_those_of_the_part(model: TinyModel, whole: Objective) -> None:
    half = Half(model, whole, batch_size=3)
    half.begin(1)
    part = whole.of_blocks(np.array([0, 2, 4, 6]))
    assert half.loss(KEEP, 1 / 2) == part.loss(half.predictions(KEEP, 1 / 2)) > 0
    found = half.change(KEEP, OTHER)
    assert found == whole.change(half.predictions(KEEP, 1), half.predictions(OTHER, 1))
    assert found.value == pytest.approx(half.loss(OTHER, 1) - half.loss(KEEP, 1))
