"""Swap refinement: its loss is the masked model's, it never rises, and nothing is tried beyond the budget."""

import numpy as np
import pytest
from test_evaluate import random_blocks
from tiny_checkpoint import Size
from tiny_model import load_lively, write_lively_checkpoint
from transformers import GptOssForCausalLM

from eaftgate.model.masking import keeping_experts
from eaftgate.packs.blocks import Blocks
from eaftgate.search.evaluate import collected
from eaftgate.search.greedy import Sample, expert_mask, routed_in_layer, sampled_positions
from eaftgate.search.prefix import embedded, through_layer
from eaftgate.search.reroute import after, swaps
from eaftgate.search.swap import Refinement, refined_keep_sets
from eaftgate.select.keep import KeepSets

LAYERS, EXPERTS = 3, 8
START = [[0, 1, 2, 3, 4]] * LAYERS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GptOssForCausalLM:
    path = tmp_path_factory.mktemp("base")
    return load_lively(write_lively_checkpoint(path, size=Size(layers=LAYERS, experts=EXPERTS)))


@pytest.fixture(scope="module")
def blocks(model: GptOssForCausalLM) -> Blocks:
    return random_blocks(model.config.vocab_size)


@pytest.fixture(scope="module")
def sample(blocks: Blocks) -> Sample:
    return sampled_positions(blocks, np.ones(blocks.num_counted))


@pytest.fixture(scope="module")
def refined(model: GptOssForCausalLM, blocks: Blocks, sample: Sample) -> Refinement:
    return refined_keep_sets(model, blocks, sample, START, evaluations=300, batch_size=4)


def loss_of(model: GptOssForCausalLM, blocks: Blocks, keep: KeepSets) -> float:
    with keeping_experts(model, keep):
        return -float(collected(model, blocks).stats.logprob_T.mean(dtype=np.float64))


def test_its_losses_are_those_of_the_masked_model(
    model: GptOssForCausalLM, blocks: Blocks, refined: Refinement
) -> None:
    assert refined.loss_before == pytest.approx(loss_of(model, blocks, START), abs=1e-5)
    assert refined.loss == pytest.approx(loss_of(model, blocks, refined.keep), abs=1e-5)
    assert refined.loss < refined.loss_before - 1e-3
    assert 0 < refined.accepted < refined.tried


def test_in_the_last_layer_no_proposal_is_left_that_lowers_the_loss(
    model: GptOssForCausalLM, blocks: Blocks, sample: Sample, refined: Refinement
) -> None:
    prefix = embedded(model, blocks, batch_size=4)
    with keeping_experts(model, refined.keep):
        for layer in range(LAYERS - 1):
            prefix = through_layer(model, layer, prefix)
    kept_E = expert_mask(model, refined.keep[-1])
    routed = routed_in_layer(model, LAYERS - 1, prefix, sample)
    proposals = swaps(routed, kept_E, expert_mask(model, []))
    assert len(proposals) == EXPERTS - len(START[0])
    for swap in proposals:
        kept = after(kept_E, swap).nonzero().flatten().tolist()
        assert loss_of(model, blocks, [*refined.keep[:-1], kept]) > refined.loss - 1e-6


def test_core_experts_stay_and_sizes_too(model: GptOssForCausalLM, blocks: Blocks, sample: Sample) -> None:
    core = [[0, 1, 2, 3]] * LAYERS
    found = refined_keep_sets(model, blocks, sample, START, evaluations=300, core=core)
    assert found.accepted
    assert all(len(kept) == 5 and set(kept) >= {0, 1, 2, 3} and kept == sorted(kept) for kept in found.keep)


@pytest.mark.parametrize(("evaluations", "tried"), [(0, 0), (2, 2), (3, 3), (7, 7)])
def test_the_budget(model: GptOssForCausalLM, blocks: Blocks, sample: Sample, evaluations: int, tried: int) -> None:
    found = refined_keep_sets(model, blocks, sample, START, evaluations=evaluations)
    assert found.tried == tried
    if not tried:
        assert (found.keep, found.loss) == (START, found.loss_before)
