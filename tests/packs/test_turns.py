"""What a server would ask a model for: where turns begin and end, which are chosen, where writing stops."""

from pathlib import Path

import pytest
from tiny_checkpoint import build_tokenizer

from eaftgate.errors import UserError
from eaftgate.packs.harmony import tools_of
from eaftgate.packs.pack import Pack, row_identity
from eaftgate.packs.tokenizer import PackTokenizer
from eaftgate.packs.turns import OPENING, Ending, choose_turns, spans_of_turns, turns_in_order

USER = "<|start|>user<|message|>u<|end|>"
RESULT = "<|start|>functions.f to=assistant<|channel|>commentary<|message|>{}<|end|>"
THINK = "<|channel|>analysis<|message|>hm<|end|>"
CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":1}<|call|>'
EARLIER, LAST = "<|channel|>final<|message|>yes<|end|>", "<|channel|>final<|message|>yes<|return|>"
SAY = "<|start|>assistant"


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        (USER + SAY + LAST, [LAST]),
        (USER + SAY + THINK + SAY + LAST, [THINK + SAY + LAST]),
        (USER + SAY + THINK + SAY + CALL + RESULT + SAY + EARLIER + USER + SAY + LAST,
         [THINK + SAY + CALL, EARLIER, LAST]),
        (USER + SAY + CALL + SAY + CALL + RESULT, [CALL]),  # a server stops at the first
        (USER + SAY + THINK + USER + SAY + LAST, [THINK, LAST]),  # left for somebody else
        (USER + SAY + THINK + USER, [THINK]),
        (USER + SAY + THINK, []),  # the row ends before the turn does
        (USER + SAY + LAST.removesuffix("<|return|>"), []),
        (SAY + LAST, [LAST]),
        (USER, []),
        (USER + SAY + " to=functions.f<|channel|>commentary<|message|>{}<|call|>",
         [" to=functions.f<|channel|>commentary<|message|>{}<|call|>"]),
    ],
)  # fmt: skip
def test_a_turn_is_what_is_asked_for_at_once(row: str, turns: list[str]) -> None:
    spans = spans_of_turns(row)
    assert [row[begin:end] for begin, end in spans] == turns
    assert all(row[:begin].endswith(OPENING) for begin, _ in spans)


def pack_of(*texts: str) -> Pack:
    return Pack("p", texts, tuple(map(row_identity, texts)), ("p",) * len(texts), ("",) * len(texts))


def row(number: int, turns: int) -> str:
    return "".join(f"<|start|>user<|message|>{number} {turn}<|end|>{SAY}{EARLIER}" for turn in range(turns))


PACK = pack_of(*(row(number, 1 + number % 3) for number in range(12)), row(2, 3))


def test_every_row_gives_one_turn_before_any_gives_a_second() -> None:
    turns = list(turns_in_order(PACK, seed=1))
    assert (
        len({(turn.row, turn.number) for turn in turns}) == len(turns) == 4 * (1 + 2 + 3)
    )  # a row that is there twice
    assert len({turn.row for turn in turns[:12]}) == 12
    assert len({turn.row for turn in turns[12:20]}) == 8
    texts = dict(zip(PACK.identities, PACK.texts, strict=True))
    assert all(texts[turn.row].startswith(turn.prompt + turn.reference) for turn in turns)


def test_the_order_is_the_seeds_and_not_the_files() -> None:
    turns = list(turns_in_order(PACK, seed=1))
    backwards = pack_of(*reversed(PACK.texts))
    assert list(turns_in_order(backwards, seed=1)) == turns
    assert list(turns_in_order(PACK, seed=2)) != turns
    assert {turn.number for turn in turns[:12]} == {0, 1, 2}  # not the first of every row


TOKENIZER = PackTokenizer(build_tokenizer(), eos_id=257)


def test_fewer_are_the_first_of_more_and_what_is_too_long_is_passed_over() -> None:
    def chosen(count: int, context: int | None = None) -> list[tuple[str, int]]:
        found = choose_turns(PACK, TOKENIZER, count=count, seed=1, max_tokens=10, context=context)
        assert [len(ids) for ids in found.prompts] == [
            len(TOKENIZER.backend.encode(turn.prompt).ids) for turn in found.turns
        ]
        assert (found.too_long > 0) == (context is not None)
        return [(turn.row, turn.number) for turn in found.turns]

    assert chosen(5) == chosen(9)[:5]
    assert len(chosen(1000)) == 24
    longest = max(len(TOKENIZER.backend.encode(turn.prompt).ids) for turn in turns_in_order(PACK, seed=1))
    assert 0 < len(chosen(1000, context=longest + 9)) < 24
    with pytest.raises(UserError, match=r"with \d+ tokens each, all 24 exceed .* give fewer --generate-tokens"):
        chosen(3, context=10)
    with pytest.raises(UserError, match="no row has one"):
        choose_turns(pack_of(USER), TOKENIZER, count=3, seed=1, max_tokens=10, context=None)


def test_the_digest_is_of_all_that_is_asked_and_compared_with() -> None:
    def digest(pack: Pack, count: int = 4) -> str:
        return choose_turns(pack, TOKENIZER, count=count, seed=1, max_tokens=10, context=None).digest

    one = pack_of(USER + SAY + LAST)
    assert digest(one) == digest(pack_of(*one.texts))
    assert len({digest(one), digest(pack_of(USER + SAY + EARLIER + USER)), digest(PACK), digest(PACK, 5)}) == 4


@pytest.mark.parametrize(
    ("written", "ends"),
    [
        (LAST, True),
        (EARLIER, True),
        (CALL, True),
        (THINK, False),
        (THINK + SAY, False),
        (THINK + SAY + EARLIER, True),
        ("<|channel|>final<|message|>a<|end|><|start|>user<|message|>b<|end|>", False),  # never seen: it ended before
        ("<|message|><|message|><|end|>", False),
        ("<|end|>", False),
        ("<|channel|>final<|end|>", False),
        ("yes", False),
        ("<|endoftext|>", True),
    ],
)
def test_writing_stops_where_a_server_would(written: str, ends: bool) -> None:
    ending = Ending(TOKENIZER)
    ids = TOKENIZER.backend.encode(written).ids
    assert ending.ends(ids) is ends
    assert ending.text(ids) == written
    assert {TOKENIZER.backend.token_to_id(token) for token in ("<|end|>", "<|call|>", "<|return|>")} <= ending.ids


def test_the_fixtures_turns_end_where_their_references_do() -> None:
    from eaftgate.packs.pack import read_packs
    from eaftgate.packs.tokenizer import load_tokenizer

    fixtures = Path(__file__).parents[2] / "fixtures"
    tokenizer = load_tokenizer(fixtures / "checkpoint")
    ending = Ending(tokenizer)
    for pack in read_packs(fixtures / "packs" / "gate"):
        chosen = choose_turns(pack, tokenizer, count=20, seed=3407, max_tokens=256, context=None)
        for turn in chosen.turns:
            ids = tokenizer.backend.encode(turn.reference, add_special_tokens=False).ids
            assert [place for place in range(1, len(ids) + 1) if ending.ends(ids[:place])] == [len(ids)]


def test_what_is_said_of_tools() -> None:
    system = "<|start|>system<|message|>You are.\n\n# Tools\n\n## python\n\nrun it<|end|>"
    developer = (
        "<|start|>developer<|message|># Instructions\n\nNo # Tools here\n\n# Tools\n\ntype f = () => any;<|end|>"
    )
    asked = "<|start|>user<|message|># Tools\n\ntype evil = () => any;<|end|>"
    assert tools_of(system + developer + asked) == "# Tools\n\n## python\n\nrun it\n# Tools\n\ntype f = () => any;"
    assert tools_of(asked) == ""
