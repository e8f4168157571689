"""What a keep set does to predictions, by masking: no checkpoint is written.

Equal to scoring the rewritten checkpoint (eaftgate.model.masking), so the full parity cell of a choice is known before
anything is rewritten.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GptOssForCausalLM

from eaftgate.collect.collection import Collection, TokenStats, check_stats, concatenate, make_collection
from eaftgate.collect.transformers import score
from eaftgate.errors import UserError
from eaftgate.model.masking import keeping_experts
from eaftgate.packs.blocks import Blocks
from eaftgate.parity.paired import PairedTokens, pair

BATCH_SIZE = 8


def collected(model: GptOssForCausalLM, blocks: Blocks, *, batch_size: int = BATCH_SIZE) -> Collection:
    """Token statistics of a loaded model as it is. Raises UserError when they are not finite."""
    parts: list[TokenStats] = [
        score(model, blocks.token_ids_BS[start : start + batch_size], blocks.counted_BS[start : start + batch_size])
        for start in range(0, blocks.num_blocks, batch_size)
    ]
    stats = concatenate(parts)
    check_stats(stats, blocks.num_counted, where=f"scoring {blocks.pack}")
    return make_collection(stats, blocks, {})


def masked_tokens(
    model: GptOssForCausalLM,
    blocks: Blocks,
    base: Collection,
    keep: Sequence[Sequence[int]],
    *,
    batch_size: int = BATCH_SIZE,
) -> PairedTokens:
    """`blocks` under the whole model (`base`, from `collected`) and under the experts `keep[layer]` alone."""
    with keeping_experts(model, keep):
        return pair(base, collected(model, blocks, batch_size=batch_size))


@contextmanager
def within_memory() -> Iterator[None]:
    """Turns a device's out of memory into a UserError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            "the model ran out of memory on the calibration blocks: lower --batch-size or --max-positions"
        ) from None
