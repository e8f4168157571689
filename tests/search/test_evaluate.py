"""The mask-only evaluator gives the numbers of the rewritten checkpoint, every metric of the gate included."""

from pathlib import Path

import numpy as np
import pytest
import torch
from content import content_blocks
from tiny_checkpoint import Size
from tiny_model import load_lively, write_lively_checkpoint

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.errors import UserError
from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks
from eaftgate.parity.paired import pair
from eaftgate.rewrite.rewrite import rewrite_checkpoint
from eaftgate.search import evaluate
from eaftgate.search.evaluate import (
    CHOICES,
    collected,
    divergences,
    masked_tokens,
    predicted,
    predicted_after,
    referred,
    within_memory,
)
from eaftgate.search.prefix import embedded, through_layer

KEEP = [[0, 2, 3, 5], [1, 4, 6, 7], [0, 1, 2, 7]]


def random_blocks(vocab_size: int) -> Blocks:
    rng = np.random.default_rng(0)
    scored_BS = rng.random((6, 24)) < 0.5
    scored_BS[:, 0] = False
    row_BS = np.repeat(np.arange(6, dtype=np.int32), 24).reshape(6, 24)
    ids_BS = rng.integers(0, vocab_size, (6, 24)).astype(np.int32)
    return content_blocks("chat", 24, ids_BS, scored_BS, row_BS, tuple(f"row {row}" for row in range(6)))


def test_equal_to_the_rewritten_checkpoint(tmp_path: Path) -> None:
    base = open_checkpoint(write_lively_checkpoint(tmp_path / "base", size=Size(layers=3, experts=8)))
    model = load_lively(base.path)
    blocks = random_blocks(len(model.head_VD))
    whole = collected(model, blocks, batch_size=4)
    masked = masked_tokens(model, blocks, whole, KEEP, batch_size=4)
    rewrite_checkpoint(base, KEEP, tmp_path / "pruned", provenance={})
    structural = pair(whole, collected(load_lively(tmp_path / "pruned"), blocks, batch_size=4))
    for name in ("logprob_T", "p_T", "h_T", "top_jsd_T"):
        np.testing.assert_allclose(getattr(masked, name), getattr(structural, name), atol=2e-5, err_msg=name)
    for name in ("logprob_base_T", "same_top1_T", "row_T", "block_T"):
        np.testing.assert_array_equal(getattr(masked, name), getattr(structural, name), err_msg=name)
    assert abs(masked.nll_delta_T).max() > 0.5  # the removal matters
    np.testing.assert_array_equal(collected(model, blocks, batch_size=4).stats.logprob_T, whole.stats.logprob_T)


def test_a_model_that_yields_no_numbers_is_refused(tmp_path: Path) -> None:
    model = load_lively(write_lively_checkpoint(tmp_path / "base"))
    base = referred(model, random_blocks(len(model.head_VD)))
    with torch.no_grad():
        model.module.model.norm.weight[0] = torch.nan
    with pytest.raises(UserError, match=r"scoring chat: .* not finite"):
        collected(model, random_blocks(len(model.head_VD)))
    with pytest.raises(UserError, match=r"scoring chat: .* not finite"):
        referred(model, random_blocks(len(model.head_VD)))
    with pytest.raises(UserError, match=r"scoring chat: .* not finite"):
        predicted(model, random_blocks(len(model.head_VD)), base)


def logprobs(model: MoeModel, blocks: Blocks) -> torch.Tensor:
    """[T, V] in float64: what is said of the scored tokens."""
    ids_BS, scored_BS = torch.from_numpy(blocks.token_ids_BS.astype(np.int64)), torch.from_numpy(blocks.scored_BS)
    with torch.no_grad():
        logits_BSV = model.hidden_states(ids_BS).double() @ model.head_VD.double().T
    return logits_BSV[:, :-1][scored_BS[:, 1:]].log_softmax(dim=-1)


def leads(blocks: Blocks, logprob_TV: torch.Tensor) -> list[float]:
    own_T = blocks.token_ids_BS[blocks.scored_BS]
    return [float(of_V[own] - np.delete(of_V, own).max()) for own, of_V in zip(own_T, logprob_TV.numpy(), strict=True)]


@pytest.mark.parametrize("logit_bytes", [1, 1 << 30])
def test_what_a_search_looks_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logit_bytes: int) -> None:
    """The divergence over the base's choices and the rest, and by how much tokens lead, by whichever way, and however
    many tokens a matrix of logits is made for; first choices as they are collected."""
    monkeypatch.setattr(evaluate, "LOGIT_BYTES", logit_bytes)
    model = load_lively(write_lively_checkpoint(tmp_path / "base", size=Size(layers=3, experts=8)))
    blocks = random_blocks(len(model.head_VD))
    base, before_TV = referred(model, blocks, batch_size=4), logprobs(model, blocks)
    with model.keeping(KEEP):
        whole, after_TV = collected(model, blocks, batch_size=4), logprobs(model, blocks)
        ways = [predicted(model, blocks, base, batch_size=4)]
        prefix = embedded(model, blocks, batch_size=4)
        for layer in range(3):
            ways.append(predicted_after(model, layer, prefix.states, blocks, base))
            prefix = through_layer(model, layer, prefix)
    expected_T = []
    for before_V, after_V in zip(before_TV.exp().numpy(), after_TV.exp().numpy(), strict=True):
        chosen = np.argsort(-before_V)[:CHOICES]
        p, q = (np.append(of_V[chosen], np.delete(of_V, chosen).sum()) for of_V in (before_V, after_V))
        expected_T.append((p * np.log(p / q)).sum())
    assert max(expected_T) > 0.1, "the removal matters"
    for found in ways:
        np.testing.assert_allclose(found.divergence_T, expected_T, rtol=1e-4, atol=2e-6)
        np.testing.assert_allclose(found.lead_T, leads(blocks, after_TV), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found.lead_T >= 0, pair(whole, whole).first_T)
    itself = predicted(model, blocks, base, batch_size=4)
    np.testing.assert_allclose(itself.divergence_T, 0, atol=1e-6)
    np.testing.assert_allclose(base.lead_T, leads(blocks, before_TV), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(itself.lead_T, base.lead_T)


def test_the_divergence_is_the_rise_of_the_log_loss_that_the_base_expects(tmp_path: Path) -> None:
    """Of tokens that the base draws, where nothing is left for the rest to hide."""
    model = load_lively(write_lively_checkpoint(tmp_path / "base", size=Size(layers=3, experts=8)))
    blocks = random_blocks(len(model.head_VD))
    base, before_TV = referred(model, blocks), logprobs(model, blocks)
    with model.keeping(KEEP):
        rise_TV = before_TV - logprobs(model, blocks)
        found = predicted(model, blocks, base)
    expected_T = (before_TV.exp() * rise_TV).sum(dim=-1).numpy()
    assert (found.divergence_T <= expected_T + 2e-6).all(), "what is taken as one differs less"
    assert found.divergence_T.mean() > 0.5 * expected_T.mean()


@pytest.mark.parametrize(
    ("base", "now"), [([0.5, 0.5], [0.5, 0.5]), ([1.0, 0.0], [0.0, 1.0]), ([0.6, 0.4], [0.3, 0.2])]
)
def test_a_rest_of_nothing_is_finite(base: list[float], now: list[float]) -> None:
    tiny = torch.finfo(torch.float32).tiny
    found = divergences(*(torch.tensor([row]).clamp(min=tiny).log() for row in (base, now)))
    assert torch.isfinite(found).all()
    assert (found >= -1e-6).all()


def test_a_model_that_does_not_fit_is_said_with_what_to_lower() -> None:
    with pytest.raises(UserError, match=r"lower --batch-size.*--max-positions.*--num-rows"), within_memory():
        raise torch.OutOfMemoryError
