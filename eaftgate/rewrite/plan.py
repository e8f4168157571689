"""Which bytes of the base go where: every output shard's header and source ranges, before any is written.

The plan is a pure function of the base's tensor entries, the keep sets and the shard limit, so two rewrites
of the same thing are identical byte for byte.
"""

import json
import struct
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.checkpoint.header import DTYPE_BITS, LENGTH_BYTES, METADATA_KEY, TensorEntry
from eaftgate.checkpoint.layout import expert_tensor, layer_of
from eaftgate.errors import UserError

MAX_SHARD_BYTES = 5_000_000_000
"""5 GB decimal: the limit published gpt-oss shards and the Hub keep to."""
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


def kept_ranges(entry: TensorEntry, keep: Sequence[Sequence[int]]) -> list[ByteRange]:
    """Source bytes of what is kept of one tensor: all of it, or its kept experts with neighbours joined."""
    tensor = expert_tensor(entry.name)
    if tensor is None:
        return [ByteRange(entry.shard, entry.begin, entry.end)]
    stride = entry.nbytes // entry.shape[0]
    return joined(
        ByteRange(entry.shard, entry.begin + expert * stride, entry.begin + (expert + 1) * stride)
        for expert in keep[tensor.layer]
    )


def kept_shape(entry: TensorEntry, keep: Sequence[Sequence[int]]) -> tuple[int, ...]:
    tensor = expert_tensor(entry.name)
    return entry.shape if tensor is None else (len(keep[tensor.layer]), *entry.shape[1:])


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
    """Plan the output shards, each at most `max_shard_bytes` with its header.

    Tensors follow the model from the embedding to the head; blocks, scales and bias of one projection are
    never parted (a loader rejects a checkpoint that splits them). The shards are as few as they can be, and then
    the largest as small as it can be: each is copied by one thread. Raises UserError when a tensor is too large.
    """
    limit = max_shard_bytes - _EMPTY_HEADER_BYTES
    groups = _groups(base.tensors.values())
    sizes = [sum(_nbytes(entry, keep) + _entry_size(entry) for entry in group) for group in groups]
    for group, size in zip(groups, sizes, strict=True):
        if size > limit:
            raise UserError(
                f"tensor {group[0].name!r} and what belongs with it need {size} bytes, "
                f"more than the shard limit of {max_shard_bytes}; raise the limit"
            )
    shards = [[entry for group in groups[cut] for entry in group] for cut in balanced(sizes, limit)]
    return [
        _shard_plan(f"model-{number:05d}-of-{len(shards):05d}.safetensors", entries, keep)
        for number, entries in enumerate(shards, start=1)
    ]


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


def _groups(entries: Iterable[TensorEntry]) -> list[list[TensorEntry]]:
    """What must stay together, in the order of the model."""
    ordered = sorted(entries, key=lambda entry: (*_group_key(entry.name), entry.name))
    return [list(group) for _, group in groupby(ordered, key=lambda entry: _group_key(entry.name))]


def _group_key(name: str) -> tuple[int, int, str]:
    layer = layer_of(name)
    if layer is None:
        return (0 if "embed" in name else 2, 0, name)
    tensor = expert_tensor(name)
    return (1, layer, f"mlp.experts.{tensor.projection}" if tensor and tensor.projection else name)


def _shard_plan(name: str, entries: list[TensorEntry], keep: Sequence[Sequence[int]]) -> ShardPlan:
    # As the safetensors library does: wide dtypes first, so that every tensor is aligned to its element.
    entries = sorted(entries, key=lambda entry: -DTYPE_BITS[entry.dtype])
    header: dict[str, object] = {METADATA_KEY: _METADATA}
    position = 0
    for entry in entries:
        end = position + _nbytes(entry, keep)
        header[entry.name] = _info(entry.dtype, kept_shape(entry, keep), position, end)
        position = end
    text = _json(header)
    text += b" " * (-len(text) % _ALIGNMENT)
    return ShardPlan(
        name=name,
        tensors=tuple(entry.name for entry in entries),
        header=struct.pack("<Q", len(text)) + text,
        ranges=tuple(joined(item for entry in entries for item in kept_ranges(entry, keep))),
        size=LENGTH_BYTES + len(text) + position,
    )


def _nbytes(entry: TensorEntry, keep: Sequence[Sequence[int]]) -> int:
    return sum(item.end - item.begin for item in kept_ranges(entry, keep))


def _entry_size(entry: TensorEntry) -> int:
    """Upper bound of the bytes that one tensor takes in a header."""
    return len(_json({entry.name: _info(entry.dtype, entry.shape, _LARGEST_OFFSET, _LARGEST_OFFSET)}))


def _info(dtype: str, shape: Sequence[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


_EMPTY_HEADER_BYTES = LENGTH_BYTES + len(_json({METADATA_KEY: _METADATA})) + _ALIGNMENT
