"""A ladder of planted faults on the embedded checkpoint: where the damage of all blocks exceeds a margin, no budget
passes it; where it lies well inside, the whole budget does.

The faults are planted in the loaded model, which is what a rewritten file would load to.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from gate_command import BASE, GATE_PACKS
from prepared import Profile
from transformers import GptOssForCausalLM

from eaftgate.collect.collection import Collection, TokenStats, concatenate, make_collection
from eaftgate.collect.transformers import score
from eaftgate.gate.judge import JudgedCell, judge_cell
from eaftgate.gate.policy import IntervalPolicy, load_gates
from eaftgate.gate.verdict import RATIOS
from eaftgate.model.experts import expert_modules
from eaftgate.model.load import default_settings, load_model
from eaftgate.model.masking import keeping_experts
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.paired import pair

SEQ_LEN, BLOCKS = 256, 64
BUDGETS = (4, 8, 16, 32, BLOCKS)
EXPERTS = 32
Fault = Callable[[GptOssForCausalLM, np.ndarray], None]


@pytest.fixture(scope="module")
def blocks() -> Blocks:
    tokenizer = load_tokenizer(BASE)
    packs = named_packs(GATE_PACKS, seed=3407)
    return build_blocks(packs["UNION"], tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=SEQ_LEN, num_blocks=BLOCKS)


@pytest.fixture(scope="module")
def usage(profile: Profile) -> np.ndarray:
    """Selections of every expert, [L, E]."""
    expert_XLK = profile.trace.column("expert_XLK")
    return np.stack([np.bincount(layer.ravel(), minlength=EXPERTS) for layer in expert_XLK.transpose(1, 0, 2)])


@pytest.fixture(scope="module")
def loaded() -> GptOssForCausalLM:
    return load_model(BASE, default_settings(device="cpu"))


def collected(model: GptOssForCausalLM, blocks: Blocks) -> Collection:
    parts: list[TokenStats] = [
        score(model, blocks.token_ids_BS[start : start + 8], blocks.counted_BS[start : start + 8])
        for start in range(0, blocks.num_blocks, 8)
    ]
    return make_collection(concatenate(parts), blocks, {})


@pytest.fixture(scope="module")
def base(loaded: GptOssForCausalLM, blocks: Blocks) -> Collection:
    return collected(loaded, blocks)


@contextmanager
def planted(model: GptOssForCausalLM, fault: Fault, usage: np.ndarray) -> Iterator[None]:
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items() if ".mlp." in name}
    try:
        with torch.no_grad():
            fault(model, usage)
        yield
    finally:
        model.load_state_dict(saved, strict=False)


def zero_expert(layer: int, rank: int) -> Fault:
    """The output of the layer's expert of that rank in use (0: the most used) is zero."""

    def fault(model: GptOssForCausalLM, usage: np.ndarray) -> None:
        expert = int(np.argsort(-usage[layer])[rank])
        experts = expert_modules(model)[layer]
        experts.down_proj[expert] = 0
        experts.down_proj_bias[expert] = 0

    return fault


def swap_router_rows(model: GptOssForCausalLM, usage: np.ndarray) -> None:
    """The two most used experts of layer 2 get each other's tokens."""
    first, second = np.argsort(-usage[2])[:2].tolist()
    router = model.model.layers[2].mlp.router
    for tensor in (router.weight, router.bias):
        tensor[[first, second]] = tensor[[second, first]].clone()


def raise_scales(model: GptOssForCausalLM, usage: np.ndarray) -> None:
    """Weights of the most used expert of layer 0 times 16, as if its scale exponents were 4 higher."""
    expert, experts = int(usage[0].argmax()), expert_modules(model)[0]
    experts.gate_up_proj[expert] *= 16
    experts.down_proj[expert] *= 16


def round_to_fp8(model: GptOssForCausalLM, usage: np.ndarray) -> None:  # noqa: ARG001
    """Attention matrices rounded to float8 with a scale for each tensor: the harmless end of the ladder."""
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.o_proj):
            scale = projection.weight.abs().max() / 448
            projection.weight.copy_((projection.weight / scale).to(torch.float8_e4m3fn).float() * scale)


def nothing(model: GptOssForCausalLM, usage: np.ndarray) -> None:
    pass


FAULTS: dict[str, Fault] = {
    "nothing": nothing,
    "fp8 rounding": round_to_fp8,
    "a rarely used expert is zero": zero_expert(1, 24),
    "a used expert is zero": zero_expert(1, 2),
    "the most used expert of layer 1 is zero": zero_expert(1, 0),
    "the most used expert of the first layer is zero": zero_expert(0, 0),
    "the most used expert of the last layer is zero": zero_expert(3, 0),
    "router rows swapped": swap_router_rows,
    "scales raised": raise_scales,
}


def judged_at(base: Collection, candidate: Collection, budget: int) -> JudgedCell:
    gates = load_gates()
    policy = gates.policies["near-lossless-v2"]
    tokens = pair(base, candidate)
    return judge_cell(policy, None, tokens.select(tokens.block_T < budget), budget, strict=False)


def excess(whole: JudgedCell) -> float:
    """The largest deciding effect of all blocks in units of its margin."""
    policy = load_gates().policies["near-lossless-v2"]
    assert isinstance(policy, IntervalPolicy)
    shares = []
    for metric, verdict in whole.verdicts.items():
        if verdict.decides and verdict.estimate is not None and verdict.margin is not None:
            log = np.log if metric in RATIOS else float
            effect = log(verdict.estimate) / log(verdict.margin)
            shares.append(abs(effect) if policy.rules[metric].side == "both" else effect)  # type: ignore[index]
    return max(shares)


@pytest.mark.parametrize("name", FAULTS)
def test_no_budget_passes_what_all_blocks_show_to_be_outside(
    name: str, loaded: GptOssForCausalLM, base: Collection, blocks: Blocks, usage: np.ndarray
) -> None:
    with planted(loaded, FAULTS[name], usage):
        candidate = collected(loaded, blocks)
    path = {budget: judged_at(base, candidate, budget) for budget in BUDGETS}
    verdicts = [path[budget].verdict for budget in BUDGETS]
    share = excess(path[BLOCKS])
    assert not ("pass" in verdicts and "fail" in verdicts), (share, verdicts)
    if share > 1:
        assert "pass" not in verdicts, (share, verdicts)
    if share > 2:
        assert verdicts[-1] == "fail", (share, verdicts)
    if share < 0.5:
        assert "fail" not in verdicts, (share, verdicts)
        assert verdicts[-1] == "pass", (share, verdicts)


def test_the_ladder_reaches_from_far_inside_to_far_outside(
    loaded: GptOssForCausalLM, base: Collection, blocks: Blocks, usage: np.ndarray
) -> None:
    shares = {}
    for name in ("fp8 rounding", "the most used expert of the first layer is zero", "scales raised"):
        with planted(loaded, FAULTS[name], usage):
            shares[name] = excess(judged_at(base, collected(loaded, blocks), BLOCKS))
    assert shares["fp8 rounding"] < 0.5
    assert 1 < shares["the most used expert of the first layer is zero"] < 2
    assert shares["scales raised"] > 2


def test_small_budgets_wait_and_larger_ones_decide(
    loaded: GptOssForCausalLM, base: Collection, blocks: Blocks, profile: Profile
) -> None:
    """Keep 24 by the default at 4 to 64 nested blocks: from inconclusive to pass, and never back."""
    from eaftgate.select.keep import select_keep_sets

    keep = select_keep_sets(profile.trace, method="eaft-reap", keep_n=24, alignment="predicting")
    with keeping_experts(loaded, keep):
        candidate = collected(loaded, blocks)
    verdicts = [judged_at(base, candidate, budget).verdict for budget in BUDGETS]
    assert verdicts[0] == "inconclusive"
    assert verdicts[-1] == "pass"
    assert verdicts == sorted(verdicts), verdicts  # "inconclusive" < "pass"
