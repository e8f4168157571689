"""JSON files that this project reads and writes: one class says what is in a file, for both ways.

A class is a pydantic model or a frozen dataclass. Whatever is wrong with a file is a sentence that names the file and
the field, for the JSON itself as strict_json has it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from eaftgate.errors import UserError
from eaftgate.files import sha256_json, write_json
from eaftgate.strict_json import LARGEST_64, parse_object, read_limited, without_mark

Model = TypeVar("Model")
SEAL = "sha256"
"""The key of a sealed file under which it says the sha256 of everything else in it."""


class Record(BaseModel):
    """A file, or a part of one. What a later version may have added is not read."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)


def read_model(path: Path, model: type[Model], *, what: str, remedy: str) -> Model:
    """What is in `path`. `what` names the file in the sentence, `remedy` says what to do about it. Raises UserError."""
    data = without_mark(read_limited(path, what=what, remedy=remedy))
    parse_object(data, what=f"{what} {path}", remedy=remedy, largest=LARGEST_64)
    try:
        return TypeAdapter(model).validate_json(data, strict=True)
    except ValidationError as error:
        raise UserError(f"{what} {path}: {first_problem(error)}; {remedy}") from None


def write_model(path: Path, value: object, *, sealed: bool = False) -> None:
    """Raises ValueError for NaN and infinity, which a reader elsewhere would choke on."""
    write_json(path, json_of(value, sealed=sealed))


def json_of(value: object, *, sealed: bool = False) -> Any:
    """What a file says of it; a `sealed` one its own sha256, too."""
    told = TypeAdapter(type(value)).dump_python(value, mode="json", by_alias=True)
    return {**told, SEAL: _seal_of(told)} if sealed else told


def is_as_sealed(path: Path) -> bool:
    """Whether a file that `read_model` reads says the sha256 of what it says; one of an earlier version says none."""
    told = parse_object(without_mark(read_limited(path, what="file")), what=f"file {path}", largest=LARGEST_64)
    return seal_holds(told)


class Unusable(UserError):
    """A sealed file that is damaged, or of something else than was asked; `reason` says why."""

    def __init__(self, path: Path, reason: str, *, what: str) -> None:
        super().__init__(f"saved {what} {path} are damaged ({reason}): remove the file and run again")
        self.reason = reason


def sealed_object(path: Path, *, what: str) -> dict[str, Any]:
    """What a sealed file says, whose content `what` names in the plural. Raises Unusable where its seal does not hold,
    or there is none."""
    try:
        told = parse_object(read_limited(path, what=f"saved {what}"), what="its content", largest=LARGEST_64)
    except UserError as error:
        raise Unusable(path, str(error), what=what) from None
    if SEAL not in told or not seal_holds(told):
        raise Unusable(path, "its checksum does not hold", what=what)
    return told


def read_sealed(path: Path, model: type[Model], of: Mapping[str, Any], *, what: str) -> Model:
    """The same as a class. Raises Unusable, too, when it does not say of itself what `of` does."""
    told = sealed_object(path, what=what)
    told.pop(SEAL)
    for key, asked in of.items():
        if told.get(key) != json_of(asked):
            raise Unusable(path, f"it is of another {key.replace('_', ' ')}", what=what)
    try:
        return TypeAdapter(model).validate_json(json.dumps(told), strict=True)
    except ValidationError as error:
        raise Unusable(path, first_problem(error), what=what) from None


def seal_of(path: Path, *, what: str) -> str:
    """The checksum that a sealed file carries. Raises Unusable where it does not hold."""
    seal: str = sealed_object(path, what=what)[SEAL]
    return seal


def seal_holds(told: dict[str, Any]) -> bool:
    return told.get(SEAL) in (None, _seal_of(told))


def _seal_of(told: dict[str, Any]) -> str:
    return sha256_json({key: value for key, value in told.items() if key != SEAL})


def first_problem(error: ValidationError) -> str:
    """Which field is wrong first, and why, on one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:200] or "top level"
    return f"{where!r} is not valid ({' '.join(first['msg'].split())[:300]})"
