"""What one model wrote for the chosen turns of a pack, and the file that holds it.

A file says what it is of, holds what was asked and what it is compared with, and carries the sha256 of everything in
it: it is enough to judge by, without packs, tokenizer or model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eaftgate.packs.harmony import tools_of
from eaftgate.packs.turns import ChosenTurns, Ending
from eaftgate.records import Unusable, read_sealed, write_model

SCHEMA: Literal["generations-1"] = "generations-1"
WHAT = "generations"
"""What a damaged file is said to hold."""
ASKED_SHOWN = 300
"""Characters of the end of a prompt that a file keeps, for people."""


@dataclass(frozen=True)
class Asked:
    """A turn that was asked for. `row` is the sha256 of its row, `number` the turn's in it; `tools` is the place, in
    Generations, of the functions that its prompt offers; `shown` the end of the prompt, of `prompt_tokens`."""

    row: str
    number: int
    pack: str
    domain: str
    tools: int
    shown: str
    prompt_tokens: int
    reference: str


@dataclass(frozen=True)
class Written:
    """What a model went on with after `<|start|>assistant`; `ended`: by itself."""

    tokens: tuple[int, ...]
    text: str
    ended: bool


@dataclass(frozen=True)
class Generations:
    """`checkpoint` is the digest of the model, `turns` that of what it was asked (packs.turns), `settings` are the
    writer's; `replicate` names a repetition. `seconds` for the tokens that this process wrote itself."""

    schema: Literal["generations-1"]
    checkpoint: str
    turns: str
    settings: dict[str, Any]
    max_tokens: int
    replicate: str
    pack: str
    too_long: int
    tools: tuple[str, ...]
    asked: tuple[Asked, ...]
    written: tuple[Written, ...]
    seconds: float
    seconds_tokens: int

    def __len__(self) -> int:
        return len(self.written)


def asked_of(chosen: ChosenTurns) -> tuple[tuple[str, ...], tuple[Asked, ...]]:
    """The functions that are offered, each text once, and the turns."""
    found = [tools_of(turn.prompt) for turn in chosen.turns]
    tools = {text: place for place, text in enumerate(dict.fromkeys(found))}
    asked = tuple(
        Asked(t.row, t.number, t.pack, t.domain, tools[offered], t.prompt[-ASKED_SHOWN:], len(ids), t.reference)
        for t, ids, offered in zip(chosen.turns, chosen.prompts, found, strict=True)
    )
    return tuple(tools), asked


def written_as(tokens: list[int], ending: Ending) -> Written:
    return Written(tuple(tokens), ending.text(tokens), ending.ends(tokens))


def save_generations(path: Path, generations: Generations) -> None:
    write_model(path, generations, sealed=True)


def load_generations(path: Path, of: Mapping[str, Any] | None = None) -> Generations:
    """Raises Unusable when the file is damaged, or does not say of itself what `of` does."""
    found = read_sealed(path, Generations, of or {}, what=WHAT)
    if len(found.asked) != len(found.written):
        raise Unusable(path, f"it has {len(found.written)} of {len(found.asked)} turns", what=WHAT)
    if any(not 0 <= turn.tools < len(found.tools) for turn in found.asked):
        raise Unusable(path, "a turn's functions are not there", what=WHAT)
    if any(not 0 < len(turn.tokens) <= found.max_tokens for turn in found.written):
        raise Unusable(path, f"a turn has no token, or more than {found.max_tokens}", what=WHAT)
    return found
