"""The trace of a profile: what every routed token did, kept so that any keep set can be cut from it later.

A position is a token position whose routing matters: one that predicts a scored token, or is one. A selection is one
of the K experts a layer chose there. Arrays are .npy files, memory-mapped on reading, in shards of consecutive blocks.

Shapes: X positions, L layers, K selections (top_k), T scored tokens.
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from eaftgate.arrays import DamagedArray, open_array
from eaftgate.errors import UserError
from eaftgate.files import sha256_file, sha256_json
from eaftgate.records import Record

NORM_SCALE = 16.0
"""Norms are stored as float16 of norm / 16: 1e-3 to 1e6 at 11 bits, where plain float16 ends at 65,504."""


@dataclass(frozen=True)
class TraceShard:
    """Routing at positions and the tokens they belong to.

    `gate_XLK`: softmax over the selected router logits. `norm_XLK`: L2 norm of the expert's output (bias included,
    before the gate) over NORM_SCALE. `predicting_T`, `own_T`: the position that predicts a token, and the token's own;
    they index the shard's positions. `row_T` and `pack_T` index the rows and packs that profile.json names. `token_T`
    is the token itself, `kind_T` its class (eaftgate.packs.harmony.TokenClass), `content_T` whether it counts in
    perplexity; a profile of before classes holds content alone, and does not say which.
    """

    expert_XLK: NDArray[np.uint8]
    gate_XLK: NDArray[np.float16]
    norm_XLK: NDArray[np.float16]
    p_T: NDArray[np.float32]
    entropy_T: NDArray[np.float32]
    predicting_T: NDArray[np.int32]
    own_T: NDArray[np.int32]
    row_T: NDArray[np.int32]
    pack_T: NDArray[np.uint8]
    token_T: NDArray[np.int32]
    kind_T: NDArray[np.uint8]
    content_T: NDArray[np.bool_]


FORMS: Mapping[str, str] = {
    "expert_XLK": "u1", "gate_XLK": "f2", "norm_XLK": "f2", "p_T": "f4", "entropy_T": "f4", "predicting_T": "i4",
    "own_T": "i4", "row_T": "i4", "pack_T": "u1", "token_T": "i4", "kind_T": "u1", "content_T": "?",
}  # fmt: skip
"""The type of every array, whose name says its shape."""
_TOKEN_COLUMNS = tuple(name for name in FORMS if name.endswith("_T"))
_MAX_THREADS = 4
_OF_CLASSES = ("token_T", "kind_T", "content_T")

DIGEST_FILE = "sha256"
"""Of a shard, beside its arrays: what `shard_digest` said of them when they were written."""
_SHARD_NAME = re.compile(r"blocks-(\d{8,18})-(\d{8,18})")


def shard_name(first_block: int, end_block: int) -> str:
    return f"blocks-{first_block:08d}-{end_block:08d}"


def save_shard(directory: Path, name: str, shard: TraceShard) -> None:
    """Write one shard: a reader sees all of it or nothing."""
    temporary = directory / f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir(parents=True)
        for field in fields(TraceShard):
            np.save(temporary / f"{field.name}.npy", getattr(shard, field.name))
        (temporary / DIGEST_FILE).write_text(shard_digest(temporary), encoding="ascii")
        temporary.rename(directory / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_shard(path: Path) -> TraceShard:
    try:
        columns = {name: open_array(path / f"{name}.npy") for name in _arrays_of(path)}
        if "kind_T" not in columns:
            tokens = len(columns["p_T"])
            columns["token_T"], columns["kind_T"] = np.full(tokens, -1, np.int32), np.zeros(tokens, np.uint8)
            columns["content_T"] = np.ones(tokens, bool)
        return TraceShard(**columns)
    except (OSError, DamagedArray) as error:
        raise UserError(f"trace shard {path} is damaged ({error}): profile again") from None


def shard_digest(path: Path) -> str:
    """sha256 over the files of a shard's arrays. Raises UserError when one cannot be read."""
    try:
        files = {name: path / f"{name}.npy" for name in _arrays_of(path)}
        if missing := [file.name for file in files.values() if not file.is_file()]:
            raise FileNotFoundError(f"it lacks {missing[0]}")
        return sha256_json({name: sha256_file(file) for name, file in files.items()})
    except OSError as error:
        raise UserError(f"trace shard {path} is damaged ({error}): profile again") from None


def _arrays_of(path: Path) -> list[str]:
    of_classes = any((path / f"{name}.npy").exists() for name in _OF_CLASSES)
    return [name for name in FORMS if of_classes or name not in _OF_CLASSES]


def shard_digests(directory: Path) -> dict[str, str]:
    """Of every shard, by name. Raises UserError when one cannot be read."""
    names = list(shard_ranges(directory))
    with ThreadPoolExecutor(_MAX_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: shard_digest(directory / name), names), strict=True))


def damaged_shards(directory: Path) -> list[str]:
    """The shards that are no longer as they were written."""
    return [name for name in shard_ranges(directory) if not _is_as_written(directory / name)]


def _is_as_written(path: Path) -> bool:
    try:
        return (path / DIGEST_FILE).read_text(encoding="ascii") == shard_digest(path)
    except (OSError, ValueError, UserError):
        return False


def shard_ranges(directory: Path) -> dict[str, range]:
    """Finished shards by name, with the blocks they hold, in block order."""
    found = [(match, path) for path in directory.glob("blocks-*") if (match := _SHARD_NAME.fullmatch(path.name))]
    ranges = {path.name: range(int(match[1]), int(match[2])) for match, path in found if path.is_dir()}
    return dict(sorted(ranges.items(), key=lambda item: (item[1].start, item[1].stop)))


@dataclass(frozen=True)
class Trace:
    """All shards of a profile, and the numbers of layers and experts they speak of."""

    shards: tuple[TraceShard, ...]
    num_layers: int
    num_experts: int
    top_k: int

    def column(self, name: str) -> NDArray[Any]:
        """A per-token column over all shards."""
        return np.concatenate([getattr(shard, name) for shard in self.shards])

    @property
    def knows_classes(self) -> bool:
        """Not of a profile of before classes."""
        return bool(self.column("kind_T").any())

    @property
    def num_tokens(self) -> int:
        return sum(len(shard.p_T) for shard in self.shards)

    def select(self, chosen_T: NDArray[np.bool_]) -> "Trace":
        """The trace of the chosen tokens; positions stay where they are, used or not."""
        ends = np.cumsum([len(shard.p_T) for shard in self.shards])[:-1]
        return replace(
            self,
            shards=tuple(
                replace(shard, **{name: getattr(shard, name)[chosen] for name in _TOKEN_COLUMNS})
                for shard, chosen in zip(self.shards, np.split(chosen_T, ends), strict=True)
            ),
        )

    def selections(
        self, alignment: str
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]]:
        """Per shard, (expert, gate, norm) of every scored token, each [T, L, K], at the `alignment`'s positions."""
        for shard in self.shards:
            at_T = {"predicting": shard.predicting_T, "token": shard.own_T}[alignment]
            norm_TLK = shard.norm_XLK[at_T].astype(np.float32) * np.float32(NORM_SCALE)
            yield shard.expert_XLK[at_T], shard.gate_XLK[at_T].astype(np.float32), norm_TLK


Count = Annotated[int, Field(ge=0)]


class TraceDimensions(Record):
    """What a trace does not say of itself."""

    num_layers: Count
    num_experts: Count
    top_k: Count


def load_trace(directory: Path, dimensions: TraceDimensions) -> Trace:
    """Raises UserError for a shard that cannot be read, and when they do not follow each other from block 0."""
    ranges, end = shard_ranges(directory), 0
    for name, held in ranges.items():
        if held.start != end or not held:
            raise UserError(f"{directory} is incomplete: {name} does not follow on block {end}; profile again")
        end = held.stop
    shards = tuple(load_shard(directory / name) for name in ranges)
    if not shards:
        raise UserError(f"{directory} holds no trace shards: profile again")
    return Trace(shards, dimensions.num_layers, dimensions.num_experts, dimensions.top_k)
