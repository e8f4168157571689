"""Halves of the calibration blocks: parts that lie in each other, and what was measured of one is not run again."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from content import content_blocks
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoint import Size
from tiny_model import TinyModel, load_lively, write_lively_checkpoint

from eaftgate.packs.blocks import Blocks
from eaftgate.search import half as halves
from eaftgate.search.evaluate import predicted, predicted_after, referred
from eaftgate.search.half import Half, nested_order, part_sizes
from eaftgate.search.objective import Objective
from eaftgate.search.prefix import Prefix
from eaftgate.select.keep import KeepSets, replaced

LAYERS, SHAPE = 3, (8, 12)
SHARES = (1 / 4, 3 / 4, 1 / 2, 1)
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
def sizes(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> dict[float, int]:
    monkeypatch.setattr(halves, "FEWEST_TOKENS", 1)
    return part_sizes(blocks, SHARES)


@pytest.fixture
def whole(model: TinyModel, blocks: Blocks, sizes: dict[float, int]) -> Objective:
    blocks = blocks.reordered(nested_order(sizes.values()))
    return Objective(blocks, referred(model, blocks), np.zeros(SHAPE[0], int), {"ppl": 0.04})


@pytest.mark.parametrize(("fewest", "expected"), [(1, [2, 6, 4, 8]), (26, [4, 6, 4, 8]), (1000, [8, 8, 8, 8])])
def test_a_part_is_a_share_but_not_too_small(
    blocks: Blocks, monkeypatch: pytest.MonkeyPatch, fewest: int, expected: list[int]
) -> None:
    """The half has 8 blocks with about 60 tokens."""
    monkeypatch.setattr(halves, "FEWEST_TOKENS", fewest)
    sizes = part_sizes(blocks, SHARES)
    assert list(sizes) == sorted(SHARES, reverse=True)
    assert [sizes[share] for share in SHARES] == expected


def test_parts_are_spread_evenly_and_lie_in_each_other() -> None:
    assert nested_order([8, 6, 4, 2]).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert nested_order([8, 8, 1, 1]).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert nested_order([7]).tolist() == [0, 1, 2, 3, 4, 5, 6]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_every_block_has_its_place(sizes: list[int]) -> None:
    sizes = sorted(sizes, reverse=True)
    order = nested_order(sizes)
    assert sorted(order.tolist()) == list(range(sizes[0]))
    for larger, smaller in pairwise(sizes):
        places = np.searchsorted(np.sort(order[:larger]), np.sort(order[:smaller]))
        assert np.diff(places).max(initial=0) <= -(-larger // smaller)


@pytest.fixture
def asked_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of every measurement how many blocks were run."""
    found: list[int] = []

    def told(model: TinyModel, layer: int, prefix: Prefix, blocks: Blocks, *more: object) -> object:
        assert sum(map(len, prefix.states)) == blocks.num_blocks
        found.append(blocks.num_blocks)
        return measure(model, layer, prefix, blocks, *more)  # type: ignore[arg-type]

    measure = predicted_after
    monkeypatch.setattr(halves, "predicted_after", told)
    return found


def check(half: Half, model: TinyModel, whole: Objective, keep: KeepSets, share: float, size: int) -> None:
    found, part = half.predictions(keep, share), whole.of_blocks(np.arange(size))
    with model.keeping(keep):
        expected = predicted(model, part.blocks, part.base)
    np.testing.assert_allclose(found.divergence_T, expected.divergence_T, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.first_T, expected.first_T)
    assert expected.divergence_T.mean() > 0.01, "what removes nothing shows nothing"


@pytest.mark.parametrize("shares", [(1 / 4, 3 / 4, 1), (1, 1 / 2, 1 / 4), (1 / 2, 1 / 2, 1)])
def test_what_was_measured_of_a_part_is_not_run_again(
    model: TinyModel, whole: Objective, sizes: dict[float, int], asked_blocks: list[int], shares: Sequence[float]
) -> None:
    """And gives what running all of it gives, whatever layer the half has come to."""
    half = Half(model, whole, sizes, batch_size=3)
    half.begin(1)
    for layer in range(LAYERS):
        other = replaced(KEEP, layer, OTHER[layer])
        for keep in (KEEP, other):
            for share in shares:
                check(half, model, whole, keep, share, sizes[share])
        assert sum(asked_blocks) == (8 * 2 if other != KEEP and layer == 0 else 8 * (other != KEEP)), layer
        asked_blocks.clear()
        half.forget_all_but(KEEP)
        half.pass_layer(KEEP)


def test_what_is_forgotten_is_run_again(
    model: TinyModel, whole: Objective, sizes: dict[float, int], asked_blocks: list[int]
) -> None:
    half = Half(model, whole, sizes, batch_size=3)
    half.begin(3 / 4)
    for _ in range(2):
        half.predictions(KEEP, 1 / 2)
        half.predictions(OTHER, 1 / 4)
    half.forget_all_but(KEEP)
    half.predictions(OTHER, 3 / 4)
    half.predictions(KEEP, 3 / 4)
    assert asked_blocks == [4, 2, 6, 2]


def test_losses_are_those_of_the_part(model: TinyModel, whole: Objective, sizes: dict[float, int]) -> None:
    half = Half(model, whole, sizes, batch_size=3)
    half.begin(1)
    part = whole.of_blocks(np.arange(4))
    assert half.loss(KEEP, 1 / 2) == part.loss(half.predictions(KEEP, 1 / 2)) > 0
    found = half.change(KEEP, OTHER)
    assert found == whole.change(half.predictions(KEEP, 1), half.predictions(OTHER, 1))
    assert found.value == pytest.approx(half.loss(OTHER, 1) - half.loss(KEEP, 1))
