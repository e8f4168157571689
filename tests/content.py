"""Blocks and tokens of which nothing matters but that they are content: what tests of perplexity and its like need."""

import numpy as np
from numpy.typing import NDArray

from eaftgate.packs.blocks import NO_MESSAGE, Blocks, Roles
from eaftgate.packs.harmony import TokenClass


def content_roles(content: NDArray[np.bool_]) -> Roles:
    """Tokens of no channel and no message; those that are not `content` are nothing of the assistant's."""
    return Roles(
        kind=np.where(content, np.uint8(TokenClass.OTHER), np.uint8(TokenClass.NONE)).astype(np.uint8),
        content=content,
        recipient=np.zeros(content.shape, bool),
        message=np.full(content.shape, NO_MESSAGE, np.int32),
    )


def content_blocks(
    pack: str,
    seq_len: int,
    token_ids_BS: NDArray[np.int32],
    content_BS: NDArray[np.bool_],
    row_BS: NDArray[np.int32],
    identities: tuple[str, ...],
) -> Blocks:
    """Blocks whose scored tokens are these; every block begins with a row."""
    return Blocks(
        pack=pack,
        seq_len=seq_len,
        token_ids_BS=token_ids_BS,
        scored_BS=content_BS,
        roles=content_roles(content_BS),
        row_BS=row_BS,
        continued_B=np.zeros(len(token_ids_BS), bool),
        identities=identities,
    )
