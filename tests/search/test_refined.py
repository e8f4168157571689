"""Swaps on the masked model: proposed by one half of the blocks, accepted by the other."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from content import content_blocks
from numpy.typing import NDArray
from tiny_checkpoint import Size
from tiny_model import load_lively, write_lively_checkpoint

from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks
from eaftgate.search import objective
from eaftgate.search import refined as refinement
from eaftgate.search.evaluate import predicted
from eaftgate.search.journal import Journal
from eaftgate.search.objective import Objective, Predictions, gated_margins
from eaftgate.search.refined import CHECKED, Refinement, Swap, best_start, halves_of, refinements
from eaftgate.search.search import Reached
from eaftgate.select.keep import KeepSets, replaced

SIZE = Size(layers=3, experts=6, top_k=2)
SHAPE = (16, 12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MoeModel:
    path: Path = write_lively_checkpoint(tmp_path_factory.mktemp("base"), size=SIZE)
    return load_lively(path)


@pytest.fixture(scope="module")
def blocks(model: MoeModel) -> Blocks:
    """What the whole model itself says, so that every expert it uses is worth something."""
    rng = np.random.default_rng(0)
    ids_BS = torch.from_numpy(rng.integers(0, len(model.head_VD), (SHAPE[0], 1)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        while ids_BS.shape[1] < SHAPE[1]:
            logits_BV = 3 * (model.hidden_states(ids_BS)[:, -1] @ model.head_VD.T)
            ids_BS = torch.cat([ids_BS, torch.multinomial(logits_BV.softmax(-1), 1, generator=generator)], dim=1)
    scored_BS = rng.random(SHAPE) < 0.7
    scored_BS[:, 0] = False
    row_BS = np.broadcast_to(np.arange(SHAPE[0], dtype=np.int32)[:, None], SHAPE)
    rows = tuple(str(row) for row in range(SHAPE[0]))
    return content_blocks("chat", SHAPE[1], ids_BS.numpy().astype(np.int32), scored_BS, row_BS, rows)


ONE_PACK = np.zeros(SHAPE[0], int)
TWO_PACKS = np.array([0, 0, 1, 0] * 4)
EVERYONE: KeepSets = [list(range(SIZE.experts))] * SIZE.layers
STARTS: list[KeepSets] = [[[0, 1, 2]] * 3, [[3, 4, 5]] * 3, [[0, 2, 4], [1, 3, 5], [0, 1, 5]]]
NEAR = [[(add, drop) for add in range(6) for drop in range(6) if (add + drop + layer) % 4] for layer in range(3)]


@pytest.fixture(autouse=True)
def _small_cells_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "FEWEST", 3)


def refined(
    model: MoeModel, blocks: Blocks, start: KeepSets, pack_R: NDArray[np.intp] = ONE_PACK
) -> tuple[KeepSets, list[Swap]]:
    halves = halves_of(model, blocks, pack_R, batch_size=8)
    *_, ended = refinements(model, halves, NEAR, Refinement(start), batch_size=8)
    return ended.keep, list(ended.swaps)


Asked = Callable[[tuple[int, ...], KeepSets], tuple[Objective, Predictions]]


@pytest.fixture(scope="module")
def whole_run(model: MoeModel, blocks: Blocks) -> Callable[[NDArray[np.intp]], Asked]:
    """What the whole model says of some blocks under keep sets; asked again, it says the same."""

    @cache
    def run(some: tuple[int, ...], keep: tuple[tuple[int, ...], ...]) -> Predictions:
        with model.keeping(keep):
            return predicted(model, blocks.reordered(np.array(some)))

    def by(pack_R: NDArray[np.intp]) -> Asked:
        def asked(some: tuple[int, ...], keep: KeepSets) -> tuple[Objective, Predictions]:
            whole = run(some, tuple(map(tuple, EVERYONE)))
            on = Objective(blocks.reordered(np.array(some)), whole, pack_R, gated_margins())
            return on, run(some, tuple(map(tuple, keep)))

        return asked

    return by


def slow_refined(run: Asked, keep: KeepSets, screening: list[int]) -> tuple[KeepSets, list[Swap]]:
    """The whole model for every question, nothing run before. `screening` are the blocks of a half that screen."""
    half = SHAPE[0] // 2
    first, second = tuple(range(half)), tuple(range(half, 2 * half))
    swaps = []

    def loss(some: tuple[int, ...], keep: KeepSets, *, messages: bool = True) -> float:
        on, now = run(some, keep)
        return on.loss(now, messages=messages)

    for proposing, checking in ((first, second), (second, first)):
        few = tuple(proposing[block] for block in screening)
        for layer in range(SIZE.layers):
            made = True
            while made:
                made, kept = False, keep[layer]
                others = {
                    (a, d): replaced(keep, layer, sorted({*kept, a} - {d}))
                    for a, d in NEAR[layer]
                    if a not in kept and d in kept
                }
                promised = sorted(
                    ((loss(few, keep, messages=False) - loss(few, other, messages=False), swap)
                     for swap, other in others.items()), reverse=True,
                )[:CHECKED]  # fmt: skip
                measured = sorted(
                    ((loss(proposing, keep) - loss(proposing, others[swap]), swap) for fall, swap in promised
                     if fall > 0), reverse=True,
                )  # fmt: skip
                for fall, swap in measured:
                    on, now = run(checking, keep)
                    change = on.change(now, run(checking, others[swap])[1])
                    if fall > 0 and change.value < -change.standard_error:
                        swaps.append(Swap(layer, *swap, -change.value))
                        keep, made = others[swap], True
                        break
    return keep, swaps


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("pack_R", [ONE_PACK, TWO_PACKS], ids=["one pack", "two packs"])
@pytest.mark.parametrize(("tokens", "screening"), [(1000, [0, 1, 2, 3, 4, 5, 6, 7]), (19, [0, 2, 5])])
def test_equal_to_the_search_that_runs_the_whole_model_every_time(
    model: MoeModel,
    blocks: Blocks,
    whole_run: Callable[[NDArray[np.intp]], Asked],
    start: KeepSets,
    tokens: int,
    screening: list[int],
    pack_R: NDArray[np.intp],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A half has 8 blocks with 53 and 56 counted tokens."""
    monkeypatch.setattr(refinement, "FEW_TOKENS", tokens)
    keep, swaps = refined(model, blocks, start, pack_R)
    slow_keep, slow_swaps = slow_refined(whole_run(pack_R), start, screening)
    assert keep == slow_keep
    assert [(s.layer, s.add, s.drop) for s in swaps] == [(s.layer, s.add, s.drop) for s in slow_swaps]
    assert [s.gain for s in swaps] == pytest.approx([s.gain for s in slow_swaps], abs=1e-3)
    assert swaps, "a start that nothing improves shows nothing"


def test_swaps_lower_the_loss_and_keep_the_size(model: MoeModel, blocks: Blocks) -> None:
    start: KeepSets = [[0, 1, 2], [3, 4, 5], [0, 2, 4]]
    keep, swaps = refined(model, blocks, start)
    halves = halves_of(model, blocks, ONE_PACK, batch_size=8)
    assert best_start(model, halves, {"start": start, "refined": keep}, batch_size=8) == "refined"
    assert all(kept == sorted(set(kept)) and len(kept) == 3 for kept in keep)
    assert all(swap.gain > 0 for swap in swaps)


def test_no_swap_but_the_near_ones_is_asked_about(model: MoeModel, blocks: Blocks) -> None:
    start = STARTS[0]
    halves = halves_of(model, blocks, ONE_PACK, batch_size=8)
    *_, ended = refinements(model, halves, [[], [(3, 0)], []], Refinement(start), batch_size=8)
    assert {(swap.layer, swap.add, swap.drop) for swap in ended.swaps} <= {(1, 3, 0)}
    assert ended.layers == 6


def test_any_state_can_be_gone_on_with(model: MoeModel, blocks: Blocks, tmp_path: Path) -> None:
    """Also when it comes out of a journal."""
    halves = halves_of(model, blocks, TWO_PACKS, batch_size=8)
    states = list(refinements(model, halves, NEAR, Refinement(STARTS[0]), batch_size=8))
    assert [state.layers for state in states] == [1, 2, 3, 4, 5, 6]
    assert states[-1].swaps
    journal = Journal(tmp_path / "journal.json", {"keep_n": 3})
    for done, state in enumerate(states):
        journal.write(Reached("greedy, plain", NEAR, state))
        held = journal.read(Reached)
        assert held == Reached("greedy, plain", NEAR, state)
        assert list(refinements(model, halves, held.near, held.refinement, batch_size=8)) == states[done + 1 :]


def test_the_first_of_equal_starts_is_taken(model: MoeModel, blocks: Blocks) -> None:
    halves = halves_of(model, blocks, ONE_PACK, batch_size=8)
    starts = {"a": STARTS[0], "b": EVERYONE, "c": EVERYONE}
    assert best_start(model, halves, starts, batch_size=8) == "b"


def test_the_finalists_are_measured_on_all_blocks(
    model: MoeModel, blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refinement, "FEW_TOKENS", 1)
    monkeypatch.setattr(refinement, "FINALISTS", 3)
    starts = {str(kept): [list(kept)] * 3 for kept in combinations(range(SIZE.experts), 3)}
    halves = halves_of(model, blocks, TWO_PACKS, batch_size=8)

    def loss(keep: KeepSets, on: Objective, *, messages: bool) -> float:
        with model.keeping(keep):
            return on.loss(predicted(model, on.blocks, batch_size=8), messages=messages)

    few = halves[0].of_blocks(np.array([0]))
    last = sorted(starts, key=lambda name: loss(starts[name], few, messages=False))[:3]
    expected = min(last, key=lambda name: sum(loss(starts[name], half, messages=True) for half in halves))
    assert best_start(model, halves, starts, batch_size=8) == expected


def test_blocks_without_an_answer_do_not_matter(model: MoeModel, blocks: Blocks) -> None:
    """Long prompts fill whole blocks; left where they are, they could fill a half."""
    start: KeepSets = [[0, 1, 2], [3, 4, 5], [0, 2, 4]]
    silent = replace(blocks, scored_BS=np.zeros_like(blocks.scored_BS))
    ids_BS, scored_BS, row_BS = (
        np.concatenate([getattr(part, name) for part in (silent, blocks)])
        for name in ("token_ids_BS", "scored_BS", "row_BS")
    )
    padded = content_blocks(blocks.pack, blocks.seq_len, ids_BS, scored_BS, row_BS, blocks.identities)
    assert refined(model, padded, start) == refined(model, blocks, start)
