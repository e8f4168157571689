"""From rows to blocks of exactly `seq_len` tokens, and what each token is to the assistant's messages (SPEC section 2).

Shapes: N tokens of the concatenated rows, B blocks, S = seq_len tokens a block, T scored tokens, M messages, X spans.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from eaftgate.errors import UserError
from eaftgate.packs.harmony import Message, Span, TokenClass, assistant_messages
from eaftgate.packs.pack import Pack
from eaftgate.packs.tokenizer import tokenizer_failures

ROWS_PER_BATCH = 256
FIRST_ROWS = 8
"""Where not all are asked for; then twice as many each time, so that a few blocks take a few rows."""
NO_MESSAGE = -1

IntArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Roles:
    """What tokens are to the assistant's messages: arrays of one shape.

    `kind`: a token's TokenClass; NONE where the assistant does not write it. `content`: it overlaps the content of a
    message. `recipient`: it overlaps the name that a call is addressed to. `message`: the number of its message.
    """

    kind: NDArray[np.uint8]
    content: BoolArray
    recipient: BoolArray
    message: IntArray

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        return self.kind, self.content, self.recipient, self.message

    def at(self, chosen: NDArray[Any] | slice) -> "Roles":
        return Roles(*(column[chosen] for column in self.columns))


@dataclass(frozen=True)
class Blocks:
    """Blocks of one pack.

    `scored_BS[b, s]`: token s of block b is the assistant's to write (or any, where everything is scored) and is not
    the block's first token; it is predicted by position s - 1. In `roles`, [B, S], `message` is NO_MESSAGE but for
    messages that are closed and scored whole, header to closing token, in one block. `row_BS` indexes `identities`, the
    sha256 of every row that the blocks touch. `continued_B`: the block begins within a row.
    """

    pack: str
    seq_len: int
    token_ids_BS: IntArray
    scored_BS: BoolArray
    roles: Roles
    row_BS: IntArray
    continued_B: BoolArray
    identities: tuple[str, ...]

    @property
    def num_blocks(self) -> int:
        return len(self.token_ids_BS)

    @property
    def num_scored(self) -> int:
        return int(self.scored_BS.sum())

    @property
    def num_counted(self) -> int:
        """Scored tokens of content: what perplexity is of."""
        return int((self.scored_BS & self.roles.content).sum())

    def reordered(self, order: IntArray | NDArray[np.intp]) -> "Blocks":
        """The blocks `order`, in that order: all of them or some."""
        return replace(
            self,
            token_ids_BS=self.token_ids_BS[order],
            scored_BS=self.scored_BS[order],
            roles=self.roles.at(order),
            row_BS=self.row_BS[order],
            continued_B=self.continued_B[order],
        )

    def scoring(self, chosen_T: BoolArray) -> "Blocks":
        """The blocks with the chosen of their scored tokens as the only ones that are scored; a block without any is
        left out. `chosen_T[t]` is about the t-th scored token in block order."""
        scored_BS = self.scored_BS.copy()
        scored_BS[self.scored_BS] = chosen_T
        return replace(self, scored_BS=scored_BS).reordered(np.flatnonzero(scored_BS.any(axis=1)))

    def scoring_everything(self) -> "Blocks":
        """The blocks with all tokens scored, prompts too, but for the first of each."""
        scored_BS = np.ones_like(self.scored_BS)
        scored_BS[:, 0] = False
        return replace(self, scored_BS=scored_BS)

    def scoring_content(self) -> "Blocks":
        return self.scoring(self.roles.content[self.scored_BS])

    @property
    def prompts_BS(self) -> BoolArray:
        """Scored tokens that are not the assistant's."""
        prompts_BS: BoolArray = self.scored_BS & (self.roles.kind == TokenClass.NONE)
        return prompts_BS

    @property
    def digest_of_content(self) -> str:
        """What profiles of before classes call their blocks by."""
        digest = hashlib.sha256(f"blocks-1:{self.num_blocks}x{self.seq_len}:".encode())
        digest.update(np.ascontiguousarray(self.token_ids_BS, dtype="<i4").data)
        digest.update(np.packbits(self.scored_BS & self.roles.content).data)
        digest.update(np.ascontiguousarray(self.row_BS, dtype="<i4").data)
        digest.update("".join(self.identities).encode())
        return digest.hexdigest()

    @cached_property
    def digest(self) -> str:
        """sha256 of token ids, scored positions, roles and rows: equal digests mean equal inputs to a collector."""
        digest = hashlib.sha256(f"blocks-2:{self.num_blocks}x{self.seq_len}:".encode())
        for numbers in (self.token_ids_BS, self.row_BS, self.roles.message):
            digest.update(np.ascontiguousarray(numbers, dtype="<i4").data)
        for flags in (self.scored_BS, self.roles.content, self.roles.recipient, self.continued_B):
            digest.update(np.packbits(flags).data)
        digest.update(np.ascontiguousarray(self.roles.kind).data)
        digest.update("".join(self.identities).encode())
        return digest.hexdigest()


def build_blocks(
    pack: Pack,
    tokenizer: Tokenizer,
    *,
    eos_id: int,
    seq_len: int,
    num_blocks: int | None,
    vocab_size: int | None = None,
) -> Blocks:
    """The first `num_blocks` blocks of `pack` (all of them when None), tokenising no more rows than they need.

    Raises UserError when the pack has fewer blocks than asked, when none of its tokens counts, and for a token that is
    none of the model's `vocab_size`.
    """
    wanted = None if num_blocks is None else num_blocks * seq_len
    blocks = cut_blocks(
        tokenised(pack, tokenizer, eos_id=eos_id, wanted=wanted), seq_len=seq_len, num_blocks=num_blocks
    )
    if vocab_size is not None and (highest := int(blocks.token_ids_BS.max())) >= vocab_size:
        raise UserError(
            f"pack {pack.name} has token {highest} ({tokenizer.id_to_token(highest)!r}), and the model has "
            f"{vocab_size}: its tokenizer.json is of another model"
        )
    return blocks


def tokenised(pack: Pack, tokenizer: Tokenizer, *, eos_id: int, wanted: int | None = None) -> "TokenisedPack":
    """The rows of `pack` as tokens: all of them, or as many as give `wanted` tokens."""
    parts: list[_Tokens] = []
    tokens = messages = 0
    start, size = 0, ROWS_PER_BATCH if wanted is None else min(FIRST_ROWS, ROWS_PER_BATCH)
    while start < len(pack) and (wanted is None or tokens < wanted):
        texts = pack.texts[start : start + size]
        parts.append(_tokenise(texts, tokenizer, eos_id, first_row=start, first_message=messages))
        start, size = start + len(texts), min(2 * size, ROWS_PER_BATCH)
        tokens += len(parts[-1].id_N)
        messages += len(parts[-1].length_M)
    return TokenisedPack(pack, tuple(parts))


def cut_blocks(rows: "TokenisedPack", *, seq_len: int, num_blocks: int | None) -> Blocks:
    """The first `num_blocks` blocks of `rows` (all of them when None). Raises UserError as build_blocks does."""
    if seq_len < 2:
        raise UserError(f"seq_len is {seq_len}: a block needs at least 2 tokens, because its first never counts")
    available = rows.num_tokens // seq_len
    if num_blocks is None:
        num_blocks = available
    if available < max(num_blocks, 1):
        name = rows.pack.name
        if rows.num_tokens and not any(part.roles.content.any() for part in rows.parts):
            raise _without_answers(name, "")
        if available == 0:
            said = f"{rows.num_tokens} tokens, less than one block of {seq_len}: take a smaller seq_len, or more rows"
        else:
            said = f"{available} blocks of {seq_len} tokens, fewer than the {num_blocks} asked: take fewer or shorter "
            said += "blocks, or add rows"
        raise UserError(f"pack {name} has {said}")
    return _cut(rows.pack, rows.parts, seq_len, num_blocks)


@dataclass(frozen=True)
class TokenisedPack:
    """Rows from the front of a pack as tokens, to be cut into blocks of any length."""

    pack: Pack
    parts: "tuple[_Tokens, ...]"

    @property
    def num_tokens(self) -> int:
        return sum(len(part.id_N) for part in self.parts)


@dataclass(frozen=True)
class _Tokens:
    """Rows as tokens. `length_M`: the tokens of every message; none of one that is cut off."""

    id_N: IntArray
    row_N: IntArray
    roles: Roles
    length_M: NDArray[np.intp]

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        return self.id_N, self.row_N, *self.roles.columns


def _cut(pack: Pack, parts: Sequence[_Tokens], seq_len: int, num_blocks: int) -> Blocks:
    shape = (num_blocks, seq_len)
    size = num_blocks * seq_len
    token_ids_BS, row_BS, *roles = (
        np.concatenate(column)[:size].reshape(shape) for column in zip(*(part.columns for part in parts), strict=True)
    )
    found = Roles(*roles)
    scored_BS = found.kind != TokenClass.NONE
    scored_BS[:, 0] = False
    if not (scored_BS & found.content).any():
        raise _without_answers(pack.name, f" in its first {num_blocks} blocks of {seq_len} tokens")
    whole_BS = _whole(found.message, scored_BS, np.concatenate([part.length_M for part in parts]))
    continued_B = np.zeros(num_blocks, bool)
    continued_B[1:] = row_BS[1:, 0] == row_BS[:-1, -1]
    return Blocks(
        pack=pack.name,
        seq_len=seq_len,
        token_ids_BS=token_ids_BS,
        scored_BS=scored_BS,
        roles=replace(found, message=np.where(whole_BS, found.message, np.int32(NO_MESSAGE))),
        row_BS=row_BS,
        continued_B=continued_B,
        identities=pack.identities[: int(row_BS.max()) + 1],
    )


def _without_answers(pack: str, where: str) -> UserError:
    return UserError(
        f"pack {pack} has no assistant message{where}: "
        "rows must be Harmony conversations (<|start|>assistant...<|message|>...)"
    )


def _whole(message_BS: IntArray, scored_BS: BoolArray, length_M: NDArray[np.intp]) -> BoolArray:
    """Which tokens are scored and of a message that has all of its `length_M` tokens scored in one block."""
    block_T, message_T = np.nonzero(scored_BS)[0], message_BS[scored_BS]
    # A message's tokens follow each other, so a block's share of it is a stretch of equal (block, message).
    begins_T = np.diff(block_T, prepend=-1).astype(bool) | np.diff(message_T, prepend=NO_MESSAGE).astype(bool)
    stretch_T = np.cumsum(begins_T) - 1
    whole_BS = np.zeros(scored_BS.shape, bool)
    whole_BS[scored_BS] = np.bincount(stretch_T)[stretch_T] == length_M[message_T]
    return whole_BS


def _tokenise(
    texts: Sequence[str], tokenizer: Tokenizer, eos_id: int, *, first_row: int, first_message: int
) -> _Tokens:
    """The concatenated rows, an EOS after each. Rows and messages are numbered on from the first."""
    with tokenizer_failures("tokenizer.json fails on the rows of a pack"):
        encodings: list[Encoding] = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    length_R = np.fromiter((len(encoding) for encoding in encodings), np.int64, len(encodings))
    total = int(length_R.sum())
    id_N = np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int32, total)
    offset_N2 = np.fromiter(
        chain.from_iterable(chain.from_iterable(e.offsets for e in encodings)), np.int64, 2 * total
    ).reshape(total, 2)
    row_R = np.arange(len(texts), dtype=np.int32)
    row_N = np.repeat(row_R, length_R)
    # One coordinate for all rows: row r starts at the summed length of the rows before it, plus r so that a span
    # reaching to the end of one row and one starting at the next stay apart.
    char_base_R = np.cumsum([0] + [len(text) + 1 for text in texts[:-1]])
    messages = [
        message.moved(base)
        for base, text in zip(char_base_R.tolist(), texts, strict=True)
        for message in assistant_messages(text)
    ]
    roles, length_M = _roles_of((offset_N2 + char_base_R[row_N, None]).T, messages)
    eos_at = np.cumsum(length_R)
    kind, content, recipient, message = (np.insert(column, eos_at, 0) for column in roles.columns)
    return _Tokens(
        id_N=np.insert(id_N, eos_at, eos_id).astype(np.int32),
        row_N=np.insert(row_N, eos_at, row_R) + np.int32(first_row),
        roles=Roles(kind, content, recipient, message + np.int32(first_message)),
        length_M=length_M,
    )


def _roles_of(span_2N: NDArray[np.int64], messages: Sequence[Message]) -> tuple[Roles, NDArray[np.intp]]:
    """What tokens, given by where their characters begin and end, are to `messages`, and the latter's numbers of
    tokens. A token without a message has any number there."""
    parts: list[tuple[Span | None, int, int]] = []
    for number, message in enumerate(messages):
        parts += [
            (message.header, TokenClass.HEADER, number),
            (message.content, message.kind, number),
            (message.close, TokenClass.CLOSE, number),
        ]
    there = [(*span, kind, number) for span, kind, number in parts if span is not None and span[0] < span[1]]
    part_X4 = np.array([*there, (0, 0, TokenClass.NONE, 0)], np.int64)  # the last is what place -1 is
    part_N4 = part_X4[_last_overlapped(span_2N, [(begin, end) for begin, end, _, _ in there])]
    kind_N, message_N = part_N4[:, 2].astype(np.uint8), part_N4[:, 3].astype(np.int32)
    length_M = np.bincount(message_N[kind_N != TokenClass.NONE], minlength=len(messages))
    length_M[[number for number, message in enumerate(messages) if message.close is None]] = 0
    return (
        Roles(
            kind=kind_N,
            content=_last_overlapped(span_2N, [message.content for message in messages]) >= 0,
            recipient=_last_overlapped(span_2N, [message.recipient for message in messages]) >= 0,
            message=message_N,
        ),
        length_M,
    )


def _last_overlapped(span_2N: NDArray[np.int64], others: Sequence[Span | None]) -> NDArray[np.intp]:
    """Which of `others`, ascending and apart from each other, a token overlaps, the last of several; -1 for none."""
    begin_N, end_N = span_2N
    other_X2 = np.array([span for span in others if span is not None and span[0] < span[1]], np.int64).reshape(-1, 2)
    # The last one that begins before the token ends is the only one that can be it.
    place_N = np.searchsorted(other_X2[:, 0], end_N, side="left") - 1
    overlaps_N = place_N >= 0
    overlaps_N[overlaps_N] = other_X2[place_N[overlaps_N], 1] > begin_N[overlaps_N]
    return np.where(overlaps_N & (end_N > begin_N), place_N, -1)
