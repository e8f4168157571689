"""Swaps on the masked model: proposed by one half of the blocks, accepted by the other."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from content import content_blocks
from numpy.typing import NDArray
from tiny_checkpoint import Size
from tiny_model import load_lively, write_lively_checkpoint

from eaftgate.collect.collection import Collection
from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks
from eaftgate.parity.clusters import Estimate
from eaftgate.search import refined as refinement
from eaftgate.search.evaluate import collected, nll_increase
from eaftgate.search.pack_weights import row_weights
from eaftgate.search.refined import CHECKED, Refinement, Swap, best_start, refinements
from eaftgate.search.settings import PACK_EXCESS
from eaftgate.select.class_weights import ClassWeights, TokenWeights
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


ALIKE = TokenWeights(ClassWeights(), None)
ONE_PACK = np.zeros(SHAPE[0], int)
TWO_PACKS = np.array([0, 0, 1, 0] * 4)


def refined(
    model: MoeModel, blocks: Blocks, start: KeepSets, pack_R: NDArray[np.intp] = ONE_PACK
) -> tuple[KeepSets, list[Swap]]:
    *_, ended = refinements(
        model, blocks, Refinement(start), pack_R=pack_R, pack_excess=PACK_EXCESS, weights=ALIKE, batch_size=8
    )
    return ended.keep, list(ended.swaps)


WholeRun = Callable[[range | tuple[int, ...], KeepSets], Collection]


@pytest.fixture(scope="module")
def whole_run(model: MoeModel, blocks: Blocks) -> WholeRun:
    """What the whole model says of some blocks under keep sets; asked again, it says the same."""

    @cache
    def run(some: tuple[int, ...], keep: tuple[tuple[int, ...], ...]) -> Collection:
        with model.keeping(keep):
            return collected(model, blocks.reordered(np.array(some)))

    return lambda some, keep: run(tuple(some), tuple(map(tuple, keep)))


def slow_refined(
    run: WholeRun, keep: KeepSets, screened: list[int], pack_R: NDArray[np.intp]
) -> tuple[KeepSets, list[Swap]]:
    """The whole model for every question, nothing run before. `screened` are the blocks of a half that screen."""
    everyone: KeepSets = [list(range(SIZE.experts))] * SIZE.layers
    every, half = range(SHAPE[0]), SHAPE[0] // 2
    first, second = every[:half], every[half:]
    swaps = []

    def rise(on: range | tuple[int, ...], before: KeepSets, after: KeepSets) -> Estimate:
        found = run(on, before), run(on, after)
        return nll_increase(*found, weight_R[found[0].row_T])

    for proposing, checking in ((first, second), (second, first)):
        few = tuple(proposing[block] for block in screened)
        for layer in range(SIZE.layers):
            weight_R = row_weights([(run(every, everyone), run(every, keep))], pack_R, pack_excess=PACK_EXCESS)
            while True:
                now, kept = keep, keep[layer]
                dropped = [e for e in range(SIZE.experts) if e not in kept]
                added = {e: rise(few, now, replaced(now, layer, sorted([*kept, e]))).value for e in dropped}
                without = {e: rise(few, now, replaced(now, layer, sorted({*kept} - {e}))).value for e in kept}
                holding = []
                for _, a, d in sorted((added[a] + without[d], a, d) for a in dropped for d in kept)[:CHECKED]:
                    other = replaced(now, layer, sorted({*kept, a} - {d}))
                    proposed, checked = rise(proposing, now, other), rise(checking, now, other)
                    if proposed.value < 0 and checked.value < -checked.standard_error:
                        holding.append((proposed.value + checked.value, a, d, checked.value, other))
                if not holding:
                    break
                _, a, d, value, keep = min(holding)
                swaps.append(Swap(layer, a, d, -value))
    return keep, swaps


@pytest.mark.parametrize("start", [[[0, 1, 2]] * 3, [[3, 4, 5]] * 3, [[0, 2, 4], [1, 3, 5], [0, 1, 5]]])
@pytest.mark.parametrize("pack_R", [ONE_PACK, TWO_PACKS], ids=["one pack", "two packs"])
@pytest.mark.parametrize(("tokens", "screened"), [(1000, [0, 1, 2, 3, 4, 5, 6, 7]), (19, [0, 2, 5])])
def test_equal_to_the_search_that_runs_the_whole_model_every_time(
    model: MoeModel,
    blocks: Blocks,
    whole_run: WholeRun,
    start: KeepSets,
    tokens: int,
    screened: list[int],
    pack_R: NDArray[np.intp],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A half has 8 blocks with 53 and 56 counted tokens."""
    monkeypatch.setattr(refinement, "SCREENING_TOKENS", tokens)
    keep, swaps = refined(model, blocks, start, pack_R)
    slow_keep, slow_swaps = slow_refined(whole_run, start, screened, pack_R)
    assert keep == slow_keep
    assert [(s.layer, s.add, s.drop) for s in swaps] == [(s.layer, s.add, s.drop) for s in slow_swaps]
    assert [s.gain for s in swaps] == pytest.approx([s.gain for s in slow_swaps], abs=1e-5)
    assert swaps, "a start that nothing improves shows nothing"


def test_swaps_lower_the_loss_and_keep_the_size(model: MoeModel, blocks: Blocks) -> None:
    start: KeepSets = [[0, 1, 2], [3, 4, 5], [0, 2, 4]]
    keep, swaps = refined(model, blocks, start)
    assert best_start(model, blocks, {"start": start, "refined": keep}, weights=ALIKE, batch_size=8) == "refined"
    assert all(kept == sorted(set(kept)) and len(kept) == 3 for kept in keep)
    assert all(swap.gain > 0 for swap in swaps)


def test_any_state_can_be_gone_on_with(model: MoeModel, blocks: Blocks) -> None:
    at: dict[str, Any] = {"pack_R": TWO_PACKS, "pack_excess": PACK_EXCESS, "weights": ALIKE, "batch_size": 8}
    states = list(refinements(model, blocks, Refinement([[0, 1, 2]] * 3), **at))
    assert [state.layers for state in states] == [1, 2, 3, 4, 5, 6]
    for done, state in enumerate(states):
        assert list(refinements(model, blocks, state, **at)) == states[done + 1 :]


def test_the_first_of_equal_starts_is_taken(model: MoeModel, blocks: Blocks) -> None:
    whole = [list(range(SIZE.experts))] * 3
    assert best_start(model, blocks, {"a": [[0, 1, 2]] * 3, "b": whole, "c": whole}, weights=ALIKE, batch_size=8) == "b"


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
