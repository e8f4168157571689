"""Swaps on the masked model: proposed by one half of the blocks, accepted by the other."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from itertools import combinations, product
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
from eaftgate.search import half as halves_
from eaftgate.search import objective
from eaftgate.search import refined as refinement
from eaftgate.search.evaluate import predicted, referred
from eaftgate.search.half import Half
from eaftgate.search.journal import Journal
from eaftgate.search.objective import Objective, Predictions, Reference, gated_margins
from eaftgate.search.parts import STAGES
from eaftgate.search.refined import Layers, Refinement, Swap, halves_of, layers_of, ranked_starts, refinements
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
STARTS: list[KeepSets] = [[[0, 1, 2]] * 3, [[3, 4, 5]] * 3, [[0, 2, 4], [1, 3, 5], [0, 3, 4]]]
OTHERS = layers_of(STARTS[1:])


@pytest.fixture(autouse=True)
def _small_cells_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "FEWEST", 3)


def refined(
    model: MoeModel,
    blocks: Blocks,
    start: KeepSets,
    pack_R: NDArray[np.intp] = ONE_PACK,
    others: Layers = OTHERS,
) -> tuple[KeepSets, list[Swap]]:
    halves = halves_of(model, blocks, pack_R, batch_size=8)
    *_, ended = refinements(halves, others, Refinement(start))
    return ended.keep, list(ended.swaps)


Asked = Callable[[tuple[int, ...], KeepSets], tuple[Objective, Predictions]]


@pytest.fixture(scope="module")
def whole_run(model: MoeModel, blocks: Blocks) -> Callable[[NDArray[np.intp]], Asked]:
    """What the whole model says of some blocks under keep sets; asked again, it says the same."""

    @cache
    def base(some: tuple[int, ...]) -> Reference:
        return referred(model, blocks.reordered(np.array(some)))

    @cache
    def run(some: tuple[int, ...], keep: tuple[tuple[int, ...], ...]) -> Predictions:
        with model.keeping(keep):
            return predicted(model, blocks.reordered(np.array(some)), base(some))

    def by(pack_R: NDArray[np.intp]) -> Asked:
        def asked(some: tuple[int, ...], keep: KeepSets) -> tuple[Objective, Predictions]:
            on = Objective(blocks.reordered(np.array(some)), base(some), pack_R, gated_margins())
            return on, run(some, tuple(map(tuple, keep)))

        return asked

    return by


def slow_refined(run: Asked, keep: KeepSets, alternatives: Layers = OTHERS) -> tuple[KeepSets, list[Swap]]:
    """The whole model for every question, nothing run before."""
    half = SHAPE[0] // 2
    first, second = tuple(range(half)), tuple(range(half, 2 * half))
    swaps = []

    def fall(some: tuple[int, ...], keep: KeepSets, other: KeepSets, *, messages: bool = True) -> float:
        (on, now), (_, then) = run(some, keep), run(some, other)
        return on.loss(now, messages=messages) - on.loss(then, messages=messages)

    def best(falls: dict[tuple[int, ...], float], number: int) -> list[tuple[int, ...]]:
        ranked = sorted(falls, key=lambda other: -falls[other])
        return [other for other in ranked[:number] if falls[other] > 0]

    for proposing, checking in ((first, second), (second, first)):
        for layer in range(SIZE.layers):
            while True:
                kept, few = keep[layer], tuple(proposing[block] for block in PARTS[0])

                def foretold(*kept: int, few: tuple[int, ...] = few, now: KeepSets = keep, layer: int = layer) -> float:
                    return fall(few, now, replaced(now, layer, sorted(kept)), messages=False)

                falls = {}
                for add, drop in product(set(range(SIZE.experts)) - {*kept}, kept):
                    swap = {*kept, add} - {drop}
                    summed = foretold(*kept, add) + foretold(*({*kept} - {drop})) if len(kept) > SIZE.top_k else None
                    falls[tuple(sorted(swap))] = foretold(*swap) if summed is None else summed
                falls |= {tuple(other): foretold(*other) for other in alternatives[layer] if other != kept}
                others = best(falls, 6)
                more = tuple(proposing[block] for block in PARTS[1])
                falls = {other: fall(more, keep, replaced(keep, layer, list(other))) for other in others}
                changed = [replaced(keep, layer, list(other)) for other in best(falls, 3)]
                for other in changed:
                    on, now = run(checking, keep)
                    change = on.change(now, run(checking, other)[1])
                    doubting = tuple(checking[block] for block in PARTS[2])
                    if fall(doubting, keep, other) > 0 and change.value < -change.standard_error:
                        break
                else:
                    break
                came, went = ({*one} - {*two} for one, two in ((other[layer], kept), (kept, other[layer])))
                swaps.append(Swap(layer, tuple(sorted(came)), tuple(sorted(went)), -change.value))
                keep = other
    return keep, swaps


PARTS = [0, 4], [0, 1, 2, 4, 5, 6], [0, 2, 4, 6]
"""Of the 8 blocks of a half: of two stages, of the half that checks."""


@pytest.fixture
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refinement, "STAGES", ((1 / 4, 6), (3 / 4, 3)))
    monkeypatch.setattr(refinement, "DOUBTED", 1 / 2)
    monkeypatch.setattr(halves_, "FEWEST_TOKENS", 1)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("pack_R", [ONE_PACK, TWO_PACKS], ids=["one pack", "two packs"])
@pytest.mark.usefixtures("few_blocks")
def test_equal_to_the_search_that_runs_the_whole_model_every_time(
    model: MoeModel,
    blocks: Blocks,
    whole_run: Callable[[NDArray[np.intp]], Asked],
    start: KeepSets,
    pack_R: NDArray[np.intp],
) -> None:
    keep, swaps = refined(model, blocks, start, pack_R)
    slow_keep, slow_swaps = slow_refined(whole_run(pack_R), start)
    assert keep == slow_keep
    assert [(s.layer, s.add, s.drop) for s in swaps] == [(s.layer, s.add, s.drop) for s in slow_swaps]
    assert [s.gain for s in swaps] == pytest.approx([s.gain for s in slow_swaps], abs=1e-3)
    assert swaps, "a start that nothing improves shows nothing"


def test_swaps_lower_the_loss_and_keep_the_size(model: MoeModel, blocks: Blocks) -> None:
    start: KeepSets = [[0, 1, 2], [3, 4, 5], [0, 2, 4]]
    keep, swaps = refined(model, blocks, start)
    halves = halves_of(model, blocks, ONE_PACK, batch_size=8)
    assert ranked_starts(halves, {"start": start, "refined": keep}) == ["refined", "start"]
    assert all(kept == sorted(set(kept)) and len(kept) == 3 for kept in keep)
    assert all(swap.gain > 0 for swap in swaps)


def test_a_layer_may_take_what_another_start_keeps(model: MoeModel, blocks: Blocks) -> None:
    """More than one expert comes at once."""
    good, _ = refined(model, blocks, STARTS[0])
    _, swaps = refined(model, blocks, [[1, 4, 5]] * 3, others=layers_of([good]))
    moved = [swap for swap in swaps if len(swap.add) > 1]
    assert moved
    assert all(len(swap.add) == len(swap.drop) for swap in moved)


@pytest.mark.parametrize("falls", [-1.0, 0.0, 1.0])
def test_what_a_part_of_the_other_half_doubts_is_not_asked_of_all_of_it(
    model: MoeModel, blocks: Blocks, monkeypatch: pytest.MonkeyPatch, falls: float
) -> None:
    """The part says the same of every move, and so no move is made, though all of the half would accept some."""
    asked = []

    def doubted(half: Half, keep: KeepSets, share: float, *, messages: bool = True) -> float:
        if share == 1 / 4:
            asked.append(keep)
            return -falls * len({str(keep) for keep in asked})
        return loss(half, keep, share, messages=messages)

    loss = Half.loss
    monkeypatch.setattr(Half, "loss", doubted)
    monkeypatch.setattr(refinement, "STAGES", ((1, 6), (1, 3)))
    monkeypatch.setattr(refinement, "DOUBTED", 1 / 4)
    monkeypatch.setattr(halves_, "FEWEST_TOKENS", 1)
    _, swaps = refined(model, blocks, STARTS[0])
    assert asked
    assert bool(swaps) == (falls > 0)


@pytest.mark.parametrize("start", [[[0, 1]] * 3, [[2, 5], [0, 3], [1, 4]]])
@pytest.mark.usefixtures("few_blocks")
def test_where_a_layer_keeps_as_few_as_a_token_is_routed_to_every_swap_is_measured(
    model: MoeModel, blocks: Blocks, whole_run: Callable[[NDArray[np.intp]], Asked], start: KeepSets
) -> None:
    others = layers_of([[[2, 3]] * 3])
    keep, swaps = refined(model, blocks, start, others=others)
    slow_keep, slow_swaps = slow_refined(whole_run(ONE_PACK), start, others)
    assert keep == slow_keep
    assert len(swaps) == len(slow_swaps) > 0


def test_a_layer_may_keep_one_expert(tmp_path: Path, blocks: Blocks) -> None:
    """Without it there was none to run."""
    switch = load_lively(write_lively_checkpoint(tmp_path, size=replace(SIZE, top_k=1)))
    keep, swaps = refined(switch, blocks, [[0]] * 3, others=[[], [], []])
    assert all(len(kept) == 1 for kept in keep)
    assert swaps


def test_any_state_can_be_gone_on_with(model: MoeModel, blocks: Blocks, tmp_path: Path) -> None:
    """Also when it comes out of a journal."""
    halves = halves_of(model, blocks, TWO_PACKS, batch_size=8)
    states = list(refinements(halves, OTHERS, Refinement(STARTS[0])))
    assert [state.layers for state in states] == [0, 1, 2, 3, 4, 5, 6]
    assert states[-1].swaps
    journal = Journal(tmp_path / "journal.json", {"keep_n": 3})
    for place, state in enumerate(states):
        journal.write(Reached("greedy, plain", OTHERS, state))
        held = journal.read(Reached)
        assert held == Reached("greedy, plain", OTHERS, state)
        to_come = states[place:] if state != states[-1] else []
        assert list(refinements(halves, held.others, held.refinement)) == to_come


def test_the_first_of_equal_starts_is_taken(model: MoeModel, blocks: Blocks) -> None:
    halves = halves_of(model, blocks, ONE_PACK, batch_size=8)
    starts = {"a": STARTS[0], "b": EVERYONE, "c": EVERYONE}
    shares: list[float] = []
    assert ranked_starts(halves, starts, progress=shares.append) == ["b", "c", "a"]
    assert shares == sorted(shares)
    assert shares[:3] == pytest.approx([1 / 15, 2 / 15, 3 / 15]), "of three eighths and three halves"
    assert shares[-1] == 1


@pytest.mark.usefixtures("few_blocks")
def test_starts_are_ranked_on_some_blocks_and_the_best_again_on_more(
    model: MoeModel, blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refinement, "FINALISTS", 8)
    starts = {str(kept): [list(kept)] * 3 for kept in combinations(range(SIZE.experts), 3)}
    halves = halves_of(model, blocks, TWO_PACKS, batch_size=8)
    whole = Objective(blocks, referred(model, blocks, batch_size=8), TWO_PACKS, gated_margins())

    def ranked(names: Iterable[str], part: list[int], *, messages: bool = True) -> list[str]:
        parts = [whole.of_blocks(np.array(part) + begin) for begin in (0, 8)]
        return sorted(names, key=lambda name: sum(loss(starts[name], on, messages) for on in parts))

    def loss(keep: KeepSets, on: Objective, messages: bool) -> float:
        with model.keeping(keep):
            return on.loss(predicted(model, on.blocks, on.base, batch_size=8), messages=messages)

    found, by_tokens = ranked(starts, PARTS[0]), ranked(starts, PARTS[0], messages=False)
    chosen = {*found[:8], *by_tokens[:8]}
    finalists = ranked([name for name in found if name in chosen], PARTS[1])
    assert finalists != found[: len(finalists)]
    assert ranked_starts(halves, starts) == [*finalists, *(name for name in found if name not in chosen)]


def test_the_best_by_tokens_alone_are_measured_on_more_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few messages one that is lost by chance outweighs all tokens."""
    monkeypatch.setattr(refinement, "FINALISTS", 1)
    *_, (some, _), (most, _) = STAGES
    told = {(some, True): [1.0, 3.0, 2.0, 4.0], (some, False): [4.0, 1.0, 2.0, 3.0], (most, True): [2.0, 1.0]}

    class Told:
        def begin(self, *shares: float) -> None:
            assert shares == (some, most)

        def loss(self, keep: KeepSets, share: float, *, messages: bool) -> float:
            return told[share, messages][keep[0][0]]

        def forget_all_but(self, keep: KeepSets) -> None:
            assert keep == [[1]]

    starts: dict[str, KeepSets] = {name: [[place]] for place, name in enumerate("abcd")}
    assert ranked_starts((Told(), Told()), starts) == ["b", "a", "c", "d"]  # type: ignore[arg-type]


def test_layers_of_several_starts_are_told_once() -> None:
    assert layers_of([[[0, 1], [2, 3]], [[0, 1], [1, 3]]]) == [[[0, 1]], [[2, 3], [1, 3]]]


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
