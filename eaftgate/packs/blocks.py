"""From rows to blocks of exactly `seq_len` tokens, with the tokens that count (SPEC section 2).

Shapes: N tokens of the concatenated rows, B blocks, S = seq_len tokens a block.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from eaftgate.errors import UserError
from eaftgate.packs.harmony import completion_spans
from eaftgate.packs.pack import Pack

ROWS_PER_BATCH = 256

IntArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Blocks:
    """Blocks of one pack.

    `counted_BS[b, s]`: token s of block b belongs to an assistant's content and is not the block's first token; it
    is predicted by position s - 1. `row_BS` indexes `identities`, the sha256 of every row that the blocks touch.
    """

    pack: str
    seq_len: int
    token_ids_BS: IntArray
    counted_BS: BoolArray
    row_BS: IntArray
    identities: tuple[str, ...]

    @property
    def num_blocks(self) -> int:
        return len(self.token_ids_BS)

    @property
    def num_counted(self) -> int:
        return int(self.counted_BS.sum())

    def reordered(self, order: IntArray | NDArray[np.intp]) -> "Blocks":
        """The blocks `order`, in that order: all of them or some."""
        chosen = (self.token_ids_BS[order], self.counted_BS[order], self.row_BS[order])
        return Blocks(self.pack, self.seq_len, *chosen, self.identities)

    def counting(self, chosen_T: BoolArray) -> "Blocks":
        """The blocks with the chosen of their counted tokens as the only ones that count; a block without any is left
        out. `chosen_T[t]` is about the t-th counted token in block order."""
        counted_BS = self.counted_BS.copy()
        counted_BS[self.counted_BS] = chosen_T
        return replace(self, counted_BS=counted_BS).reordered(np.flatnonzero(counted_BS.any(axis=1)))

    @cached_property
    def digest(self) -> str:
        """sha256 of token ids, counted positions and rows: equal digests mean equal inputs to a collector."""
        digest = hashlib.sha256(f"blocks-1:{self.num_blocks}x{self.seq_len}:".encode())
        digest.update(np.ascontiguousarray(self.token_ids_BS, dtype="<i4").data)
        digest.update(np.packbits(self.counted_BS).data)
        digest.update(np.ascontiguousarray(self.row_BS, dtype="<i4").data)
        digest.update("".join(self.identities).encode())
        return digest.hexdigest()


def build_blocks(pack: Pack, tokenizer: Tokenizer, *, eos_id: int, seq_len: int, num_blocks: int | None) -> Blocks:
    """The first `num_blocks` blocks of `pack` (all of them when None), tokenising no more rows than they need.

    Raises UserError when the pack has fewer blocks than asked, or when none of its tokens counts.
    """
    if seq_len < 2:
        raise UserError(f"seq_len is {seq_len}: a block needs at least 2 tokens, because its first never counts")
    wanted = None if num_blocks is None else num_blocks * seq_len
    ids: list[IntArray] = []
    counted: list[BoolArray] = []
    rows: list[IntArray] = []
    tokens = 0
    for start in range(0, len(pack), ROWS_PER_BATCH):
        if wanted is not None and tokens >= wanted:
            break
        texts = pack.texts[start : start + ROWS_PER_BATCH]
        id_N, counted_N, row_N = _tokenise(texts, tokenizer, eos_id)
        ids.append(id_N)
        counted.append(counted_N)
        rows.append(row_N + np.int32(start))
        tokens += len(id_N)
    available = tokens // seq_len
    if num_blocks is None:
        num_blocks = available
    if available < num_blocks or num_blocks == 0:
        raise UserError(
            f"pack {pack.name} has {available} blocks of {seq_len} tokens, fewer than the {num_blocks or 1} asked: "
            "lower --num-blocks or --seq-len, or add rows"
        )
    size = num_blocks * seq_len
    shape = (num_blocks, seq_len)
    counted_BS = np.concatenate(counted)[:size].reshape(shape).copy()
    counted_BS[:, 0] = False
    if not counted_BS.any():
        raise UserError(
            f"pack {pack.name} has no assistant message in its first {num_blocks} blocks of {seq_len} tokens: "
            "rows must be Harmony conversations (<|start|>assistant...<|message|>...)"
        )
    row_BS = np.concatenate(rows)[:size].reshape(shape)
    return Blocks(
        pack=pack.name,
        seq_len=seq_len,
        token_ids_BS=np.concatenate(ids)[:size].reshape(shape),
        counted_BS=counted_BS,
        row_BS=row_BS,
        identities=pack.identities[: int(row_BS.max()) + 1],
    )


def _tokenise(texts: tuple[str, ...], tokenizer: Tokenizer, eos_id: int) -> tuple[IntArray, BoolArray, IntArray]:
    """Token ids, counted flags and row numbers (within `texts`) of the concatenated rows, an EOS after each."""
    encodings: list[Encoding] = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    length_R = np.fromiter((len(encoding) for encoding in encodings), np.int64, len(encodings))
    total = int(length_R.sum())
    id_N = np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int32, total)
    offset_N2 = np.fromiter(
        chain.from_iterable(chain.from_iterable(e.offsets for e in encodings)), np.int64, 2 * total
    ).reshape(total, 2)
    row_N = np.repeat(np.arange(len(texts), dtype=np.int32), length_R)
    # One coordinate for all rows: row r starts at the summed length of the rows before it, plus r so that a span
    # reaching to the end of one row and one starting at the next stay apart.
    char_base_R = np.cumsum([0] + [len(text) + 1 for text in texts[:-1]])
    begin_N, end_N = (offset_N2 + char_base_R[row_N, None]).T
    span_X2 = np.array(
        [
            (base + begin, base + end)
            for base, text in zip(char_base_R.tolist(), texts, strict=True)
            for begin, end in completion_spans(text)
        ]
    ).reshape(-1, 2)
    # The last span that begins before the token ends is the only one that can overlap it.
    nearest_N = np.searchsorted(span_X2[:, 0], end_N, side="left") - 1
    counted_N = nearest_N >= 0
    counted_N[counted_N] = span_X2[nearest_N[counted_N], 1] > begin_N[counted_N]
    counted_N &= end_N > begin_N

    eos_at = np.cumsum(length_R)
    return (
        np.insert(id_N, eos_at, eos_id),
        np.insert(counted_N, eos_at, False),
        np.insert(row_N, eos_at, np.arange(len(texts))),
    )
