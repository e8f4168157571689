"""From hidden states to token statistics, a chunk of tokens at a time.

The logits of all counted tokens would not fit (201,088 columns at 20B), so the output matrix is applied to as many
tokens at a time as LOGIT_BYTES allow.

Shapes: T counted tokens, D hidden size, V vocabulary, K alternatives.
"""

import math

import torch
from torch import Tensor, nn

LOGIT_BYTES = 1 << 28
"""Float32 logits held at a time; the reductions over them need about as much again."""


def token_stats(
    hidden_TD: Tensor, target_T: Tensor, lm_head: nn.Linear, *, top_k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logprob_T, entropy_T, top_ids_TK, top_logprobs_TK) on the hidden states' device, float32 and int32.

    `hidden_TD[i]` is the state that predicts `target_T[i]`. Entropy is that of the renormalised top-k
    probabilities over ln k (SPEC section 3).
    """
    chunk = max(1, LOGIT_BYTES // (4 * lm_head.out_features))
    parts = [
        _chunk_stats(hidden, target, lm_head, top_k)
        for hidden, target in zip(hidden_TD.split(chunk), target_T.split(chunk), strict=True)
    ]
    logprob, entropy, ids, logprobs = (torch.cat(column) for column in zip(*parts, strict=True))
    return logprob, entropy, ids, logprobs


def _chunk_stats(hidden: Tensor, target: Tensor, lm_head: nn.Linear, top_k: int) -> tuple[Tensor, ...]:
    logits_TV = _logits(hidden, lm_head.weight)
    lse_T = logits_TV.logsumexp(dim=-1)
    top_TK, ids_TK = logits_TV.topk(top_k, dim=-1)
    logprob_T = logits_TV.gather(1, target[:, None])[:, 0] - lse_T
    top_logprobs_TK = top_TK - lse_T[:, None]
    return logprob_T, normalised_entropy(top_TK), ids_TK.int(), top_logprobs_TK


def _logits(hidden: Tensor, weight_VD: Tensor) -> Tensor:
    """Float32 logits; half-precision inputs accumulate and stay in float32 where the device can do so."""
    if hidden.is_cuda and hidden.dtype != torch.float32:
        return torch.mm(hidden, weight_VD.T, out_dtype=torch.float32)
    return hidden.float() @ weight_VD.float().T


def normalised_entropy(top_logits_TK: Tensor) -> Tensor:
    """Entropy of softmax(top_logits) over ln K, clamped to [0, 1]."""
    log_q_TK = top_logits_TK.log_softmax(dim=-1)
    entropy_T = -(log_q_TK.exp() * log_q_TK).sum(dim=-1)
    return (entropy_T / math.log(top_logits_TK.shape[-1])).clamp_(0.0, 1.0)
