"""A finished profile as others read it: without torch, so that pruning starts at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eaftgate.errors import UserError
from eaftgate.files import read_json
from eaftgate.profile.trace import Trace, load_trace

PROFILE_FILE = "profile.json"
TRACE_DIR = "trace"
Alignment = Literal["predicting", "token"]
ALIGNMENTS: tuple[str, ...] = get_args(Alignment)

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Profile:
    """A finished profile: its description (profile.json) and its trace."""

    path: Path
    description: dict[str, Any]
    trace: Trace


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Base(_Strict):
    name: str
    digest: str


class _Dimensions(_Strict):
    num_layers: Count
    num_experts: Count
    top_k: Count


class _Description(_Strict):
    """What is read of profile.json; it may say more."""

    profile_schema: Literal["profile-1"] = Field(alias="schema")
    base: _Base
    dimensions: _Dimensions
    packs: dict[str, Count]
    packs_dir: str | None = None
    """As it was given; not in profiles of earlier versions."""
    packs_digest: str | None = None
    """Of all rows' identities, whatever their order; earlier versions did not write it."""
    num_rows: Count | None
    seq_len: Count
    seed: int
    alignment: Alignment
    batch_size: Count
    num_blocks: Count
    counted_tokens: Count
    blocks_digest: str
    model: dict[str, Any]
    rows: list[str]


def open_profile(path: Path) -> Profile:
    """Read a finished profile. Raises UserError when `path` is none, or is damaged."""
    if not (path / PROFILE_FILE).is_file():
        raise UserError(f"{path} is not a finished profile (no {PROFILE_FILE}): run eaftgate profile")
    description = read_json(path / PROFILE_FILE, what="profile")
    checked_description(description, path / PROFILE_FILE)
    trace = load_trace(path / TRACE_DIR, description["dimensions"])
    if trace.num_tokens != description["counted_tokens"]:
        raise UserError(
            f"{path} is incomplete: its trace holds {trace.num_tokens} of {description['counted_tokens']} tokens"
        )
    return Profile(path, description, trace)


def checked_description(value: Any, file: Path) -> dict[str, Any]:
    """What is read of a profile's description, and no more. Raises UserError that names `file` when it is not valid."""
    try:
        return _Description.model_validate(value).model_dump(by_alias=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        raise UserError(f"{file}: {where!r} is not valid ({first['msg']}); profile again") from None
