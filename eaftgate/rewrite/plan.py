"""Which bytes of the base go where: every output shard's header and source ranges, before any is written.

The plan is a pure function of the base's tensor entries, the keep sets and the shard limit, so two rewrites
of the same thing are identical byte for byte.
"""

import json
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.checkpoint.header import DTYPE_BITS, LENGTH_BYTES, METADATA_KEY, TensorEntry
from eaftgate.errors import UserError
from eaftgate.families.family import Kept

GB = 1_000_000_000
MAX_SHARD_BYTES = 5 * GB
"""5 GB decimal: the limit published shards and the Hub keep to."""
_ALIGNMENT = 8
_METADATA = {"format": "pt"}
_LARGEST_OFFSET = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `begin`..`end` of the base's file `shard`."""

    shard: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One output file: its header, then the source ranges one after the other."""

    name: str
    tensors: tuple[str, ...]
    header: bytes
    """Length prefix, JSON and padding."""
    ranges: tuple[ByteRange, ...]
    size: int
    """Bytes of the whole file."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of the base and what is kept of it."""

    entry: TensorEntry
    kept: Kept

    @property
    def ranges(self) -> list[ByteRange]:
        """Source bytes, neighbours joined."""
        shard, start = self.entry.shard, self.entry.begin
        return joined(ByteRange(shard, start + begin, start + end) for begin, end in self.kept.spans)


def kept_pieces(base: Checkpoint, keep: Sequence[Sequence[int]]) -> list[Piece]:
    """Every tensor of the base that is kept, wholly or in part."""
    by_layer = base.by_layer(keep)
    found = ((entry, base.family.kept(entry, by_layer)) for entry in base.tensors.values())
    return [Piece(entry, kept) for entry, kept in found if kept is not None]


def joined(ranges: Iterable[ByteRange]) -> list[ByteRange]:
    """Ranges with those that follow each other directly in the same file made one."""
    out: list[ByteRange] = []
    for item in ranges:
        if out and out[-1].shard == item.shard and out[-1].end == item.begin:
            out[-1] = ByteRange(item.shard, out[-1].begin, item.end)
        else:
            out.append(item)
    return out


def plan_shards(base: Checkpoint, keep: Sequence[Sequence[int]], *, max_shard_bytes: int) -> list[ShardPlan]:
    """The output shards of the checkpoint `base` with only the experts of `keep`; see `plan_pieces`."""
    return plan_pieces(kept_pieces(base, keep), base.family.shard_group, max_shard_bytes=max_shard_bytes)


def plan_pieces(
    pieces: Iterable[Piece], shard_group: Callable[[str], tuple[int, int, str]], *, max_shard_bytes: int
) -> list[ShardPlan]:
    """Plan the output shards, each at most `max_shard_bytes` with its header. `shard_group` is the family's.

    Tensors follow each other as their family has them, and what it keeps in one shard is never parted (a loader
    rejects a checkpoint that splits it). The shards are as few as they can be, and then the largest as small as it
    can be: each is copied by one thread. Raises UserError when a tensor is too large.
    """
    limit = max_shard_bytes - _EMPTY_HEADER_BYTES
    groups = _groups(pieces, shard_group)
    sizes = [_size(group) for group in groups]
    for group, size in zip(groups, sizes, strict=True):
        if size > limit:
            raise UserError(
                f"tensor {group[0].entry.name!r} and what belongs with it need {size} bytes, more than the shard limit "
                f"of {max_shard_bytes}; raise it with --max-shard-gb {in_gb(size + _EMPTY_HEADER_BYTES)}"
            )
    shards = [[piece for group in groups[cut] for piece in group] for cut in balanced(sizes, limit)]
    return [
        _shard_plan(f"model-{number:05d}-of-{len(shards):05d}.safetensors", together)
        for number, together in enumerate(shards, start=1)
    ]


def smallest_limit(base: Checkpoint, keep_n: int) -> int:
    """The least shard limit, in bytes, that keeping so many experts a layer can hold to."""
    pieces = kept_pieces(base, [range(keep_n)] * base.num_layers)
    return _EMPTY_HEADER_BYTES + max(_size(group) for group in _groups(pieces, base.family.shard_group))


def in_gb(limit: int) -> int:
    """A shard limit in the unit of --max-shard-gb, rounded up."""
    return -(-limit // GB)


def balanced(sizes: Sequence[int], limit: int) -> list[slice]:
    """Consecutive items together: as few stretches up to `limit` as there can be, the largest as small as it can be."""
    fewest = len(_filled(sizes, limit))
    limits = range(max(sizes), limit + 1)
    return _filled(sizes, limits[bisect_left(limits, True, key=lambda limit: len(_filled(sizes, limit)) <= fewest)])


def _filled(sizes: Sequence[int], limit: int) -> list[slice]:
    """Consecutive items together up to `limit`, which no item exceeds: as few stretches as there can be."""
    starts: list[int] = []
    filled = limit + 1
    for place, size in enumerate(sizes):
        if filled + size > limit:
            starts.append(place)
            filled = 0
        filled += size
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(sizes)], strict=True)]


def _size(group: Sequence[Piece]) -> int:
    return sum(piece.kept.nbytes + _entry_size(piece) for piece in group)


def _groups(pieces: Iterable[Piece], shard_group: Callable[[str], tuple[int, int, str]]) -> list[list[Piece]]:
    """What must stay together, in the order of the family."""
    ordered = sorted(pieces, key=lambda piece: (*shard_group(piece.entry.name), piece.entry.name))
    return [list(group) for _, group in groupby(ordered, key=lambda piece: shard_group(piece.entry.name))]


def _shard_plan(name: str, pieces: list[Piece]) -> ShardPlan:
    # As the safetensors library does: wide dtypes first, so that every tensor is aligned to its element.
    pieces = sorted(pieces, key=lambda piece: -DTYPE_BITS[piece.entry.dtype])
    header: dict[str, object] = {METADATA_KEY: _METADATA}
    position = 0
    for piece in pieces:
        end = position + piece.kept.nbytes
        header[piece.kept.name] = _info(piece.entry.dtype, piece.kept.shape, position, end)
        position = end
    text = _json(header)
    text += b" " * (-len(text) % _ALIGNMENT)
    return ShardPlan(
        name=name,
        tensors=tuple(piece.kept.name for piece in pieces),
        header=struct.pack("<Q", len(text)) + text,
        ranges=tuple(joined(item for piece in pieces for item in piece.ranges)),
        size=LENGTH_BYTES + len(text) + position,
    )


def _entry_size(piece: Piece) -> int:
    """Upper bound of the bytes that one tensor takes in a header."""
    entry = piece.entry
    return len(_json({piece.kept.name: _info(entry.dtype, entry.shape, _LARGEST_OFFSET, _LARGEST_OFFSET)}))


def _info(dtype: str, shape: Sequence[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


_EMPTY_HEADER_BYTES = LENGTH_BYTES + len(_json({METADATA_KEY: _METADATA})) + _ALIGNMENT
