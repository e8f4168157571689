"""What a run says of messages: how many a candidate loses and gains, by class, pack and domain, and the first it loses.

Texts and names are as they are in the packs: whoever shows them escapes them (eaftgate.visible).
"""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from tokenizers import Tokenizer

from eaftgate.packs.blocks import Blocks
from eaftgate.packs.harmony import TokenClass
from eaftgate.packs.pack import Pack
from eaftgate.parity.messages import paired_messages
from eaftgate.parity.paired import PairedTokens
from eaftgate.records import Record

JUDGED = (TokenClass.CALL, TokenClass.FINAL)
"""Classes of messages of which losses are listed: the others are long, and no model writes many of them exactly."""
_COUNTED = (TokenClass.ANALYSIS, TokenClass.COMMENTARY, *JUDGED, TokenClass.OTHER)

MOST_SHOWN = 20
"""Lost messages of a candidate in parity.json."""
MOST_OF_A_CELL = 2 * MOST_SHOWN
"""Enough for them: fewer than MOST_SHOWN of a cell's first are in the cells before it."""
MOST_DOMAINS = 200
"""With more in a cell, `domain` is no class of rows but a name for each, and is left out."""
_HEAD, _TAIL = 240, 120
_BEFORE = 60


class MessageCounts(Record):
    """Messages that were scored whole, of one class, pack file and domain ("": it has none). `exact`: under the base.

    `prompt_cut`: their block lacks a part of their prompt. `close`: somewhere in them the first two choices of a model
    lie so near each other that rounding may decide; `close_lost` and `close_gained` are among `lost` and `gained`.
    """

    kind: str
    pack: str
    domain: str
    prompt_cut: bool
    messages: int
    exact: int
    lost: int
    gained: int
    close: int
    close_lost: int
    close_gained: int


class LostMessage(Record):
    """A message that the base writes exactly as it stands, and the candidate does not.

    `row` is the sha256 of its row, `offset` the token of the row that it begins at. Of its `tokens`, header to closing
    token, the candidate writes `right` ones, the last of which are `before`; then `written`, and not `expected`.
    """

    kind: str
    pack: str
    domain: str
    row: str
    offset: int
    seq_len: int
    block: int
    prompt_cut: bool
    close: bool
    tokens: int
    right: int
    reference: str
    before: str
    expected: str
    written: str


def message_counts(tokens: PairedTokens, pack: Pack) -> tuple[MessageCounts, ...]:
    """Those of a cell, by class, pack, domain and prompt. `pack` has the rows that the tokens are of."""
    rows = np.unique(tokens.row_T).tolist()
    named = len({pack.domains[row] for row in rows}) <= MOST_DOMAINS
    found = []
    for kind in _COUNTED:
        messages = paired_messages(tokens, kind)
        columns = {
            "messages": np.ones(len(messages), bool),
            "exact": messages.exact_base_M,
            "lost": messages.lost_M,
            "gained": messages.gained_M,
            "close": messages.close_M,
            "close_lost": messages.close_M & messages.lost_M,
            "close_gained": messages.close_M & messages.gained_M,
        }
        keys = [
            (pack.sources[row], pack.domains[row] if named else "", cut)
            for row, cut in zip(messages.row_M.tolist(), messages.cut_M.tolist(), strict=True)
        ]
        groups = sorted(set(keys))
        place_of = {key: place for place, key in enumerate(groups)}
        group_M = np.array([place_of[key] for key in keys], np.intp)
        counts = {name: np.bincount(group_M, weights=flag_M, minlength=len(groups)) for name, flag_M in columns.items()}
        found += [
            MessageCounts(
                kind=kind.name.lower(),
                pack=source,
                domain=domain,
                prompt_cut=cut,
                **{name: int(count[place]) for name, count in counts.items()},
            )
            for place, (source, domain, cut) in enumerate(groups)
        ]
    return tuple(found)


def lost_messages(
    tokens: PairedTokens, blocks: Blocks, pack: Pack, tokenizer: Tokenizer, *, most: int = MOST_OF_A_CELL
) -> tuple[LostMessage, ...]:
    """The first calls and final answers that a candidate loses in a cell, in the order of its blocks."""
    found = [(kind, paired_messages(tokens, kind)) for kind in JUDGED]
    lost = [
        (int(messages.number_M[place]), place, kind, messages)
        for kind, messages in found
        for place in np.flatnonzero(messages.lost_M).tolist()
    ]
    lost.sort(key=lambda message: message[0])
    row_N = blocks.row_BS.ravel()
    shown = []
    for number, place, kind, messages in lost[:most]:
        row, block, right = (int(column[place]) for column in (messages.row_M, messages.block_M, messages.right_M))
        at_S = np.flatnonzero(blocks.roles.message[block] == number)
        ids = blocks.token_ids_BS[block][at_S].tolist()
        shown.append(
            LostMessage(
                kind=kind.name.lower(),
                pack=pack.sources[row],
                domain=pack.domains[row],
                row=pack.identities[row],
                offset=block * blocks.seq_len + int(at_S[0]) - int(np.searchsorted(row_N, row)),
                seq_len=blocks.seq_len,
                block=block,
                prompt_cut=bool(messages.cut_M[place]),
                close=bool(messages.close_M[place]),
                tokens=len(ids),
                right=right,
                reference=shortened(_text(tokenizer, ids)),
                before=_text(tokenizer, ids[:right])[-_BEFORE:],
                expected=_text(tokenizer, ids[right : right + 1]),
                written=_text(tokenizer, [int(messages.choice_M[place])]),
            )
        )
    return tuple(shown)


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Specials included. An id without a text, as of a padded vocabulary, is named by its number."""
    text: str = tokenizer.decode(ids, skip_special_tokens=False)
    return text if text or not ids else f"token {ids[0]}"


def shortened(text: str) -> str:
    """A long text without its middle."""
    left_out = len(text) - _HEAD - _TAIL
    return text if left_out <= 0 else f"{text[:_HEAD]} [... {left_out} characters ...] {text[-_TAIL:]}"


def first_lost(cells: Iterable[Sequence[LostMessage]]) -> tuple[LostMessage, ...]:
    """The first of a candidate, in the order of its cells, each message once."""
    first: dict[tuple[str, int], LostMessage] = {}
    for message in chain.from_iterable(cells):
        first.setdefault((message.row, message.offset), message)
    return tuple(first.values())[:MOST_SHOWN]
