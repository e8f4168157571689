"""What an output says it was made from: by content, in made_from.json, with every file that was made.

A directory of ours is up to date when it was made from what is asked for now, by this version, and is what was made.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from eaftgate import __version__
from eaftgate.errors import UserError
from eaftgate.files import sha256_file, write_json
from eaftgate.records import Record, json_of, read_model, write_model

MADE_FROM_FILE = "made_from.json"
HASHED_BYTES = 1 << 24
"""Files up to this size are hashed when an output is asked whether it still is what was made. Of others the size has to
do: `eaftgate verify` reads them."""
_SHOWN = 3


class MadeFile(Record):
    """`sha256` is None for one that is too large to be hashed in passing."""

    size: int
    sha256: str | None = None


class MadeFrom(Record):
    """made_from.json: what an output was made from, by content, and every file that was made, by its path in it."""

    made_schema: Literal["made-from-1"] = Field(alias="schema", default="made-from-1")
    eaftgate: str
    inputs: dict[str, Any]
    files: dict[str, MadeFile]


def write_made_from(record: Path, made_from: Mapping[str, Any], file: Path, name: str, **more: Any) -> None:
    """Say in `record` what the `file`, to be named `name`, was made from, and `more` (JSON) beside it."""
    made = MadeFile(size=file.stat().st_size, sha256=sha256_file(file))
    told = MadeFrom(eaftgate=__version__, inputs=dict(made_from), files={name: made})
    write_json(record, {**json_of(told), **more})


def record_files(payload: Path, made_from: Mapping[str, Any]) -> None:
    """Say in the directory `payload` what it was made from, and what all of its files are."""
    files = {}
    for path in sorted(payload.rglob("*")):
        if path.is_file():
            size = path.stat().st_size
            files[path.relative_to(payload).as_posix()] = MadeFile(
                size=size, sha256=sha256_file(path) if size <= HASHED_BYTES else None
            )
    write_model(payload / MADE_FROM_FILE, MadeFrom(eaftgate=__version__, inputs=dict(made_from), files=files))


def check_made(out: Path, record: Path, root: Path, made_from: Mapping[str, Any], option: str) -> None:
    """Raises UserError when `out` was made from other inputs than these, as `record` says, or changed since."""
    there = read_model(record, MadeFrom, what="what it was made from", remedy=f"remove {out}")
    asked = _made_from(made_from)
    if differs := _differences(_flat(_made_from(there.inputs, there.eaftgate)), _flat(asked)):
        raise UserError(
            f"{out} already exists and was made from other inputs ({differs}): choose another {option} or remove it"
        )
    if (changed := _changed(root, there.files)) is not None:
        raise UserError(
            f"{out} already exists and was made from the same inputs, but {changed} since: remove it and run again"
        )


def _made_from(inputs: Mapping[str, Any], version: str = __version__) -> dict[str, Any]:
    return {**json.loads(json.dumps(inputs)), "eaftgate": version}


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf by its path, `search.seed`."""
    if not isinstance(value, dict):
        return {name: value}
    return {
        path: leaf
        for key, part in value.items()
        for path, leaf in _flat(part, f"{name}.{key}" if name else key).items()
    }


def _differences(there: dict[str, Any], asked: dict[str, Any]) -> str:
    """What differs, in words; empty when nothing does."""
    names = [name for name in {**there, **asked} if there.get(name) != asked.get(name)]
    said = [_difference(name, there.get(name), asked.get(name)) for name in names[:_SHOWN]]
    return ", ".join(said + ([f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []))


def _difference(name: str, there: Any, asked: Any) -> str:
    if all(
        value is None or (isinstance(value, int | float | str) and len(str(value)) < 32) for value in (there, asked)
    ):
        return f"{name} is {_word(there)} there and {_word(asked)} here"
    return f"another {name}"


def _word(value: Any) -> str:
    return "not given" if value is None else str(value)


def _changed(out: Path, files: Mapping[str, MadeFile]) -> str | None:
    """Which of `files` is not in `out` as it was made."""
    for name, made in files.items():
        path = out / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != made.size or (made.sha256 is not None and sha256_file(path) != made.sha256):
            return f"{name} has changed"
    return None
