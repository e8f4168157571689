"""The trace of a profile: what every routed token did, kept so that any keep set can be cut from it later.

A position is a token position whose routing matters: one that predicts a scored token, or is one. A selection is one
of the K experts a layer chose there. Arrays are .npy files, memory-mapped on reading, in shards of consecutive blocks.

Shapes: X positions, L layers, K selections (top_k), T scored tokens.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from eaftgate.errors import UserError
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


_TOKEN_COLUMNS = (
    "p_T", "entropy_T", "predicting_T", "own_T", "row_T", "pack_T", "token_T", "kind_T", "content_T"
)  # fmt: skip
_OF_CLASSES = ("token_T", "kind_T", "content_T")


def shard_name(first_block: int, end_block: int) -> str:
    return f"blocks-{first_block:08d}-{end_block:08d}"


def save_shard(directory: Path, name: str, shard: TraceShard) -> None:
    """Write one shard: a reader sees all of it or nothing."""
    temporary = directory / f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir(parents=True)
        for field in fields(TraceShard):
            np.save(temporary / f"{field.name}.npy", getattr(shard, field.name))
        temporary.rename(directory / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_shard(path: Path) -> TraceShard:
    of_classes = any((path / f"{name}.npy").exists() for name in _OF_CLASSES)
    there = [field.name for field in fields(TraceShard) if of_classes or field.name not in _OF_CLASSES]
    try:
        columns = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in there}
        if "kind_T" not in columns:
            tokens = len(columns["p_T"])
            columns["token_T"], columns["kind_T"] = np.full(tokens, -1, np.int32), np.zeros(tokens, np.uint8)
            columns["content_T"] = np.ones(tokens, bool)
        return TraceShard(**columns)
    except (OSError, ValueError, EOFError) as error:  # EOFError: an empty file
        raise UserError(f"trace shard {path} is damaged ({error}): profile again") from None


def shard_ranges(directory: Path) -> dict[str, range]:
    """Finished shards by name, with the blocks they hold, in block order."""
    names = sorted(path.name for path in directory.glob("blocks-*") if path.is_dir())
    return {name: range(*(int(number) for number in name.split("-")[1:])) for name in names}


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
    shards = tuple(load_shard(directory / name) for name in shard_ranges(directory))
    if not shards:
        raise UserError(f"{directory} holds no trace shards: profile again")
    return Trace(shards, dimensions.num_layers, dimensions.num_experts, dimensions.top_k)
