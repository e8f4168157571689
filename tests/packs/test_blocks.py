"""Blocks and counted tokens (SPEC section 2), held to an oracle that walks tokens and characters one by one."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny_checkpoint import HARMONY_SPECIALS, build_tokenizer
from tokenizers import Encoding, Tokenizer, models, pre_tokenizers, processors

from eaftgate.errors import UserError
from eaftgate.packs import blocks as blocks_module
from eaftgate.packs.blocks import NO_MESSAGE, Blocks, Roles, build_blocks
from eaftgate.packs.harmony import TokenClass, assistant_messages
from eaftgate.packs.pack import Pack, row_identity

EOS = 0


def straddling_tokenizer() -> Tokenizer:
    """No special tokens, and merges that reach across the edges of a content: '>a', 'a<', ' >', two bytes of 🙂."""
    merges = [(">", "a"), ("a", "<"), ("b", "<"), ("|", ">"), ("Ġ", "Ġ"), ("ð", "Ł"), ("a", "b"), ("ab", "<")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def trimming_tokenizer() -> Tokenizer:
    """White space has offsets of no width, which overlap nothing."""
    tokenizer = build_tokenizer()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


TOKENIZERS = {
    "specials": build_tokenizer(), "straddling": straddling_tokenizer(), "trimming": trimming_tokenizer(),
}  # fmt: skip


def pack_of(texts: Sequence[str]) -> Pack:
    return Pack("p", tuple(texts), tuple(map(row_identity, texts)), ("p",) * len(texts), ("",) * len(texts))


Slow = tuple[int, TokenClass, bool, bool, int | None, str]
"""A token: id, class, whether any character of it is content or a recipient's name, its message and its row's text."""


def slow_tokens(texts: Sequence[str], tokenizer: Tokenizer) -> list[Slow]:
    """The concatenated rows, token by token and character by character. Messages are numbered through all rows."""
    tokens: list[Slow] = []
    first = 0
    for text in texts:
        messages = assistant_messages(text)
        part_of: dict[int, tuple[TokenClass, int | None]] = {}
        content: set[int] = set()
        recipient: set[int] = set()
        for number, message in enumerate(messages, first):
            spans = (
                (message.header, TokenClass.HEADER),
                (message.content, message.kind),
                (message.close, TokenClass.CLOSE),
            )
            for span, part in spans:
                part_of.update(dict.fromkeys(range(*(span or (0, 0))), (part, number)))
            content.update(range(*message.content))
            recipient.update(range(*(message.recipient or (0, 0))))
        first += len(messages)
        encoding = tokenizer.encode(text, add_special_tokens=False)
        for token, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True):
            parts = [part_of[i] for i in range(begin, end) if i in part_of]
            kind, belongs = parts[-1] if parts else (TokenClass.NONE, None)  # the later of several
            inside = (any(i in where for i in range(begin, end)) for where in (content, recipient))
            tokens.append((token, kind, *inside, belongs, text))  # type: ignore[arg-type]
        tokens.append((EOS, TokenClass.NONE, False, False, None, text))
    return tokens


Cut = tuple[int, bool, TokenClass, bool, bool, int, str]
"""A token of a block: id, scored, class, content, recipient, its message if that is whole here, its row's identity."""


def as_tokens(blocks: Blocks) -> list[list[Cut]]:
    columns = (blocks.token_ids_BS, blocks.scored_BS, *blocks.roles.columns, blocks.row_BS)
    return [
        [
            (
                int(token),
                bool(scored),
                TokenClass(kind),
                bool(content),
                bool(recipient),
                int(message),
                blocks.identities[row],
            )
            for token, scored, kind, content, recipient, message, row in zip(*block, strict=True)
        ]
        for block in zip(*columns, strict=True)
    ]


def slow_blocks(texts: Sequence[str], tokenizer: Tokenizer, seq_len: int) -> list[list[Cut]]:
    tokens = slow_tokens(texts, tokenizer)
    closed = {number for _, kind, _, _, number, _ in tokens if kind == TokenClass.CLOSE}
    sizes = Counter(number for *_, number, _ in tokens)
    blocks = []
    for first in range(0, len(tokens) - seq_len + 1, seq_len):
        block = tokens[first : first + seq_len]
        here = Counter(number for *_, number, _ in block[1:])
        whole = {number for number in closed if here[number] == sizes[number]}
        blocks.append(
            [
                (
                    *(token, place > 0 and kind != TokenClass.NONE, kind, content, recipient),
                    *(number if number in whole else NO_MESSAGE, row_identity(text)),
                )
                for place, (token, kind, content, recipient, number, text) in enumerate(block)
            ]
        )
    return blocks  # type: ignore[return-value]


MESSAGES = st.tuples(
    st.sampled_from(("assistant", "user", "assistant to=f.x<|channel|>commentary", "assistant<|channel|>final")),
    st.text("ab é🙂<|>\n", max_size=6),
    st.sampled_from(("<|end|>", "<|call|>", "<|return|>")),
).map(lambda parts: f"<|start|>{parts[0]}<|message|>{parts[1]}{parts[2]}")
ENDS = st.sampled_from(("", "", "<|start|>assistant", "<|start|>assistant<|message|>ab", "x"))
TEXTS = st.lists(st.tuples(st.lists(MESSAGES, max_size=3).map("".join), ENDS).map("".join), min_size=1, max_size=6)


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@given(texts=TEXTS, seq_len=st.integers(2, 11), rows_per_batch=st.sampled_from((1, 2, 256)), data=st.data())
def test_equals_the_slow_oracle(
    tokenizer: Tokenizer, texts: list[str], seq_len: int, rows_per_batch: int, data: st.DataObject
) -> None:
    expected = slow_blocks(texts, tokenizer, seq_len)
    assume(expected)
    num_blocks = data.draw(st.integers(1, len(expected)))
    with patch.multiple(blocks_module, ROWS_PER_BATCH=rows_per_batch, FIRST_ROWS=1):
        if not any(scored and content for block in expected[:num_blocks] for _, scored, _, content, *_ in block):
            with pytest.raises(UserError, match="has no assistant message"):
                build_blocks(pack_of(texts), tokenizer, eos_id=EOS, seq_len=seq_len, num_blocks=num_blocks)
            return
        some = build_blocks(pack_of(texts), tokenizer, eos_id=EOS, seq_len=seq_len, num_blocks=num_blocks)
        everything = build_blocks(pack_of(texts), tokenizer, eos_id=EOS, seq_len=seq_len, num_blocks=None)
    assert as_tokens(everything) == expected
    assert [a.dtype for a in (some.token_ids_BS, some.row_BS, some.scored_BS)] == [np.int32, np.int32, np.bool_]
    assert as_tokens(some) == expected[:num_blocks]  # a smaller budget is a prefix of a larger one
    assert some.identities == everything.identities[: some.row_BS[-1, -1] + 1]  # of the rows touched, and no others
    assert (some.pack, some.num_blocks, some.seq_len) == ("p", num_blocks, seq_len)
    assert some.num_scored == sum(scored for block in expected[:num_blocks] for _, scored, *_ in block)
    assert some.num_counted == sum(
        scored and content for block in expected[:num_blocks] for _, scored, _, content, *_ in block
    )
    assert some.continued_B.tolist() == [
        place > 0 and same_row(texts, tokenizer, seq_len * place) for place in range(num_blocks)
    ]


def same_row(texts: Sequence[str], tokenizer: Tokenizer, at: int) -> bool:
    """Whether the tokens before and at this place are of one row."""
    lengths = [len(slow_tokens([text], tokenizer)) for text in texts]
    ends = list(itertools.accumulate(lengths))
    return at not in ends


def counted_tokens(text: str, tokenizer: Tokenizer) -> list[str | None]:
    """Names of the counted tokens of one row, cut into a single block."""
    length = len(slow_tokens([text], tokenizer))
    blocks = build_blocks(pack_of([text]), tokenizer, eos_id=EOS, seq_len=length, num_blocks=1)
    return [tokenizer.id_to_token(i) for i in blocks.token_ids_BS[blocks.scored_BS & blocks.roles.content]]


def test_a_token_counts_when_it_overlaps_content_at_either_edge() -> None:
    text = "<|start|>assistant<|message|>axb<|end|><|start|>user<|message|>ab<|end|>"
    assert counted_tokens(text, TOKENIZERS["straddling"]) == [">a", "x", "b<"]


def test_every_token_of_a_multi_byte_character_counts() -> None:
    text = "<|start|>user<|message|>🙂<|end|><|start|>assistant<|message|>🙂é<|return|>"
    assert counted_tokens(text, TOKENIZERS["specials"]) == ["ð", "Ł", "Ļ", "Ĥ", "Ã", "©"]


def test_eos_never_counts_even_after_a_message_without_an_end() -> None:
    rows = ["<|start|>assistant<|message|>ab", "<|start|>assistant<|message|>c"]
    tokenizer = TOKENIZERS["specials"]
    blocks = build_blocks(pack_of(rows), tokenizer, eos_id=EOS, seq_len=27, num_blocks=1)
    # per row: <|start|>, the nine letters of assistant, <|message|>, content, EOS
    expected = [False] * 11 + [True] * 2 + [False] + [False] * 11 + [True] + [False]
    assert blocks.roles.content[0].tolist() == expected
    assert blocks.token_ids_BS[0, [13, 26]].tolist() == [EOS, EOS]
    assert blocks.row_BS[0].tolist() == [0] * 14 + [1] * 13


def test_first_token_of_a_block_never_counts() -> None:
    row = "<|start|>assistant<|message|>" + "x" * 25
    blocks = build_blocks(pack_of([row]), TOKENIZERS["specials"], eos_id=EOS, seq_len=4, num_blocks=None)
    flat = [False] * 11 + [True] * 25  # the EOS is cut off: 37 tokens make 9 blocks of 4
    assert (blocks.scored_BS & blocks.roles.content).tolist() == [
        [False, *flat[i + 1 : i + 4]] for i in range(0, 36, 4)
    ]


def test_too_few_blocks_says_how_many_there_are() -> None:
    row = "<|start|>assistant<|message|>" + "x" * 25
    short = "37 tokens, less than one block of 64: take a smaller seq_len, or more rows"
    for seq_len, num_blocks, said in (
        (4, 10, "9 blocks of 4 tokens, fewer than the 10 asked: take fewer or shorter blocks, or add rows"),
        (64, None, short),
        (64, 2, short),
    ):
        with pytest.raises(UserError) as caught:
            build_blocks(pack_of([row]), TOKENIZERS["specials"], eos_id=EOS, seq_len=seq_len, num_blocks=num_blocks)
        assert str(caught.value) == f"pack p has {said}"


def test_pack_without_assistant_messages() -> None:
    with pytest.raises(UserError, match=r"^pack p has no assistant message: rows must be Harmony conversations"):
        build_blocks(pack_of(["a"]), TOKENIZERS["specials"], eos_id=EOS, seq_len=64, num_blocks=None)
    with pytest.raises(UserError, match=r"^pack p has no assistant message: rows must be Harmony conversations"):
        build_blocks(pack_of(["abcdefghijk"]), TOKENIZERS["specials"], eos_id=EOS, seq_len=4, num_blocks=9)
    with pytest.raises(UserError) as caught:
        build_blocks(pack_of(["just some text"]), TOKENIZERS["specials"], eos_id=EOS, seq_len=4, num_blocks=2)
    assert str(caught.value) == (
        "pack p has no assistant message in its first 2 blocks of 4 tokens: "
        "rows must be Harmony conversations (<|start|>assistant...<|message|>...)"
    )


def test_assistant_content_only_at_block_starts_does_not_count() -> None:
    text = "<|start|>assistant<|message|>x"  # x is token 11
    with pytest.raises(UserError, match="no assistant message"):
        build_blocks(pack_of([text]), TOKENIZERS["specials"], eos_id=EOS, seq_len=11, num_blocks=1)


def test_seq_len_of_one_is_refused() -> None:
    with pytest.raises(UserError, match="seq_len is 1"):
        build_blocks(pack_of(["a"]), TOKENIZERS["specials"], eos_id=EOS, seq_len=1, num_blocks=1)


class CountingTokenizer:
    """Notes how many rows were tokenised."""

    def __init__(self) -> None:
        self.rows = 0

    def encode_batch(self, texts: list[str], *, add_special_tokens: bool) -> list[Encoding]:
        assert not add_special_tokens
        self.rows += len(texts)
        return TOKENIZERS["specials"].encode_batch(texts, add_special_tokens=False)


@pytest.mark.parametrize(("num_blocks", "tokenised"), [(3, 2), (4, 4)])
def test_rows_beyond_the_budget_are_not_tokenised(num_blocks: int, tokenised: int) -> None:
    tokenizer = CountingTokenizer()
    rows = ["<|start|>assistant<|message|>xyz"] * 10  # 15 tokens each
    with patch.object(blocks_module, "ROWS_PER_BATCH", 2):
        build_blocks(pack_of(rows), tokenizer, eos_id=EOS, seq_len=10, num_blocks=num_blocks)  # type: ignore[arg-type]
    assert tokenizer.rows == tokenised


def test_digest_tells_every_ingredient_apart() -> None:
    rows = ["<|start|>assistant<|message|>xyz", "<|start|>assistant<|message|>abc"]
    base = build_blocks(pack_of(rows), TOKENIZERS["specials"], eos_id=EOS, seq_len=6, num_blocks=4)
    assert base.digest == dataclasses.replace(base, pack="another name").digest

    def flipped(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed[-1, -1] = not changed[-1, -1]
        return changed

    def other_role(name: str) -> Blocks:
        return dataclasses.replace(
            base, roles=dataclasses.replace(base.roles, **{name: flipped(getattr(base.roles, name))})
        )

    def reshaped(array: np.ndarray) -> np.ndarray:
        return array.reshape(2, 12)

    variants = [
        base,
        dataclasses.replace(base, token_ids_BS=flipped(base.token_ids_BS)),
        dataclasses.replace(base, scored_BS=flipped(base.scored_BS)),
        *(other_role(field.name) for field in dataclasses.fields(Roles)),
        dataclasses.replace(base, row_BS=flipped(base.row_BS)),
        dataclasses.replace(base, continued_B=~base.continued_B),
        dataclasses.replace(base, identities=(base.identities[0], row_identity("other"))),
        dataclasses.replace(
            base,
            seq_len=12,
            token_ids_BS=reshaped(base.token_ids_BS),
            scored_BS=reshaped(base.scored_BS),
            roles=Roles(*map(reshaped, base.roles.columns)),
            row_BS=reshaped(base.row_BS),
            continued_B=base.continued_B[::2],
        ),
    ]
    assert all(a.digest != b.digest for a, b in itertools.combinations(variants, 2))


def test_only_chosen_tokens_are_scored_and_blocks_without_one_are_left_out() -> None:
    rows = ["<|start|>assistant<|message|>abcdefghi<|end|>"] * 3
    blocks = build_blocks(pack_of(rows), TOKENIZERS["specials"], eos_id=EOS, seq_len=6, num_blocks=None)
    block_T, position_T = np.nonzero(blocks.scored_BS)
    chosen_T = (block_T != 1) & (np.arange(len(block_T)) % 2 == 0)
    found = blocks.scoring(chosen_T)
    assert (found.pack, found.seq_len, found.identities) == (blocks.pack, blocks.seq_len, blocks.identities)
    left = sorted(set(block_T[chosen_T].tolist()))
    assert 1 not in left
    assert len(left) < blocks.num_blocks
    np.testing.assert_array_equal(found.token_ids_BS, blocks.token_ids_BS[left])
    expected = [(left.index(b), s) for b, s in zip(block_T[chosen_T], position_T[chosen_T], strict=True)]
    assert np.argwhere(found.scored_BS).tolist() == [list(at) for at in expected]
    assert blocks.num_scored == len(chosen_T)  # the original is as it was


def test_harmony_specials_are_single_tokens_of_the_test_tokenizer() -> None:
    """The counts above rest on it."""
    assert all(len(TOKENIZERS["specials"].encode(tag).ids) == 1 for tag in HARMONY_SPECIALS)


def test_blocks_reordered_and_scored_in_part_keep_what_is_theirs() -> None:
    told = "<|start|>user<|message|>{0}<|end|><|start|>assistant<|message|>{1}<|return|>"
    texts = [told.format("b" * number, "xyz" * (1 + number % 5)) for number in range(40)]
    blocks = build_blocks(pack_of(texts), TOKENIZERS["specials"], eos_id=EOS, seq_len=16, num_blocks=None)
    assert blocks.num_blocks > 4
    assert len(set(blocks.continued_B.tolist())) == 2
    order = np.arange(blocks.num_blocks)[::-2]
    picked = blocks.reordered(order)
    for of_picked, of_all in zip(
        (picked.token_ids_BS, picked.scored_BS, picked.row_BS, picked.continued_B, *picked.roles.columns),
        (blocks.token_ids_BS, blocks.scored_BS, blocks.row_BS, blocks.continued_B, *blocks.roles.columns),
        strict=True,
    ):
        np.testing.assert_array_equal(of_picked, [of_all[block] for block in order])
    everything = blocks.scoring_everything()
    np.testing.assert_array_equal(everything.scored_BS, np.arange(16) > np.zeros((blocks.num_blocks, 1)))
    np.testing.assert_array_equal(everything.prompts_BS, everything.scored_BS & ~blocks.scored_BS)
    assert everything.digest != blocks.digest  # nor is its collection the same
    assert not blocks.prompts_BS.any()
    content = blocks.scoring_content()
    scored_BS = blocks.scored_BS & blocks.roles.content
    assert 0 < scored_BS.sum() < blocks.scored_BS.sum()
    np.testing.assert_array_equal(content.scored_BS, scored_BS[scored_BS.any(axis=1)])
    np.testing.assert_array_equal(content.token_ids_BS, blocks.token_ids_BS[scored_BS.any(axis=1)])
