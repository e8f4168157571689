"""Attention, with sinks or without, and no quadratic score matrix, for transformers' attention interface.

A sink is one learned logit a head that is added to the softmax denominator. A fused kernel that also returns the
log-sum-exp of the scores needs nothing more: with the sink in the denominator the output shrinks by
exp(lse) / (exp(lse) + exp(sink)) = sigmoid(lse - sink). A sliding layer attends within chunks of the window's length
(a token sees its own chunk and the one before), so its cost is linear in the sequence.

Shapes: B batch, H query heads, T tokens, D head_dim, W window, C chunks.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from eaftgate.model.kept import Kept

SINK_ATTENTION = "eaftgate_sink"


def sink_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    s_aux: Tensor | None = None,
    sliding_window: int | None = None,
    kept: Kept | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of whole, unpadded sequences. Returns (output_BTHD, None), as transformers expects.

    With `kept`, of a prompt that is kept in there, or of one token in each of its places to what is.

    Raises ValueError for a mask: the causal and sliding patterns are built in, padding is not supported.
    """
    if attention_mask is not None:
        raise ValueError("sink_attention takes whole sequences only: pass no attention mask")
    if kept is not None:
        layer: Any = module.layer_idx
        if kept.reading is None:
            one = (tokens[:, :, 0] for tokens in (query, key, value))
            output_BHD = kept.attend(layer, *one, window=sliding_window, scaling=scaling, sink_H=s_aux)
            return output_BHD[:, None], None
        kept.keep_prompt(layer, key, value, sliding_window)
    window = sliding_window if sliding_window is not None and sliding_window < query.shape[2] else None
    if query.is_cuda and query.dtype != torch.float32:
        return _flash_cuda(query, key, value, s_aux, window, scaling), None
    key_BHTD, value_BHTD = (_for_each_head(shared, query.shape[1]) for shared in (key, value))
    if window is None:
        output_BHTD, lse_BHT = _attend(query, key_BHTD, value_BHTD, None, scaling)
    else:
        output_BHTD, lse_BHT = _attend_chunks(query, key_BHTD, value_BHTD, window, scaling)
    if s_aux is not None:
        output_BHTD = output_BHTD * torch.sigmoid(lse_BHT - s_aux.float()[:, None]).to(output_BHTD.dtype)[..., None]
    return output_BHTD.transpose(1, 2).contiguous(), None


def _for_each_head(shared_BGTD: Tensor, heads: int) -> Tensor:
    """Keys or values of G groups as each of its heads sees them."""
    batch, groups, length, dim = shared_BGTD.shape
    return shared_BGTD[:, :, None].expand(batch, groups, heads // groups, length, dim).flatten(1, 2)


def _flash_cuda(
    query: Tensor, key: Tensor, value: Tensor, sink_H: Tensor | None, window: int | None, scale: float
) -> Tensor:
    """Half precision on CUDA: the flash kernel knows grouped heads and windows. Returns output_BTHD."""
    length = query.shape[2]
    output_BTHD, lse_BHT, *_ = torch.ops.aten._flash_attention_forward(
        *(t.transpose(1, 2).contiguous() for t in (query, key, value)),
        None, None, length, length, 0.0, True, False,
        scale=scale,
        window_size_left=None if window is None else window - 1,
        window_size_right=None if window is None else 0,
    )  # fmt: skip
    if sink_H is None:
        return output_BTHD  # type: ignore[no-any-return]
    shrink_BHT = torch.sigmoid(lse_BHT.float() - sink_H.float()[:, None])
    return output_BTHD * shrink_BHT.transpose(1, 2).to(output_BTHD.dtype)[..., None]  # type: ignore[no-any-return]


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Fused attention and its log-sum-exp; causal when `mask` is None, else additive `mask`."""
    causal = mask is None
    if query.device.type == "cpu":
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
        return output, lse
    length = query.shape[2]
    bias = None if mask is None else mask.expand(*query.shape[:2], -1, -1)
    output, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, 0.0, causal, scale=scale
    )
    return output, lse[..., :length]  # the kernel pads the log-sum-exp to a multiple of its tile


def _attend_chunks(query: Tensor, key: Tensor, value: Tensor, window: int, scale: float) -> tuple[Tensor, Tensor]:
    """Sliding causal attention: token i sees the tokens j with i - window < j <= i."""
    batch, heads, length, dim = query.shape
    chunks = -(-length // window)
    padding = chunks * window - length

    def chunked(x_BHTD: Tensor) -> Tensor:
        return F.pad(x_BHTD, (0, 0, 0, padding)).view(batch, heads, chunks, window, dim).transpose(1, 2)

    def with_previous(x_BHTD: Tensor) -> Tensor:
        own = chunked(x_BHTD)
        return torch.cat([F.pad(own, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], own], dim=3).flatten(0, 1)

    i_W = torch.arange(window, device=query.device)[:, None]
    j_2W = torch.arange(-window, window, device=query.device)[None, :]
    banned_CWW = ((j_2W > i_W) | (j_2W <= i_W - window)).repeat(chunks, 1, 1)
    banned_CWW[0, :, :window] = True  # the first chunk has none before it
    mask = torch.zeros(banned_CWW.shape, dtype=query.dtype, device=query.device).masked_fill_(banned_CWW, -torch.inf)
    output, lse = _attend(
        chunked(query).flatten(0, 1),
        with_previous(key),
        with_previous(value),
        mask[:, None].repeat(batch, 1, 1, 1),
        scale,
    )
    output = output.view(batch, chunks, heads, window, dim).transpose(1, 2).flatten(2, 3)
    lse = lse.view(batch, chunks, heads, window).transpose(1, 2).flatten(2, 3)
    return output[:, :, :length], lse[:, :, :length]


ALL_ATTENTION_FUNCTIONS.register(SINK_ATTENTION, sink_attention)
