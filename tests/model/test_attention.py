"""Sink attention is transformers' eager attention, to float32 rounding, at every relation of length and window."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_model import WINDOW, Reference, TinyModel, load_lively, load_reference, write_lively_checkpoint
from torch import Tensor
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

from eaftgate.model.attention import sink_attention

DIM = 8
TOLERANCE = 2e-6
"""Outputs are averages of values of size 1 (rarely above 4), summed in float32 (epsilon 1.2e-7) over <= 50 tokens."""


def allowed(length: int, window: int | None) -> Tensor:
    """Token i sees token j when j <= i, and in a sliding layer i - window < j."""
    return torch.tensor([[j <= i and (window is None or j > i - window) for j in range(length)] for i in range(length)])


def eager(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor, window: int | None, scaling: float) -> Tensor:
    """transformers' own function in float64, given a mask that is written out."""
    length = query.shape[2]
    mask = torch.zeros(length, length, dtype=torch.float64).masked_fill_(~allowed(length, window), -torch.inf)
    module: Any = SimpleNamespace(
        sinks=sinks.double(), num_key_value_groups=query.shape[1] // key.shape[1], training=False
    )  # fmt: skip
    output: Tensor = eager_attention_forward(module, query.double(), key.double(), value.double(), mask, scaling)[0]
    return output


def inputs(batch: int, heads: int, kv_heads: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length * 100 + heads * 10 + batch)
    query, key, value = (
        torch.randn(batch, length, h, DIM, generator=generator).transpose(1, 2) for h in (heads, kv_heads, kv_heads)
    )
    return 2 * query, 2 * key, value  # scores of size 4: attention that looks somewhere


SHAPES = [(batch, heads, kv_heads) for batch in (1, 3) for heads, kv_heads in ((4, 4), (4, 2), (6, 1))]


@pytest.mark.parametrize(("batch", "heads", "kv_heads"), SHAPES)
@pytest.mark.parametrize("window", [None, 1, 2, 5, 8])
def test_equals_eager(batch: int, heads: int, kv_heads: int, window: int | None) -> None:
    size = window or 8
    lengths = {1, 2, size - 1, size, size + 1, 2 * size - 1, 2 * size, 2 * size + 1, 5 * size + 3} - {0}
    sinks = torch.linspace(-3, 3, heads)
    for length in sorted(lengths):
        query, key, value = inputs(batch, heads, kv_heads, length)
        output, weights = sink_attention(
            torch.nn.Module(), query, key, value, None, scaling=DIM**-0.5, s_aux=sinks, sliding_window=window
        )
        expected = eager(query, key, value, sinks, window, DIM**-0.5)
        assert weights is None
        assert output.shape == (batch, length, heads, DIM)
        torch.testing.assert_close(output.double(), expected, rtol=0, atol=TOLERANCE, msg=f"length {length}")


def test_windows_differ() -> None:
    """The comparison above would notice a window that is off by one."""
    query, key, value = inputs(1, 4, 2, 21)
    outputs = [eager(query, key, value, torch.zeros(4), window, 0.35) for window in (7, 8, 9, None)]
    for a, b in itertools.pairwise(outputs):
        assert (a - b).abs().max() > 1000 * TOLERANCE


@pytest.mark.parametrize("window", [None, 4])
def test_sinks_take_their_share(window: int | None) -> None:
    query, key, value = inputs(2, 4, 2, 11)
    sinks = torch.tensor([-100.0, 0.0, 100.0, torch.inf])
    output, _ = sink_attention(
        torch.nn.Module(), query, key, value, None, scaling=0.35, s_aux=sinks, sliding_window=window
    )
    no_sinks, _ = sink_attention(
        torch.nn.Module(), query, key, value, None, scaling=0.35, s_aux=torch.full((4,), -torch.inf),
        sliding_window=window,
    )  # fmt: skip
    without, _ = sink_attention(torch.nn.Module(), query, key, value, None, scaling=0.35, sliding_window=window)
    assert torch.equal(without, no_sinks), "a model that has none passes none"
    assert torch.equal(output[:, :, 0], no_sinks[:, :, 0])
    assert (output[:, :, 1].abs() < no_sinks[:, :, 1].abs()).all()
    assert (output[:, :, 2:].abs() < 1e-30).all()
    # Alone with itself and no sink, the first token sees its own value and nothing else.
    torch.testing.assert_close(no_sinks[:, 0], value.repeat_interleave(2, dim=1)[:, :, 0])


def test_a_mask_is_refused() -> None:
    query, key, value = inputs(1, 2, 2, 3)
    with pytest.raises(ValueError, match="pass no attention mask"):
        sink_attention(torch.nn.Module(), query, key, value, torch.zeros(3, 3), scaling=1.0, s_aux=torch.zeros(2))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyModel, Reference]:
    path = write_lively_checkpoint(tmp_path_factory.mktemp("lively"))
    return load_lively(path), load_reference(path)


@pytest.mark.parametrize("length", [1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 3 * WINDOW + 5])
@torch.no_grad()
def test_the_whole_model_equals_transformers(models: tuple[TinyModel, Reference], length: int) -> None:
    """Sliding and full layers, our attention and our experts, against eager float64. Logits are of size 10 and pass
    three layers; float32 rounding of 1e-6 relative in each grows to some 1e-5."""
    ours, reference = models
    assert {layer.self_attn.sliding_window for layer in ours.module.model.layers} == {WINDOW, None}
    token_ids = torch.randint(0, len(ours.head_VD), (3, length), generator=torch.Generator().manual_seed(length))
    logits = ours.hidden_states(token_ids) @ ours.head_VD.T
    expected = reference(input_ids=token_ids, use_cache=False).logits
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-4)
