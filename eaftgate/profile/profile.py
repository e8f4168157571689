"""A finished profile as others read it: without torch, so that pruning starts at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field

from eaftgate.checkpoint.digest import ModelIdentity
from eaftgate.errors import UserError
from eaftgate.profile.sound import shard_problem
from eaftgate.profile.trace import Count, Trace, TraceDimensions, load_trace, shard_digests, shard_ranges
from eaftgate.records import Record, read_model

PROFILE_FILE = "profile.json"
TRACE_DIR = "trace"
Alignment = Literal["predicting", "token"]
ALIGNMENTS: tuple[str, ...] = get_args(Alignment)


class RanOn(Record):
    """What the model ran on, as its settings describe themselves: they say more, which is kept."""

    model_config = ConfigDict(extra="allow")

    device: str
    dtype: str


class Speed(Record):
    """Of one process, over all tokens, prompts too; `on` is ModelSettings.hardware. `streamed`: layer by layer, most of
    which may be reading weights."""

    tokens_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    on: str
    streamed: bool = False


class Thresholds(Record):
    """The pooled 0.15 and 0.85 quantiles of p and H, for reading; selection cuts its own from the trace."""

    p_lo: float
    h_lo: float
    h_hi: float


class ProfileDescription(Record):
    """profile.json. What is None by default is not in every version's files, nor in a scores snapshot.

    `packs` are the rows of every pack, `packs_dir` is as it was given, `packs_digest` of all rows' identities, whatever
    their order; `rows` are the identities of those that were profiled, in their order.
    """

    profile_schema: Literal["profile-1"] = Field(alias="schema")
    eaftgate: str | None = None
    base: ModelIdentity
    dimensions: TraceDimensions
    packs: dict[str, Count]
    packs_dir: str | None = None
    packs_digest: str | None = None
    num_rows: Count | None
    seq_len: Count
    seed: int
    alignment: Alignment
    batch_size: Count
    num_blocks: Count
    counted_tokens: Count
    """Of content."""
    scored_tokens: Count | None = None
    """With headers and closing tokens; a profile of before classes holds content alone."""
    blocks_digest: str
    model: RanOn
    rows: list[str]
    thresholds: Thresholds | None = None
    seconds: float | None = None
    speed: Speed | None = None
    trace: dict[str, str] | None = None
    """sha256 of every shard's arrays, by its name."""


@dataclass(frozen=True)
class Profile:
    """A finished profile: its description (profile.json) and its trace."""

    path: Path
    description: ProfileDescription
    trace: Trace


def open_profile(path: Path) -> Profile:
    """Read a finished profile. Raises UserError when `path` is none, or is damaged."""
    if not (path / PROFILE_FILE).is_file():
        raise UserError(f"{path} is not a finished profile (no {PROFILE_FILE}): run eaftgate profile")
    description = read_model(path / PROFILE_FILE, ProfileDescription, what="profile", remedy="profile again")
    if description.trace is not None:
        changed = sorted(name for name, _ in shard_digests(path / TRACE_DIR).items() ^ description.trace.items())
        if changed:
            said = f"{path} has changed since it was made: {changed[0]} is another or is not there"
            raise UserError(f"{said}; profile again")
    trace = load_trace(path / TRACE_DIR, description.dimensions)
    check_trace(path, trace, description)
    return Profile(path, description, trace)


def check_trace(path: Path, trace: Trace, description: ProfileDescription) -> None:
    """Raises UserError for a trace that is not one of the profile `path`, or of none."""
    tokens = description.scored_tokens or description.counted_tokens
    for name, shard in zip(shard_ranges(path / TRACE_DIR), trace.shards, strict=True):
        rows, packs = len(description.rows), len(description.packs)
        if problem := shard_problem(shard, description.dimensions, rows=rows, packs=packs):
            raise UserError(f"{path / TRACE_DIR / name}: {problem}; profile again")
    if trace.num_tokens != tokens:
        raise UserError(f"{path} is incomplete: its trace holds {trace.num_tokens} of {tokens} tokens")
