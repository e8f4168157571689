"""Exact messages, counted message by message, token by token."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from simulated import paired

from eaftgate.packs.blocks import NO_MESSAGE, Roles
from eaftgate.packs.harmony import TokenClass
from eaftgate.parity.clusters import clusters_by, jackknifed
from eaftgate.parity.estimates import PairedCell, exact_loss
from eaftgate.parity.js2d import Bins
from eaftgate.parity.messages import NO_CHOICE, paired_messages
from eaftgate.parity.metrics import Thresholds
from eaftgate.parity.paired import PairedTokens

KINDS = (TokenClass.CALL, TokenClass.FINAL, TokenClass.ANALYSIS)
Message = tuple[TokenClass, list[tuple[bool, bool]], bool, bool]
"""Class of the content, (first choice of the base, of the candidate) of every token, scored whole, prompt cut off."""


def tokens_of(rows: list[list[Message]]) -> PairedTokens:
    """Every message is a header token, the content and a closing token, two messages a block."""
    kind, first, message, cut, row, block = [], [], [], [], [], []
    number = 0
    for place, messages in enumerate(rows):
        for content, choices, whole, prompt_cut in messages:
            size = len(choices)
            kind += [TokenClass.HEADER, *[content] * (size - 2), TokenClass.CLOSE]
            first += choices
            message += [number if whole else NO_MESSAGE] * size
            cut += [prompt_cut] * size
            row += [place] * size
            block += [number // 2] * size
            number += 1
    size = len(kind)
    nothing = np.zeros(size)
    kind_T = np.array(kind, np.uint8)
    roles = Roles(
        kind_T,
        (kind_T != TokenClass.HEADER) & (kind_T != TokenClass.CLOSE),
        np.zeros(size, bool),
        np.array(message, np.int32),
    )
    base_T, first_T = np.array(first, bool).reshape(-1, 2).T
    tokens = paired(nothing, nothing, nothing, nothing, np.array(row, np.int32), np.array(block, np.int32))
    choice_T = np.arange(size, dtype=np.int32) + 100
    return replace(
        tokens, roles=roles, first_base_T=base_T, first_T=first_T, choice_T=choice_T, cut_T=np.array(cut, bool)
    )


CHOICES = st.tuples(st.sampled_from([True, True, True, False]), st.sampled_from([True, True, True, False]))
MESSAGES = st.tuples(st.sampled_from(KINDS), st.lists(CHOICES, min_size=3, max_size=5), st.booleans(), st.booleans())


@given(st.lists(st.lists(MESSAGES, min_size=1, max_size=3), min_size=1, max_size=5), st.sampled_from(KINDS))
def test_a_message_is_exact_when_every_token_of_it_is_the_first_choice(
    rows: list[list[Message]], kind: TokenClass
) -> None:
    found = paired_messages(tokens_of(rows), kind)
    flat = [(place, message) for place, messages in enumerate(rows) for message in messages]
    expected = [
        (all(base for base, _ in choices), all(own for _, own in choices), cut, place, number // 2, number)
        for number, (place, (content, choices, whole, cut)) in enumerate(flat)
        if content == kind and whole
    ]
    starts = np.cumsum([0, *(len(choices) for _, (_, choices, _, _) in flat)]).tolist()
    right = [
        [own for _, own in choices].index(False) if not all(own for _, own in choices) else len(choices)
        for _, (content, choices, whole, _) in flat
        if content == kind and whole
    ]
    begins = [
        start for start, (_, (content, _, whole, _)) in zip(starts, flat, strict=False) if content == kind and whole
    ]
    assert found.right_M.tolist() == right
    exact_M = found.exact_M.tolist()
    assert found.choice_M.tolist() == [
        NO_CHOICE if exact else 100 + begin + at for exact, begin, at in zip(exact_M, begins, right, strict=True)
    ]
    columns = (found.exact_base_M, found.exact_M, found.cut_M, found.row_M, found.block_M, found.number_M)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected


def test_the_net_loss_is_that_of_counting_and_stands_on_documents() -> None:
    whole, wrong = (True, True), (True, False)
    lost = (TokenClass.CALL, [whole, wrong, whole], True, True)
    gained = (TokenClass.CALL, [whole, (False, True), whole], True, False)
    kept = (TokenClass.CALL, [whole] * 3, True, False)
    other = (TokenClass.FINAL, [whole, wrong, whole], True, False)
    cut_off = (TokenClass.CALL, [whole, wrong, whole], False, False)
    tokens = tokens_of([[lost, kept], [kept, other, kept], [gained, lost, cut_off], [kept]])
    cell = PairedCell(tokens, tokens, Thresholds(0.5, 0.5), Bins(4, 3), 60)
    measured = exact_loss(TokenClass.CALL)(cell)
    assert measured is not None
    assert (measured.base_events, measured.lost, measured.gained) == (6, 2, 1)
    assert measured.estimate.value == (2 - 1) / 6
    assert measured.evidence.documents == 4
    assert measured.details == {
        "messages": 7, "close": 0, "prompt_cut": 2, "prompt_cut_exact": 2, "prompt_cut_lost": 2, "prompt_cut_gained": 0
    }  # fmt: skip
    messages = paired_messages(tokens, TokenClass.CALL)
    by_document = jackknifed(
        messages.lost_M.astype(float) - messages.gained_M,
        [clusters_by(messages.row_M)],
        denominator_T=messages.exact_base_M,
        rare=True,
    )
    assert measured.estimate.standard_error >= by_document.standard_error > 0


def test_what_a_cell_has_none_of_is_not_measured() -> None:
    tokens = tokens_of([[(TokenClass.FINAL, [(True, True)] * 3, True, False)]])
    assert exact_loss(TokenClass.CALL)(PairedCell(tokens, tokens, Thresholds(0.5, 0.5), Bins(4, 3), 60)) is None
