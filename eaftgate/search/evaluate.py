"""What a keep set does to predictions, by masking: no checkpoint is written.

Equal to scoring the rewritten checkpoint (MoeModel.keeping), so the full parity cell of a choice is known before
anything is rewritten.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from eaftgate.collect.collection import Collection, check_stats, concatenate, make_collection
from eaftgate.collect.token_stats import LOGIT_BYTES, linear_logits
from eaftgate.collect.transformers import scored_stats
from eaftgate.errors import UserError
from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks
from eaftgate.parity.clusters import Estimate, clustered_mean, clusters_by
from eaftgate.parity.paired import PairedTokens, pair
from eaftgate.search.objective import Predictions, Reference
from eaftgate.search.prefix import Prefix, last_states
from eaftgate.search.settings import BATCH_SIZE

CHOICES = 20
"""Of the base, beside the rest of the vocabulary as one: as many as a gate's statistics have."""
REST = 1e-6
"""What the rest is at least: below that, float32 has no more of it."""


def collected(model: MoeModel, blocks: Blocks, *, batch_size: int = BATCH_SIZE) -> Collection:
    """Token statistics of a loaded model as it is. Raises UserError when they are not finite."""
    return _collection(model, blocks, _whole(model, blocks, batch_size))


def collected_after(model: MoeModel, layer: int, prefix: Prefix, blocks: Blocks) -> Collection:
    """The same for a model whose layers before `layer` gave `prefix`; only the others run, as the model is now. Gives
    what `collected` does in batches of the same size."""
    return _collection(model, blocks, _after(model, layer, prefix.states))


def referred(model: MoeModel, blocks: Blocks, *, batch_size: int = BATCH_SIZE) -> Reference:
    """What the model as it is says of the blocks, for others to be compared with.

    Raises UserError when a log-probability is not finite.
    """
    parts = [_references(model, *batch) for batch in _batches(blocks, _whole(model, blocks, batch_size))]
    id_TK, logprob_TK, lead_T = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    _check(logprob_TK, blocks)
    return Reference(id_TK, logprob_TK, lead_T.astype(np.float64))


def predicted(model: MoeModel, blocks: Blocks, base: Reference, *, batch_size: int = BATCH_SIZE) -> Predictions:
    """What of `collected` a search looks at, for a fraction of its cost: no top 20 are sorted, none leaves the device.

    The divergence of a token is KL(base || model) over the base's first choices and the rest of the vocabulary as one.
    Raises UserError when one is not finite.
    """
    return _predicted(model, blocks, base, _whole(model, blocks, batch_size))


def predicted_after(
    model: MoeModel, layer: int, states: Iterable[torch.Tensor], blocks: Blocks, base: Reference
) -> Predictions:
    """What `predicted` is to `collected`, of `collected_after`; `states` are those of its prefix."""
    return _predicted(model, blocks, base, _after(model, layer, states))


@torch.inference_mode()
def _whole(model: MoeModel, blocks: Blocks, batch_size: int) -> Iterator[torch.Tensor]:
    """The last hidden states, normalised, batch by batch."""
    for start in range(0, blocks.num_blocks, batch_size):
        ids_BS = torch.from_numpy(blocks.token_ids_BS[start : start + batch_size].astype(np.int64))
        yield model.hidden_states(ids_BS.to(model.device))


def _after(model: MoeModel, layer: int, states: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    return (last_states(model, layer, hidden_BSD) for hidden_BSD in states)


def _batches(
    blocks: Blocks, states: Iterable[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, NDArray[np.int32], NDArray[np.bool_]]]:
    """With the last hidden states of every batch its tokens, and which of them are scored."""
    start = 0
    for last_BSD in states:
        batch = slice(start, start + len(last_BSD))
        yield last_BSD, blocks.token_ids_BS[batch], blocks.scored_BS[batch]
        start = batch.stop


def _logits(
    model: MoeModel, hidden_BSD: torch.Tensor, ids_BS: NDArray[np.int32], scored_BS: NDArray[np.bool_]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The logits that predict the scored tokens, those of the tokens themselves, and these, [T, V], [T] and [T], by
    chunks."""
    position_T = np.flatnonzero(scored_BS)
    target_T = torch.from_numpy(ids_BS.ravel()[position_T].astype(np.int64)).to(hidden_BSD.device)
    hidden_TD = hidden_BSD.flatten(0, 1)[torch.from_numpy(position_T - 1).to(hidden_BSD.device)]
    logits, chunk = linear_logits(model.head_VD), max(1, LOGIT_BYTES // (4 * len(model.head_VD)))
    for hidden, target in zip(hidden_TD.split(chunk), target_T.split(chunk), strict=True):
        logit_TV = logits(hidden)
        yield logit_TV, logit_TV.gather(1, target[:, None])[:, 0], target


def _best_others(logit_TV: torch.Tensor, target_T: torch.Tensor) -> torch.Tensor:
    """[T]: the largest logits but those of the tokens themselves, which are -inf afterwards."""
    return logit_TV.scatter_(1, target_T[:, None], -torch.inf).amax(dim=-1)


@torch.inference_mode()
def _references(
    model: MoeModel, hidden_BSD: torch.Tensor, ids_BS: NDArray[np.int32], scored_BS: NDArray[np.bool_]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    found = []
    for logit_TV, own_T, target_T in _logits(model, hidden_BSD, ids_BS, scored_BS):
        top_TK, id_TK = logit_TV.topk(min(CHOICES, logit_TV.shape[1]), dim=-1)
        logprob_TK = top_TK - logit_TV.logsumexp(dim=-1, keepdim=True)
        found.append((id_TK.int(), logprob_TK, own_T - _best_others(logit_TV, target_T)))
    id_TK, logprob_TK, lead_T = (torch.cat(column) for column in zip(*found, strict=True))
    return id_TK, logprob_TK, lead_T


@torch.inference_mode()
def _predictions(
    model: MoeModel,
    base: Reference,
    hidden_BSD: torch.Tensor,
    ids_BS: NDArray[np.int32],
    scored_BS: NDArray[np.bool_],
) -> torch.Tensor:
    """[2, T]: the divergences, and the leads."""
    id_TK, logprob_TK = (torch.from_numpy(part).to(hidden_BSD.device) for part in (base.id_TK, base.logprob_TK))
    found, start = [], 0
    for logit_TV, own_T, target_T in _logits(model, hidden_BSD, ids_BS, scored_BS):
        chunk = slice(start, start + len(own_T))
        now_TK = logit_TV.gather(1, id_TK[chunk].long())
        other_T = _best_others(logit_TV, target_T)
        most_T1 = torch.maximum(own_T, other_T)[:, None]
        # What logsumexp does, but where the logits are: nothing as large is written besides.
        sum_T1 = logit_TV.sub_(most_T1).exp_().sum(dim=-1, keepdim=True).add_((own_T[:, None] - most_T1).exp())
        now_TK -= sum_T1.log_().add_(most_T1)
        found.append(torch.stack([divergences(logprob_TK[chunk], now_TK), own_T - other_T]))
        start = chunk.stop
    return torch.cat(found, dim=1)


def divergences(base_TK: torch.Tensor, now_TK: torch.Tensor) -> torch.Tensor:
    """[T]: KL(base || now) over some choices and the rest as one, from their log-probabilities."""
    rest_T, now_rest_T = (1 - part.exp().sum(dim=-1) for part in (base_TK, now_TK))
    rest_T, now_rest_T = rest_T.clamp(min=REST), now_rest_T.clamp(min=REST)
    of_choices_T = (base_TK.exp() * (base_TK - now_TK)).sum(dim=-1)
    return of_choices_T + rest_T * (rest_T / now_rest_T).log()


def _predicted(model: MoeModel, blocks: Blocks, base: Reference, states: Iterable[torch.Tensor]) -> Predictions:
    parts, start = [], 0
    for last_BSD, ids_BS, scored_BS in _batches(blocks, states):
        batch = slice(start, start + int(scored_BS.sum()))
        of_batch = Reference(base.id_TK[batch], base.logprob_TK[batch], base.lead_T[batch])
        parts.append(_predictions(model, of_batch, last_BSD, ids_BS, scored_BS))
        start = batch.stop
    divergence_T, lead_T = torch.cat(parts, dim=1).cpu().numpy().astype(np.float64)
    _check(divergence_T, blocks)
    return Predictions(divergence_T, lead_T)


def _check(found: NDArray[np.float32], blocks: Blocks) -> None:
    if not np.isfinite(found).all():
        raise UserError(f"scoring {blocks.pack}: a log-probability is not finite; the model or its engine is broken")


def _collection(model: MoeModel, blocks: Blocks, states: Iterable[torch.Tensor]) -> Collection:
    stats = concatenate([scored_stats(model, *batch) for batch in _batches(blocks, states)])
    check_stats(stats, blocks.num_scored, where=f"scoring {blocks.pack}")
    return make_collection(stats, blocks, {})


def masked_tokens(
    model: MoeModel,
    blocks: Blocks,
    base: Collection,
    keep: Sequence[Sequence[int]],
    *,
    batch_size: int = BATCH_SIZE,
) -> PairedTokens:
    """`blocks` under the whole model (`base`, from `collected`) and under the experts `keep[layer]` alone."""
    with model.keeping(keep):
        return pair(base, collected(model, blocks, batch_size=batch_size))


def nll_increase(before: Collection, after: Collection) -> Estimate:
    """Mean of nll_after - nll_before, nats a token, over the same tokens; clustered by row and by block."""
    increase_T = before.stats.logprob_T.astype(np.float64) - after.stats.logprob_T
    return clustered_mean(increase_T, (clusters_by(before.row_T), clusters_by(before.block_T)))


@contextmanager
def within_memory() -> Iterator[None]:
    """Turns a device's out of memory into a UserError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            "the model ran out of memory: lower --batch-size or, for a search, --max-positions, or profile fewer rows "
            "(--num-rows), whose hidden states it holds"
        ) from None
