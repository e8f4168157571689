"""JSON files that this project reads and writes: one class says what is in a file, for both ways.

A class is a pydantic model or a frozen dataclass. Whatever is wrong with a file is a sentence that names the file and
the field, for the JSON itself as strict_json has it.
"""

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


def seal_holds(told: dict[str, Any]) -> bool:
    return told.get(SEAL) in (None, _seal_of(told))


def _seal_of(told: dict[str, Any]) -> str:
    return sha256_json({key: value for key, value in told.items() if key != SEAL})


def first_problem(error: ValidationError) -> str:
    """Which field is wrong first, and why, on one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:200] or "top level"
    return f"{where!r} is not valid ({' '.join(first['msg'].split())[:300]})"
