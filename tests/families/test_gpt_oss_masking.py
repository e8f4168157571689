"""Soft pruning is structural pruning: masking router logits gives the rewritten checkpoint's predictions."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import Size
from tiny_model import TinyModel, load_lively, load_reference, write_lively_checkpoint
from torch import Tensor

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.rewrite.rewrite import rewrite_checkpoint

EXPERTS, LAYERS = 12, 3
TOLERANCE = 1e-5
"""Log-probabilities to -20. Masked and rewritten model add the same numbers in the same order, except for the router,
a matrix product of another width: some epsilon (1.2e-7) of logits of size 5, amplified through three layers."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = write_lively_checkpoint(tmp_path_factory.mktemp("base"), size=Size(layers=LAYERS, experts=EXPERTS))
    return open_checkpoint(path)


@pytest.fixture(scope="module")
def model(base: Checkpoint) -> TinyModel:
    return load_lively(base.path)


def keep_sets(keep_n: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [sorted(torch.randperm(EXPERTS, generator=generator)[:keep_n].tolist()) for _ in range(LAYERS)]


@torch.no_grad()
def logprobs(model: TinyModel) -> Tensor:
    token_ids = torch.randint(0, len(model.head_VD), (2, 40), generator=torch.Generator().manual_seed(1))
    return (model.hidden_states(token_ids) @ model.head_VD.T).double().log_softmax(dim=-1)


@pytest.mark.parametrize(("keep_n", "seed"), [(4, 0), (4, 1), (8, 2), (8, 3), (12, 4)])
def test_masked_base_equals_rewritten_checkpoint(
    base: Checkpoint, model: TinyModel, tmp_path: Path, keep_n: int, seed: int
) -> None:
    keep = keep_sets(keep_n, seed)
    rewrite_checkpoint(base, keep, tmp_path / "pruned", provenance={})
    structural = logprobs(load_lively(tmp_path / "pruned"))
    with model.keeping(keep):
        soft = logprobs(model)
    torch.testing.assert_close(soft, structural, rtol=0, atol=TOLERANCE)
    if keep_n < EXPERTS:  # or the agreement would say nothing
        assert (soft - logprobs(model)).abs().max() > 0.5
    else:
        assert torch.equal(soft, logprobs(model))


@torch.no_grad()
def test_and_transformers_agrees_about_the_rewritten_one(base: Checkpoint, tmp_path: Path) -> None:
    """None of our model code: eager float64 on both sides, the base's router biases masked by hand."""
    keep = keep_sets(8, seed=5)
    rewrite_checkpoint(base, keep, tmp_path / "pruned", provenance={})
    pruned, masked = load_reference(tmp_path / "pruned"), load_reference(base.path)
    for layer, kept in zip(masked.model.layers, keep, strict=True):
        for expert in set(range(EXPERTS)) - set(kept):
            layer.mlp.router.bias[expert] = -torch.inf
    token_ids = torch.arange(5, 45)[None]
    outputs = [m(input_ids=token_ids, use_cache=False).logits for m in (pruned, masked)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-9)


def router_biases(model: TinyModel) -> list[Tensor]:
    return [layer.mlp.router.bias.detach().clone() for layer in model.module.model.layers]


@pytest.fixture
def untouched(model: TinyModel) -> Iterator[list[Tensor]]:
    """The router biases; after the test they must be what they were, bit for bit."""
    before = router_biases(model)
    yield before
    assert all(torch.equal(a, b) for a, b in zip(before, router_biases(model), strict=True))


def test_only_removed_experts_are_masked(model: TinyModel, untouched: list[Tensor]) -> None:
    keep = keep_sets(4, seed=6)
    with model.keeping(keep):
        for bias, original, kept in zip(router_biases(model), untouched, keep, strict=True):
            for expert in range(EXPERTS):
                expected = original[expert] if expert in kept else -torch.inf
                assert bias[expert] == expected


@pytest.mark.usefixtures("untouched")
def test_restored_after_an_exception(model: TinyModel) -> None:
    def broken() -> None:
        with model.keeping(keep_sets(4, seed=7)):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("keep", [[[0, 1, 2, 3]] * (LAYERS - 1), [[0, 1, 2, 3]] * (LAYERS - 1) + [[0, 1, 2, EXPERTS]]])
def test_restored_after_impossible_keep_sets(model: TinyModel, keep: list[list[int]]) -> None:
    with pytest.raises((ValueError, IndexError)), model.keeping(keep):
        pytest.fail("keep sets that do not fit the model were accepted")


def test_nested_keep_sets_unwind(model: TinyModel, untouched: list[Tensor]) -> None:
    outer, inner = keep_sets(8, seed=8), keep_sets(4, seed=9)
    with model.keeping(outer):
        masked = router_biases(model)
        with model.keeping(inner):
            pass
        assert all(torch.equal(a, b) for a, b in zip(masked, router_biases(model), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(masked, untouched, strict=True))
