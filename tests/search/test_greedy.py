"""The greedy search on a whole model: every layer on what the whole model gives it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from content import content_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_checkpoint import Size
from tiny_model import TinyModel, load_lively, load_reference, slow_expert, write_lively_checkpoint

from eaftgate.packs.blocks import Blocks
from eaftgate.search.greedy import Sample, greedy_keep_sets, greedy_selections, spread_positions
from eaftgate.search.prefix import Prefix, embedded, through_layer

SIZE = Size(layers=3, experts=6, top_k=2)
KEEP = 3


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lively_checkpoint(tmp_path_factory.mktemp("base"), size=SIZE)


@pytest.fixture(scope="module")
def model(path: Path) -> TinyModel:
    return load_lively(path)


@pytest.fixture(scope="module")
def blocks(model: TinyModel) -> Blocks:
    rng = np.random.default_rng(0)
    shape = (5, 12)
    scored_BS = rng.random(shape) < 0.4
    scored_BS[:, 0] = False
    ids = rng.integers(0, len(model.head_VD), shape).astype(np.int32)
    return content_blocks("chat", 12, ids, scored_BS, np.zeros(shape, np.int32), ("row",))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_layer_by_layer_is_the_whole_model(model: TinyModel, blocks: Blocks, batch_size: int) -> None:
    prefix: Prefix = embedded(model, blocks, batch_size=batch_size)
    with torch.no_grad(), model.keeping([[0, 2, 4]] * 3):
        for layer in range(3):
            prefix = through_layer(model, layer, prefix)
        whole = model.hidden_states(torch.from_numpy(blocks.token_ids_BS.astype(np.int64)))
    by_layers = torch.cat([model.normalised(states) for states in prefix.states])
    torch.testing.assert_close(by_layers, whole, rtol=1e-5, atol=1e-5)


def everywhere(blocks: Blocks, weight_T: NDArray[np.float64]) -> Sample:
    """The positions that predict the scored tokens."""
    return Sample(np.flatnonzero(blocks.scored_BS) - 1, weight_T)


@torch.no_grad()
def slow_greedy(path: Path, blocks: Blocks, weight_of: Callable[[int, int], float]) -> list[list[int]]:
    """transformers' float64 model; every keep set recomputed from the outputs of every token."""
    model = load_reference(path)
    keep: list[list[int]] = []
    for layer in model.model.layers:
        seen = []
        for block, ids in enumerate(blocks.token_ids_BS):
            caught: list[np.ndarray] = []
            left: list[np.ndarray] = []
            hooks = (
                layer.mlp.register_forward_pre_hook(
                    lambda _, inputs, caught=caught: caught.extend(inputs[0][0].numpy())
                ),
                layer.register_forward_hook(lambda _, __, output, left=left: left.extend(output[0].numpy())),
            )
            model(input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)
            for hook in hooks:
                hook.remove()
            for position, (hidden, stream) in enumerate(zip(caught, left, strict=True)):
                logits = (layer.mlp.router.weight.numpy() @ hidden + layer.mlp.router.bias.numpy()).tolist()
                outputs = [slow_expert(layer.mlp.experts, expert, hidden) for expert in range(SIZE.experts)]
                seen.append((weight_of(block, position) / np.sqrt((stream**2).sum()), logits, outputs))

        def error(kept: set[int], seen: list[Any] = seen) -> float:
            total = 0.0
            for weight, logits, outputs in seen:
                mixed = []
                for among in (kept, set(range(SIZE.experts))):
                    chosen = sorted(among, key=[-logit for logit in logits].__getitem__)[: SIZE.top_k]
                    gates = np.exp([logits[e] for e in chosen])
                    mixed.append(sum(g * outputs[e] for g, e in zip(gates / gates.sum(), chosen, strict=True)))
                total += weight * float(((mixed[0] - mixed[1]) ** 2).sum())
            return total

        kept = set(range(SIZE.experts))
        while len(kept) > KEEP:
            kept = min((kept - {drop} for drop in sorted(kept)), key=error)
        while True:
            others = [kept - {d} | {a} for d in kept for a in set(range(SIZE.experts)) - kept]
            best = min(others, key=error)
            if error(best) >= error(kept):
                break
            kept = best
        keep.append(sorted(kept))
    return keep


def test_equal_to_the_search_by_plain_loops(path: Path, model: TinyModel, blocks: Blocks) -> None:
    weight_T = np.random.default_rng(1).choice([0.0, 0.25, 1.0], blocks.num_scored)
    at = {
        (block, position - 1): weight_T[number]
        for number, (block, position) in enumerate(np.argwhere(blocks.scored_BS).tolist())
    }
    found = greedy_keep_sets(model, blocks, everywhere(blocks, weight_T), keep_n=KEEP, batch_size=2)
    assert found == slow_greedy(path, blocks, lambda block, position: at.get((block, position), 0.0))


def test_the_model_is_left_as_it_was(model: TinyModel, blocks: Blocks) -> None:
    before = [layer.mlp.router.bias.detach().clone() for layer in model.module.model.layers]
    greedy_keep_sets(model, blocks, everywhere(blocks, np.ones(blocks.num_scored)), keep_n=KEEP)
    assert all(
        torch.equal(a, layer.mlp.router.bias) for a, layer in zip(before, model.module.model.layers, strict=True)
    )


def test_several_samples_at_once_are_each_alone(model: TinyModel, blocks: Blocks) -> None:
    rng = np.random.default_rng(2)
    samples = {name: everywhere(blocks, rng.random(blocks.num_scored) ** 8) for name in "abcd"}
    found = greedy_selections(model, blocks, samples, keep_n=KEEP, batch_size=2)
    assert found == {name: greedy_keep_sets(model, blocks, sample, keep_n=KEEP, batch_size=2)
                     for name, sample in samples.items()}  # fmt: skip
    assert len({str(keep) for keep in found.values()}) > 1, "weights that choose alike show nothing"


@settings(max_examples=100, deadline=None)
@given(
    kinds=st.lists(st.sampled_from([0, 0, 0, 0, 0, 0, 1, 1, 2, 5]), min_size=1, max_size=60),
    most=st.integers(1, 70),
    seed=st.integers(0, 3),
)
def test_positions_are_spread_over_classes(kinds: list[int], most: int, seed: int) -> None:
    kind_T = np.array(kinds, np.uint8)
    chosen_X, stands_for_X = spread_positions(kind_T, max_positions=most, seed=seed)
    assert chosen_X.tolist() == sorted(set(chosen_X.tolist()))
    assert len(chosen_X) == len(stands_for_X) == min(most, len(kind_T))
    share = most // len(set(kinds))
    for kind in set(kinds):
        count, of_kind = kinds.count(kind), kind_T[chosen_X] == kind
        assert of_kind.sum() >= min(count, share)
        assert not of_kind.any() or stands_for_X[of_kind].sum() == pytest.approx(count)
    again_X, _ = spread_positions(kind_T, max_positions=most, seed=seed)
    assert chosen_X.tolist() == again_X.tolist()


def test_positions_are_drawn_by_seed() -> None:
    def drawn(seed: int) -> list[int]:
        positions: list[int] = spread_positions(np.zeros(30, np.uint8), max_positions=6, seed=seed)[0].tolist()
        return positions

    assert drawn(0) == drawn(0) != drawn(1)
