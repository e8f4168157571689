"""A model with dense layers among its layers passes through scoring, observing, masking and running layer by layer."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from content import content_blocks
from torch import Tensor
from toy_family import EXPERTS, MOE_LAYERS, TOP_K, VOCABULARY, ToyFamily, write_toy_checkpoint
from toy_model import ToyModel, read

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.families.model import MoeModel
from eaftgate.families.registry import FAMILIES
from eaftgate.packs.blocks import Blocks
from eaftgate.profile.observe import observe_batch
from eaftgate.profile.trace import NORM_SCALE
from eaftgate.rewrite.rewrite import rewrite_checkpoint
from eaftgate.search.evaluate import collected, collected_after
from eaftgate.search.greedy import Sample, greedy_keep_sets
from eaftgate.search.prefix import embedded, through_layer, through_layer_seeing
from eaftgate.study.diagnose import diagnose

KEEP = [[0, 2, 3, 5], [1, 2, 4, 5]]
WHOLE = [list(range(EXPERTS))] * 2
BATCH = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "toy", ToyFamily())
        path = tmp_path_factory.mktemp("toy") / "base"
        write_toy_checkpoint(path)
        return open_checkpoint(path)


@pytest.fixture(scope="module")
def model(base: Checkpoint) -> ToyModel:
    return read(base.path)


@pytest.fixture(scope="module")
def blocks() -> Blocks:
    rng = np.random.default_rng(0)
    shape = (6, 24)
    scored_BS = rng.random(shape) < 0.5
    scored_BS[:, 0] = False
    ids_BS = rng.integers(0, VOCABULARY, shape).astype(np.int32)
    row_BS = np.repeat(np.arange(6, dtype=np.int32), 24).reshape(shape)
    return content_blocks("chat", 24, ids_BS, scored_BS, row_BS, tuple(f"row {row}" for row in range(6)))


def nll(model: MoeModel, blocks: Blocks, keep: list[list[int]]) -> float:
    with model.keeping(keep):
        return -float(collected(model, blocks, batch_size=BATCH).stats.logprob_T.mean(dtype=np.float64))


def test_masked_it_predicts_what_the_rewritten_one_predicts(
    base: Checkpoint, model: ToyModel, blocks: Blocks, tmp_path: Path
) -> None:
    rewrite_checkpoint(base, KEEP, tmp_path / "pruned", provenance={})
    structural = collected(read(tmp_path / "pruned"), blocks).stats
    whole = collected(model, blocks).stats
    with model.keeping(KEEP):
        masked = collected(model, blocks).stats
    np.testing.assert_allclose(masked.logprob_T, structural.logprob_T, atol=1e-5)
    assert abs(masked.logprob_T - whole.logprob_T).max() > 0.1  # or the agreement would say nothing


def test_observed_selections_are_those_of_the_layers_with_experts(model: ToyModel, blocks: Blocks) -> None:
    """Against plain loops over what every mixture sees."""
    observation = observe_batch(model, blocks.token_ids_BS, blocks.scored_BS)
    assert observation.expert_XLK.shape[1:] == (2, TOP_K)
    seen = [inputs.flatten(0, 1) for inputs in caught(model, blocks)]
    counted_T = np.flatnonzero(blocks.scored_BS)
    for place, flat in zip(observation.predicting_T, counted_T - 1, strict=True):
        for row, layer in enumerate(MOE_LAYERS):
            hidden_D, moe = seen[row][flat], model.moe(layer)
            logits = [float(hidden_D @ router_D) for router_D in moe.router_ED]
            chosen = sorted(range(EXPERTS), key=[-logit for logit in logits].__getitem__)[:TOP_K]
            assert observation.expert_XLK[place, row].tolist() == chosen
            gates = np.exp([logits[expert] for expert in chosen])
            np.testing.assert_allclose(observation.gate_XLK[place, row], gates / gates.sum(), atol=1e-3)
            norms = [float(moe.outputs(hidden_D[None])[expert].norm()) for expert in chosen]
            np.testing.assert_allclose(observation.norm_XLK[place, row].astype(float) * NORM_SCALE, norms, rtol=1e-3)


def caught(model: ToyModel, blocks: Blocks) -> list[Tensor]:
    """What the mixtures see in a forward pass of the whole model, [B, S, D] each."""
    inputs: list[Tensor] = []
    with model.moe(MOE_LAYERS[0]).seeing(inputs.append), model.moe(MOE_LAYERS[1]).seeing(inputs.append):
        model.hidden_states(torch.from_numpy(blocks.token_ids_BS.astype(np.int64)))
    return inputs


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_prefix_that_is_reused_changes_no_bit(model: ToyModel, blocks: Blocks, row: int) -> None:
    """Dense layers before, between and after those with experts."""
    with model.keeping(KEEP):
        prefix = embedded(model, blocks, batch_size=BATCH)
        for before in range(row):
            prefix = through_layer(model, before, prefix)
        reused, again = collected_after(model, row, prefix, blocks), collected(model, blocks, batch_size=BATCH)
    np.testing.assert_array_equal(reused.stats.logprob_T, again.stats.logprob_T)


def test_a_search_sees_what_the_mixture_sees_and_what_leaves_its_layer(model: ToyModel, blocks: Blocks) -> None:
    position_T = np.flatnonzero(blocks.scored_BS)
    prefix = embedded(model, blocks, batch_size=BATCH)
    for row, (layer, inputs) in enumerate(zip(MOE_LAYERS, caught(model, blocks), strict=True)):
        leaving = torch.cat([model.run_layer(layer, states) for states in prefix.states]).flatten(0, 1)
        prefix, hidden_TD, norm_T = through_layer_seeing(model, row, prefix, position_T)
        torch.testing.assert_close(hidden_TD, inputs.flatten(0, 1)[torch.from_numpy(position_T)])
        torch.testing.assert_close(norm_T, leaving[torch.from_numpy(position_T)].norm(dim=-1))
    last_BSD = torch.cat([model.normalised(states) for states in prefix.states])
    whole_BSD = model.hidden_states(torch.from_numpy(blocks.token_ids_BS.astype(np.int64)))
    torch.testing.assert_close(last_BSD, whole_BSD)


def changed(model: ToyModel, layer: int, hidden_TD: Tensor, norm_T: Tensor, kept: tuple[int, ...]) -> float:
    """By how much the mixture's output changes when the layer keeps `kept`, as the greedy search weighs it."""
    moe = model.moe(layer)
    whole = moe.forward(hidden_TD[None], TOP_K)[0]
    with model.keeping([list(kept) if other == layer else WHOLE[0] for other in MOE_LAYERS]):
        difference = moe.forward(hidden_TD[None], TOP_K)[0] - whole
    return float((difference.square().sum(dim=-1) / norm_T).sum())


def test_a_search_chooses_for_every_layer_with_experts(model: ToyModel, blocks: Blocks) -> None:
    sample = Sample(np.flatnonzero(blocks.scored_BS) - 1, np.ones(blocks.num_scored))
    keep = greedy_keep_sets(model, blocks, sample, keep_n=4, batch_size=BATCH)
    prefix = embedded(model, blocks, batch_size=BATCH)
    for row, layer in enumerate(MOE_LAYERS):
        prefix, hidden_TD, norm_T = through_layer_seeing(model, row, prefix, sample.position_X)
        error: dict[tuple[int, ...], float] = {
            kept: changed(model, layer, hidden_TD, norm_T, kept) for kept in combinations(range(EXPERTS), 4)
        }
        near = [error[kept] for kept in error if len({*kept} & {*keep[row]}) == 3]
        assert error[tuple(keep[row])] <= min(near) * (1 + 1e-4)
        assert max(error.values()) > 2 * min(error.values())  # or any choice would do


def test_a_diagnosis_prunes_each_of_them_alone(model: ToyModel, blocks: Blocks) -> None:
    found = diagnose(model, [blocks], KEEP, worst_layers=1, batch_size=BATCH)
    alone = [[KEEP[0], WHOLE[1]], [WHOLE[0], KEEP[1]]]
    expected = [nll(model, blocks, keep) - nll(model, blocks, WHOLE) for keep in alone]
    assert [loss.loss.value for loss in found.layers] == pytest.approx(expected, abs=1e-6)
    assert len(found.experts) == EXPERTS - 4
