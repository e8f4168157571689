"""Token statistics equal a float64 brute force over the full vocabulary, whatever the chunk of tokens."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import slow_token_stats
from torch import nn

from eaftgate.collect import token_stats as module
from eaftgate.collect.token_stats import normalised_entropy, token_stats

HIDDEN, VOCAB, TOKENS = 16, 90, 23
ROW_BYTES = 4 * VOCAB


@pytest.fixture(scope="module")
def lm_head() -> nn.Linear:
    head = nn.Linear(HIDDEN, VOCAB, bias=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        head.weight.copy_(torch.randn(VOCAB, HIDDEN, generator=generator))
    return head.requires_grad_(False)


def inputs(tokens: int = TOKENS) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of growing size: from nearly uniform predictions to nearly certain ones."""
    generator = torch.Generator().manual_seed(tokens)
    sizes = torch.logspace(-2, 1, tokens)[:, None]
    hidden = torch.randn(tokens, HIDDEN, generator=generator) * sizes
    return hidden, torch.randint(0, VOCAB, (tokens,), generator=generator)


@pytest.mark.parametrize("logit_bytes", [1, ROW_BYTES, 2 * ROW_BYTES - 1, 7 * ROW_BYTES, 23 * ROW_BYTES, 1 << 28])
def test_equals_brute_force(monkeypatch: pytest.MonkeyPatch, lm_head: nn.Linear, logit_bytes: int) -> None:
    monkeypatch.setattr(module, "LOGIT_BYTES", logit_bytes)
    hidden, target = inputs()
    logprob, entropy, ids, logprobs = token_stats(hidden, target, lm_head.weight, top_k=20)
    assert [tuple(c.shape) for c in (logprob, entropy, ids, logprobs)] == [(23,), (23,), (23, 20), (23, 20)]
    assert (logprob.dtype, entropy.dtype, ids.dtype, logprobs.dtype) == (
        *[torch.float32] * 2,
        torch.int32,
        torch.float32,
    )
    logits = (hidden.double() @ lm_head.weight.double().T).tolist()
    for t in range(TOKENS):
        expected = slow_token_stats(logits[t], int(target[t]))
        # Logits reach 130 in size: float32 keeps them to 130 * 1.2e-7 = 1.6e-5, a few of which make an error.
        assert float(logprob[t]) == pytest.approx(expected[0], abs=1e-4)
        assert float(entropy[t]) == pytest.approx(expected[1], abs=1e-5)
        assert ids[t].tolist() == expected[2]
        assert logprobs[t].tolist() == pytest.approx(expected[3], abs=1e-4)


@pytest.mark.parametrize(("logit_bytes", "chunk"), [(1, 1), (ROW_BYTES, 1), (5 * ROW_BYTES + 3, 5), (1 << 28, TOKENS)])
def test_no_more_logits_at_a_time_than_allowed(
    monkeypatch: pytest.MonkeyPatch, lm_head: nn.Linear, logit_bytes: int, chunk: int
) -> None:
    sizes = []

    def recording(hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden))
        return hidden @ lm_head.weight.T

    monkeypatch.setattr(module, "LOGIT_BYTES", logit_bytes)
    module.stats_of_logits(*inputs(), recording, vocab_size=lm_head.out_features, top_k=20)
    assert max(sizes) == chunk
    assert sum(sizes) == TOKENS


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_tokens_that_go_apart_change_no_bit_of_the_others(lm_head: nn.Linear, share: float) -> None:
    """With an output matrix whose products depend on how many rows they have."""
    hidden, target = inputs()
    apart = torch.rand(TOKENS, generator=torch.Generator().manual_seed(0)) < share

    def logits(rows: torch.Tensor) -> torch.Tensor:
        return rows @ lm_head.weight.T + 1e-3 * len(rows) * torch.arange(VOCAB)

    both = module.stats_of_logits(hidden, target, logits, vocab_size=VOCAB, top_k=20, apart_T=apart)
    for chosen in (apart, ~apart):
        alone = module.stats_of_logits(hidden[chosen], target[chosen], logits, vocab_size=VOCAB, top_k=20)
        assert all(torch.equal(found[chosen], expected) for found, expected in zip(both, alone, strict=True))


def test_no_tokens(lm_head: nn.Linear) -> None:
    columns = token_stats(torch.empty(0, HIDDEN), torch.empty(0, dtype=torch.int64), lm_head.weight, top_k=20)
    assert [tuple(column.shape) for column in columns] == [(0,), (0,), (0, 20), (0, 20)]


@given(st.integers(2, 40), st.floats(-1e4, 1e4))
def test_uniform_is_one_and_never_more(top_k: int, level: float) -> None:
    entropy = normalised_entropy(torch.full((1, top_k), level)).item()
    assert entropy == pytest.approx(1.0, abs=1e-6)
    assert entropy <= 1.0


def test_certainty_is_zero_and_never_less() -> None:
    logits = torch.full((2, 20), -1e4)
    logits[:, 0] = 100.0
    assert normalised_entropy(logits).tolist() == [0.0, 0.0]


@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=20))
def test_entropy_stays_within_its_range(logits: list[float]) -> None:
    entropy = normalised_entropy(torch.tensor([logits]))
    assert 0.0 <= entropy.item() <= 1.0


def test_entropy_in_closed_form() -> None:
    """Half on one alternative, the other half evenly on four: H = ln 2 / 2 + ln 8 / 2 = 2 ln 2, over ln 5."""
    logits = torch.tensor([[math.log(4.0), 0.0, 0.0, 0.0, 0.0]])
    assert normalised_entropy(logits).item() == pytest.approx(2 * math.log(2) / math.log(5), rel=1e-6)


def test_half_precision_keeps_float32_reductions(lm_head: nn.Linear) -> None:
    """bfloat16 states and weights give float32 logits: nothing is rounded on the way."""
    hidden, target = inputs()
    half = nn.Linear(HIDDEN, VOCAB, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    half.weight.copy_(lm_head.weight)
    logprob, _, _, logprobs = token_stats(hidden.bfloat16(), target, half.weight, top_k=20)
    assert logprobs.dtype == torch.float32
    exact = (hidden.bfloat16().double() @ half.weight.double().T).log_softmax(dim=-1)
    expected = exact.gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(logprob.double(), expected, rtol=0, atol=1e-4)
