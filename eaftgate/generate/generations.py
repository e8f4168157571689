"""What one model wrote for the chosen turns of a pack, and the file that holds it.

A file says what it is of, holds what was asked and what it is compared with, and carries the sha256 of everything in
it: it is enough to judge by, without packs, tokenizer or model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from eaftgate.errors import UserError
from eaftgate.packs.harmony import tools_of
from eaftgate.packs.turns import ChosenTurns, Ending
from eaftgate.records import SEAL, first_problem, json_of, seal_holds, write_model
from eaftgate.strict_json import LARGEST_64, parse_object, read_limited

SCHEMA: Literal["generations-1"] = "generations-1"
ASKED_SHOWN = 300
"""Characters of the end of a prompt that a file keeps, for people."""


class Unusable(UserError):
    """A saved file that is damaged, or of something else than was asked; `reason` says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"saved generations {path} are damaged ({reason}): remove the file and run again")
        self.reason = reason


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
    told = sealed_object(path)
    told.pop(SEAL)
    for key, asked in (of or {}).items():
        if told.get(key) != json_of(asked):
            raise Unusable(path, f"it is of another {key.replace('_', ' ')}")
    try:
        found = TypeAdapter(Generations).validate_json(json.dumps(told), strict=True)
    except ValidationError as error:
        raise Unusable(path, first_problem(error)) from None
    if len(found.asked) != len(found.written):
        raise Unusable(path, f"it has {len(found.written)} of {len(found.asked)} turns")
    if any(not 0 <= turn.tools < len(found.tools) for turn in found.asked):
        raise Unusable(path, "a turn's functions are not there")
    if any(not 0 < len(turn.tokens) <= found.max_tokens for turn in found.written):
        raise Unusable(path, f"a turn has no token, or more than {found.max_tokens}")
    return found


def sealed_object(path: Path) -> dict[str, Any]:
    """What a sealed file says. Raises Unusable where its seal does not hold."""
    try:
        data = read_limited(path, what="saved generations")
        told = parse_object(data, what="its content", largest=LARGEST_64)
    except UserError as error:
        raise Unusable(path, str(error)) from None
    if SEAL not in told or not seal_holds(told):
        raise Unusable(path, "its checksum does not hold")
    return told


def seal_of(path: Path) -> str:
    """The checksum that a saved file carries. Raises Unusable where it does not hold."""
    seal: str = sealed_object(path)[SEAL]
    return seal
