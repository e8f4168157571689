"""The assistant's turns in Harmony conversations: what a server would ask a model for, and where it would stop.

A turn begins where somebody else has spoken last, or nobody has, and the model is given everything before it, up to
`<|start|>assistant`: whole, and not cut into blocks. It ends with the first `<|call|>` or `<|return|>`, which servers
stop at, or with the `<|end|>` of a message on channel final: rows end earlier answers so, because more follows. The
`<|end|>` of any other message goes on within the turn: reasoning is followed by a call or an answer.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from eaftgate.errors import UserError
from eaftgate.files import sha256_json
from eaftgate.packs.harmony import START, MalformedRow, TokenClass, assistant_messages
from eaftgate.packs.pack import Pack, shuffle_key
from eaftgate.packs.tokenizer import PackTokenizer, tokenizer_failures

OPENING = f"{START}assistant"
"""What a prompt ends with, and the text of a turn is preceded by."""
END, _STOPPING = "<|end|>", ("<|call|>", "<|return|>")

IntArray = NDArray[np.int32]


@dataclass(frozen=True)
class Turn:
    """`prompt` ends with `<|start|>assistant`; `reference` is what the row goes on with, to the end of the turn. `row`
    is the sha256 of the row's text, `number` counts its turns from 0, `pack` and `domain` are the row's."""

    row: str
    number: int
    pack: str
    domain: str
    prompt: str
    reference: str


@dataclass(frozen=True)
class ChosenTurns:
    """Turns of a pack in the order they are asked for, and their prompts as tokens. `too_long` were passed over: with
    what may be written they exceed the model's context."""

    pack: str
    turns: tuple[Turn, ...]
    prompts: tuple[IntArray, ...]
    too_long: int

    def __len__(self) -> int:
        return len(self.turns)

    @property
    def digest(self) -> str:
        """sha256 of everything that is asked and compared with."""
        asked = [
            [t.row, t.number, t.pack, t.domain, _sha256(prompt), t.reference]
            for t, prompt in zip(self.turns, self.prompts, strict=True)
        ]
        return sha256_json({"schema": "turns-1", "pack": self.pack, "turns": asked})


def _sha256(prompt: IntArray) -> str:
    return hashlib.sha256(np.ascontiguousarray(prompt, dtype="<i4").data).hexdigest()


def spans_of_turns(text: str) -> list[tuple[int, int]]:
    """Where each turn of a row begins, behind `<|start|>assistant`, and ends. One that is cut off is none.

    Raises MalformedRow as assistant_messages does.
    """
    spans: list[tuple[int, int]] = []
    begin: int | None = None
    end: int | None = None
    """Of the assistant's message before."""
    for message in assistant_messages(text):
        if end is None or text.find(START, end) != text.rfind(START, 0, message.header[0]):  # somebody else spoke
            if begin is not None and end is not None:
                spans.append((begin, end))
            begin = message.header[0]
        if message.close is None:
            return spans
        end = message.close[1]
        if begin is not None and (text[slice(*message.close)] in _STOPPING or message.kind == TokenClass.FINAL):
            spans.append((begin, end))
            begin = None
    if begin is not None and end is not None and text.find(START, end) >= 0:
        spans.append((begin, end))
    return spans


def turns_in_order(pack: Pack, seed: int) -> Iterator[Turn]:
    """Every turn of a pack, once: one of every row, then another of those that have more, so that the first ones are of
    as many documents as can be. Rows are in the order of `seed`, as packs are shuffled, and so are a row's turns."""
    first = {identity: place for place, identity in reversed(list(enumerate(pack.identities)))}
    left = sorted(first, key=lambda identity: shuffle_key(seed, identity))
    spans: dict[str, list[tuple[int, tuple[int, int]]]] = {}
    for taken in range(max(map(len, pack.texts), default=0)):
        more = []
        for row in left:
            place = first[row]
            text = pack.texts[place]
            if row not in spans:
                numbered = enumerate(spans_of_turns(text))
                spans[row] = sorted(numbered, key=lambda turn, row=row: shuffle_key(seed, f"{row}:{turn[0]}"))  # type: ignore[misc]
            if taken < len(spans[row]):
                number, (begin, end) = spans[row][taken]
                more.append(row)
                yield Turn(row, number, pack.sources[place], pack.domains[place], text[:begin], text[begin:end])
        left = more
        if not left:
            return


def choose_turns(
    pack: Pack, tokenizer: PackTokenizer, *, count: int, seed: int, max_tokens: int, context: int | None
) -> ChosenTurns:
    """The first `count` turns of `turns_in_order` whose prompt and `max_tokens` more fit into `context`, or as many as
    there are. Raises UserError when there is none."""
    turns: list[Turn] = []
    prompts: list[IntArray] = []
    too_long = 0
    for turn in turns_in_order(pack, seed):
        if len(turns) == count:
            break
        with tokenizer_failures("tokenizer.json fails on the rows of a pack"):
            ids = tokenizer.backend.encode(turn.prompt, add_special_tokens=False).ids
        if context is not None and len(ids) + max_tokens > context:
            too_long += 1
            continue
        turns.append(turn)
        prompts.append(np.array(ids, np.int32))
    if not turns:
        said = f"pack {pack.name} has no assistant turn to write"
        if too_long:
            raise UserError(
                f"{said}: with {max_tokens} tokens each, all {too_long} exceed the model's context of {context}; give "
                "fewer --generate-tokens or leave the pack out of --packs"
            )
        raise UserError(f"{said}: no row has one; leave it out of --packs")
    return ChosenTurns(pack.name, tuple(turns), tuple(prompts), too_long)


class Ending:
    """Where a model that writes a turn stops. `ids` are the tokens that may end one: a server is told to stop at them,
    and asked to go on where `ends` says that the turn has not ended."""

    def __init__(self, tokenizer: PackTokenizer) -> None:
        backend = tokenizer.backend
        found: dict[str, Any] = {token: backend.token_to_id(token) for token in (END, *_STOPPING)}
        if missing := [token for token, number in found.items() if number is None]:
            raise UserError(f"the tokenizer has no token {missing[0]}: no turn that is written would end")
        self._end = found[END]
        self._backend: Tokenizer = backend
        self.ids: frozenset[int] = frozenset((*found.values(), tokenizer.eos_id))

    def ends(self, written: Sequence[int]) -> bool:
        """Whether the last token of what was written ends the turn."""
        if not written or written[-1] not in self.ids:
            return False
        return written[-1] != self._end or self._closes_final(written)

    def _closes_final(self, written: Sequence[int]) -> bool:
        *_, last = (OPENING + self.text(written)).split(START)
        try:
            return any(message.kind == TokenClass.FINAL for message in assistant_messages(START + last))
        except MalformedRow:
            return False

    def text(self, written: Sequence[int]) -> str:
        """Specials included."""
        text: str = self._backend.decode(list(written), skip_special_tokens=False)
        return text
