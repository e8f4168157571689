"""From hidden states to token statistics, a chunk of tokens at a time.

The logits of all scored tokens would not fit (201,088 columns at 20B), so the output matrix is applied to as many
tokens at a time as LOGIT_BYTES allow.

Shapes: T scored tokens, D hidden size, V vocabulary, K alternatives.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Logits = Callable[[Tensor], Tensor]

LOGIT_BYTES = 1 << 28
"""Float32 logits held at a time; the reductions over them need about as much again."""


def token_stats(
    hidden_TD: Tensor, target_T: Tensor, head_VD: Tensor, *, top_k: int, apart_T: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logprob_T, entropy_T, top_ids_TK, top_logprobs_TK) on the hidden states' device, float32 and int32.

    `hidden_TD[i]` is the state that predicts `target_T[i]`. Entropy is that of the renormalised top-k
    probabilities over ln k (SPEC section 3).
    """
    logits = linear_logits(head_VD)
    return stats_of_logits(hidden_TD, target_T, logits, vocab_size=len(head_VD), top_k=top_k, apart_T=apart_T)


def stats_of_logits(
    hidden_TD: Tensor,
    target_T: Tensor,
    logits: Logits,
    *,
    vocab_size: int,
    top_k: int,
    apart_T: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same for whatever turns hidden states [T, D] into float32 logits [T, V].

    The tokens `apart_T` go through the output matrix by themselves: how many rows a product has may decide the last bit
    of each, and the others' are not to depend on whether these were asked for.
    """
    if apart_T is not None and apart_T.any() and not apart_T.all():
        order_T = torch.cat([torch.nonzero(~apart_T)[:, 0], torch.nonzero(apart_T)[:, 0]])
        sizes = [len(apart_T) - int(apart_T.sum()), int(apart_T.sum())]
        both = [
            stats_of_logits(hidden, target, logits, vocab_size=vocab_size, top_k=top_k)
            for hidden, target in zip(hidden_TD[order_T].split(sizes), target_T[order_T].split(sizes), strict=True)
        ]
        place_T = order_T.argsort()
        logprob, entropy, ids, logprobs = (torch.cat(column)[place_T] for column in zip(*both, strict=True))
        return logprob, entropy, ids, logprobs
    chunk = max(1, LOGIT_BYTES // (4 * vocab_size))
    parts = [
        _chunk_stats(logits(hidden), target, top_k)
        for hidden, target in zip(hidden_TD.split(chunk), target_T.split(chunk), strict=True)
    ]
    logprob, entropy, ids, logprobs = (torch.cat(column) for column in zip(*parts, strict=True))
    return logprob, entropy, ids, logprobs


def _chunk_stats(logits_TV: Tensor, target: Tensor, top_k: int) -> tuple[Tensor, ...]:
    lse_T = logits_TV.logsumexp(dim=-1)
    top_TK, ids_TK = logits_TV.topk(top_k, dim=-1)
    logprob_T = logits_TV.gather(1, target[:, None])[:, 0] - lse_T
    top_logprobs_TK = top_TK - lse_T[:, None]
    return logprob_T, normalised_entropy(top_TK), ids_TK.int(), top_logprobs_TK


def linear_logits(weight_VD: Tensor) -> Logits:
    """Float32 logits; half-precision inputs accumulate and stay in float32 where the device can do so."""

    def logits(hidden_TD: Tensor) -> Tensor:
        if hidden_TD.is_cuda and hidden_TD.dtype != torch.float32:
            return torch.mm(hidden_TD, weight_VD.T, out_dtype=torch.float32)
        return hidden_TD.float() @ weight_VD.float().T

    return logits


def normalised_entropy(top_logits_TK: Tensor) -> Tensor:
    """Entropy of softmax(top_logits) over ln K, clamped to [0, 1]."""
    log_q_TK = top_logits_TK.log_softmax(dim=-1)
    entropy_T = -(log_q_TK.exp() * log_q_TK).sum(dim=-1)
    return (entropy_T / math.log(top_logits_TK.shape[-1])).clamp_(0.0, 1.0)
