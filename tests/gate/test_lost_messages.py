"""Messages lost, told apart and told: on real blocks, with a base that writes everything right."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from gate_command import BASE
from numpy.typing import NDArray

from eaftgate.collect.collection import TokenStats, make_collection
from eaftgate.gate import messages as module
from eaftgate.gate.messages import LostMessage, first_lost, lost_messages, message_counts, shortened
from eaftgate.packs.blocks import NO_MESSAGE, Blocks, build_blocks
from eaftgate.packs.harmony import TokenClass
from eaftgate.packs.pack import Pack, row_identity
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.paired import PairedTokens, pair

TOKENIZER = load_tokenizer(BASE)
EVIL = "[red]<script>\x1b[31m\u202e\\\n`"


def conversation(number: int) -> str:
    call = f'<|start|>assistant<|channel|>commentary to=functions.f{number}<|message|>{{"a": "{EVIL}"}}<|call|>'
    final = f"<|start|>assistant<|channel|>final<|message|>The answer is {number}.<|return|>"
    return f"<|start|>user<|message|>Do it {number} times.<|end|>{call}{final}"


def pack_of(rows: int) -> Pack:
    texts = tuple(conversation(number) for number in range(rows))
    sources = tuple(("a", "b")[row % 2] for row in range(rows))
    domains = tuple(("x", "y", "")[row % 3] for row in range(rows))
    return Pack("UNION", texts, tuple(map(row_identity, texts)), sources, domains)


def blocks_of(pack: Pack, seq_len: int) -> Blocks:
    return build_blocks(pack, TOKENIZER.backend, eos_id=TOKENIZER.eos_id, seq_len=seq_len, num_blocks=None)


def paired(blocks: Blocks, wrong_T: NDArray[np.bool_], choice: int = 65) -> PairedTokens:
    """The base's first choice is the reference; the candidate's is `choice` where it is wrong."""
    reference_T = blocks.token_ids_BS[blocks.scored_BS]

    def stats(wrong_T: NDArray[np.bool_]) -> TokenStats:
        top_logprobs_TK = np.tile(np.linspace(-0.1, -9, 20, dtype=np.float32), (len(reference_T), 1))
        top_ids_TK = np.tile(np.arange(20, dtype=np.int32), (len(reference_T), 1))
        top_ids_TK[:, 0] = np.where(wrong_T, choice, reference_T)
        logprob_T = np.where(wrong_T, np.float32(-1), np.float32(-0.1))
        return TokenStats(logprob_T, np.zeros(len(reference_T), np.float32), top_ids_TK, top_logprobs_TK)

    return pair(*(make_collection(stats(wrong), blocks, {}) for wrong in (np.zeros(len(reference_T), bool), wrong_T)))


def wrong_where(blocks: Blocks, chosen: Callable[[str, int], bool]) -> NDArray[np.bool_]:
    """The scored tokens whose text, and the row they are of, are chosen."""
    ids, rows = blocks.token_ids_BS[blocks.scored_BS].tolist(), blocks.row_BS[blocks.scored_BS].tolist()
    return np.array([chosen(TOKENIZER.backend.decode([i]), row) for i, row in zip(ids, rows, strict=True)])


def test_counts_are_those_of_going_through_the_messages_one_by_one() -> None:
    pack = pack_of(30)
    blocks = blocks_of(pack, 100)
    tokens = paired(blocks, wrong_where(blocks, lambda text, row: row % 4 == 0 and "f" in text))
    tokens = replace(tokens, close_T=tokens.row_T % 5 == 0)
    expected: dict[tuple[str, str, str, bool], list[int]] = {}
    for number in np.unique(tokens.roles.message[tokens.roles.message != NO_MESSAGE]).tolist():
        own = tokens.select(tokens.roles.message == number)
        kind = next(
            TokenClass(k).name.lower() for k in own.roles.kind.tolist() if k in (TokenClass.CALL, TokenClass.FINAL)
        )
        row, lost = int(own.row_T[0]), not own.first_T.all()
        key = (kind, pack.sources[row], pack.domains[row], bool(own.cut_T[0]))
        close = bool(own.close_T.any())
        for place, is_so in enumerate((True, True, lost, False, close, close and lost, False)):
            expected.setdefault(key, [0] * 7)[place] += is_so
    found = message_counts(tokens, pack)
    keys = ("messages", "exact", "lost", "gained", "close", "close_lost", "close_gained")
    assert {
        (count.kind, count.pack, count.domain, count.prompt_cut): [getattr(count, key) for key in keys]
        for count in found
    } == expected
    assert len(expected) > 8
    assert {count.prompt_cut for count in found} == {True, False}
    assert sum(count.close_lost for count in found) > 0
    gained = replace(tokens, first_T=tokens.first_base_T, first_base_T=tokens.first_T)
    assert [(c.gained, c.close_gained, c.lost) for c in message_counts(gained, pack)] == [
        (c.lost, c.close_lost, 0) for c in found
    ]


def test_a_domain_for_every_row_is_no_breakdown(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = pack_of(9)
    blocks = blocks_of(pack, 100)
    tokens = paired(blocks, np.zeros(blocks.num_scored, bool))
    whole = sum(count.messages for count in message_counts(tokens, pack))
    monkeypatch.setattr(module, "MOST_DOMAINS", 2)
    found = message_counts(tokens, pack)
    assert {count.domain for count in found} == {""}
    assert sum(count.messages for count in found) == whole > 0


def test_a_lost_message_says_what_it_is_and_what_would_have_been_written() -> None:
    pack = pack_of(6)
    blocks = blocks_of(pack, 120)
    letter = TOKENIZER.backend.encode("Z", add_special_tokens=False).ids[0]
    final_only = paired(blocks, wrong_where(blocks, lambda text, row: row == 3 and "answer" in text), letter)
    (lost,) = lost_messages(final_only, blocks, pack, TOKENIZER.backend)
    reference = "<|channel|>final<|message|>The answer is 3.<|return|>"
    assert (lost.kind, lost.pack, lost.domain, lost.row) == ("final", "b", "x", pack.identities[3])
    assert lost.reference == reference
    assert lost.before + lost.expected == reference[: len(lost.before + lost.expected)]
    assert "answer" in lost.expected
    assert lost.written == "Z"
    ids = TOKENIZER.backend.encode(pack.texts[3], add_special_tokens=False).ids
    assert (
        TOKENIZER.backend.decode(ids[lost.offset : lost.offset + lost.tokens], skip_special_tokens=False) == reference
    )
    assert TOKENIZER.backend.decode(ids[lost.offset + lost.right : lost.offset + lost.right + 1]) == lost.expected
    tokens = paired(blocks, wrong_where(blocks, lambda text, row: row == 2 and "{" in text), letter)
    (call,) = lost_messages(tokens, blocks, pack, TOKENIZER.backend)
    assert (call.kind, call.row) == ("call", pack.identities[2])
    assert EVIL in call.reference  # as it is: whoever shows it escapes it


def test_the_first_are_in_the_order_of_the_blocks_and_each_is_there_once_whatever_the_length_of_blocks() -> None:
    pack = pack_of(40)
    cells = []
    for seq_len in (90, 300):
        blocks = blocks_of(pack, seq_len)
        tokens = paired(blocks, wrong_where(blocks, lambda *_: True))
        all_of_them = lost_messages(tokens, blocks, pack, TOKENIZER.backend, most=1000)
        assert len(all_of_them) > 25
        rows = [pack.identities.index(message.row) for message in all_of_them]
        assert rows == sorted(rows)
        assert lost_messages(tokens, blocks, pack, TOKENIZER.backend) == all_of_them[:40]
        cells.append(all_of_them)
    short, long = cells
    shown = first_lost([short[:3], long[:40]])
    assert len(shown) == 20
    assert shown[:3] == short[:3]
    names = [(message.row, message.offset) for message in shown]
    assert len(set(names)) == 20
    assert any(message.seq_len == 300 for message in shown)
    both = {(m.row, m.offset) for m in short} & {(m.row, m.offset) for m in long}
    assert len(both) > 25  # which block a message is in does not name it


def test_a_token_without_a_text_is_named_by_its_number() -> None:
    pack = pack_of(9)
    blocks = blocks_of(pack, 200)
    tokens = paired(blocks, wrong_where(blocks, lambda *_: True), choice=900_000)
    first: LostMessage = lost_messages(tokens, blocks, pack, TOKENIZER.backend)[0]
    assert (first.written, first.right, first.before) == ("token 900000", 0, "")


def test_a_long_text_lacks_its_middle() -> None:
    assert shortened("a" * 360) == "a" * 360
    assert shortened("a" * 240 + "b" * 11 + "c" * 120) == "a" * 240 + " [... 11 characters ...] " + "c" * 120
