"""The grouped experts compute what transformers' eager experts compute, and report what they put out."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import TinyModel, load_lively, slow_expert, write_lively_checkpoint
from torch import Tensor
from transformers.models.gpt_oss.configuration_gpt_oss import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from eaftgate.families.gpt_oss_model import expert_modules, grouped_experts_forward

EXPERTS, HIDDEN, INTERMEDIATE = 6, 16, 12


@pytest.fixture(scope="module")
def experts() -> GptOssExperts:
    """Float64 experts whose gate and up values are of size 6: every clamp of [-7, 7] bites."""
    config = GptOssConfig(
        hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_local_experts=EXPERTS, num_experts_per_tok=3
    )
    config._experts_implementation = "eager"
    module: GptOssExperts = GptOssExperts(config).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.requires_grad_(False).copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.double))
    module.gate_up_proj.mul_(1.5)
    return module


def routed(tokens: int, top_k: int, *, among: int = EXPERTS, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random inputs, distinct experts a token out of the first `among`, and gates that sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, HIDDEN, generator=generator, dtype=torch.double)
    ids = torch.stack([torch.randperm(among, generator=generator)[:top_k] for _ in range(tokens)])
    return hidden, ids, torch.rand(tokens, top_k, generator=generator, dtype=torch.double).softmax(dim=-1)


def grouped(experts: GptOssExperts, hidden: Tensor, ids: Tensor, gate: Tensor) -> Tensor:
    module: Any = experts  # transformers does not annotate its parts
    return grouped_experts_forward(module, hidden, ids, gate)


def test_the_clamps_bite(experts: GptOssExperts) -> None:
    hidden, _, _ = routed(20, 1)
    gate_up = hidden @ experts.gate_up_proj[0] + experts.gate_up_proj_bias[0]
    gate, up = gate_up[:, ::2], gate_up[:, 1::2]
    assert min((gate > 7).sum(), (gate < -7).sum(), (up > 7).sum(), (up < -7).sum()) > 5


CASES = [(1, 1, 6), (1, 4, 6), (9, 3, 6), (40, 4, 6), (25, 6, 6), (12, 2, 2), (7, 1, 1)]


@pytest.mark.parametrize(("tokens", "top_k", "among"), CASES)
def test_equals_eager(experts: GptOssExperts, tokens: int, top_k: int, among: int) -> None:
    """Also when some experts get no token at all."""
    for seed in range(5):
        hidden, ids, gate = routed(tokens, top_k, among=among, seed=seed)
        expected = experts(hidden, ids, gate)
        assert expected.abs().max() > 10
        torch.testing.assert_close(grouped(experts, hidden, ids, gate), expected)


FLOAT32 = {"rtol": 1e-5, "atol": 1e-3}
"""Outputs reach 400; float32 sums of at most 16 terms lose a few epsilon (1.2e-7) of that."""


def test_observed_norms_and_gates_equal_plain_loops(experts: GptOssExperts) -> None:
    """In float32, as models run on a CPU."""
    single = GptOssExperts(experts.config).requires_grad_(False)
    single.load_state_dict(experts.state_dict())
    hidden, ids, gate = routed(30, 4)
    hidden, gate = hidden.float(), gate.float()
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    single.observe = lambda *columns: seen.append(columns)  # type: ignore[assignment]
    output = grouped(single, hidden, ids, gate)
    assert output.dtype == torch.float32
    (seen_ids, seen_gate, norm), *more = seen
    assert not more
    assert torch.equal(seen_ids, ids)
    assert torch.equal(seen_gate, gate)
    assert norm.dtype == torch.float32
    for token in range(30):
        total = np.zeros(HIDDEN)
        for k in range(4):
            expert_output = slow_expert(single, int(ids[token, k]), hidden[token].double().numpy())
            length = math.sqrt(sum(x * x for x in expert_output.tolist()))
            assert float(norm[token, k]) == pytest.approx(length, rel=1e-5)
            total += float(gate[token, k]) * expert_output
        np.testing.assert_allclose(output[token].numpy(), total, rtol=FLOAT32["rtol"], atol=FLOAT32["atol"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    path: Path = write_lively_checkpoint(tmp_path_factory.mktemp("lively"))
    return load_lively(path)


@torch.no_grad()
def test_observing_sees_every_layer_in_order_and_changes_nothing(model: TinyModel) -> None:
    token_ids = torch.arange(30).view(2, 15)
    calls: list[int] = []
    observers = [lambda *_, layer=layer: calls.append(layer) for layer in range(3)]
    before = model.hidden_states(token_ids)
    with model.observing(observers):
        during = model.hidden_states(token_ids)
    assert calls == [0, 1, 2]
    assert torch.equal(during, before)
    model.hidden_states(token_ids)
    assert calls == [0, 1, 2]
    assert expert_modules(model.module) == [layer.mlp.experts for layer in model.module.model.layers]


def test_observing_ends_with_an_exception(model: TinyModel) -> None:
    def broken() -> None:
        with model.observing([lambda *_: None] * 3):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert not any(hasattr(module, "observe") for module in expert_modules(model.module))
