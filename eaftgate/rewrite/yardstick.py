"""The base with rounded experts: a loss that people know, to measure the loss of other candidates by.

Every expert's weights are rounded to nearest (`rounding`) and written as the plain bfloat16 tensors that the model
class loads; every other tensor is copied bit for bit. Of the weights one expert is in memory, for each thread.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from eaftgate import __version__
from eaftgate.building import build
from eaftgate.checkpoint.checkpoint import CONFIG_FILE, Checkpoint
from eaftgate.checkpoint.digest import ModelIdentity, checkpoint_digest
from eaftgate.checkpoint.header import TensorEntry
from eaftgate.checkpoint.read import read_all
from eaftgate.checkpoint.unchanged import check_unchanged
from eaftgate.errors import UserError
from eaftgate.families.family import ExpertWeight, kept_whole
from eaftgate.files import write_json
from eaftgate.outputs import up_to_date
from eaftgate.records import Record, read_model, write_model
from eaftgate.rewrite.copy import write_all
from eaftgate.rewrite.finished import finished_shards
from eaftgate.rewrite.manifest import FileName, FileRecord, ToolRecord, verify_files
from eaftgate.rewrite.plan import MAX_SHARD_BYTES, Piece, ShardPlan, plan_pieces
from eaftgate.rewrite.rewrite import companions, copy_companions, file_records, write_index, write_shards
from eaftgate.rewrite.rounding import (
    BITS,
    GROUP,
    Float32,
    bfloat16_bits,
    float32_of,
    mxfp4_groups,
    round_groups,
)
from eaftgate.strict_json import read_object

YARDSTICK_FILE = "yardstick.json"
FORMAT: Final = "eaftgate-yardstick"
CHUNK_WEIGHTS = 1 << 18
"""Rounded at a time: what stays in a core's cache."""
_COPY_BYTES = 1 << 20


class Yardstick(Record):
    """yardstick.json: what was rounded, how, and every file of the checkpoint but this one."""

    schema_version: Literal[1] = 1
    format: Literal["eaftgate-yardstick"] = FORMAT
    base: ModelIdentity
    bits: Annotated[int, Field(ge=BITS.start, lt=BITS.stop)]
    group: int
    tool: ToolRecord
    files: dict[FileName, FileRecord]


def own_yardstick(directory: Path) -> Yardstick | None:
    """What the checkpoint in `directory` says of itself; None for one that is no yardstick of ours. Raises UserError
    when it is one and damaged."""
    path = directory / YARDSTICK_FILE
    try:
        ours = read_object(path, what="the yardstick").get("format") == FORMAT
    except UserError:
        return None
    return read_model(path, Yardstick, what="the yardstick", remedy="make it again") if ours else None


def check_yardstick(candidate: Checkpoint, record: Yardstick, *, base_digest: str) -> list[str]:
    """Problems of a checkpoint that says it is a yardstick, one sentence each; `base_digest` is that of the base which
    it is to be compared with."""
    problems = verify_files(candidate.path, record.files, hash_contents=True, record=YARDSTICK_FILE)
    if record.base.digest != base_digest:
        problems.append(f"it was not made from this base: {YARDSTICK_FILE} names one with another digest")
    return problems


def write_yardstick(
    base: Checkpoint,
    out: Path,
    *,
    bits: int,
    base_digest: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write to `out` the checkpoint `base` with its experts rounded to `bits` bits in groups of 32 input weights.

    `base_digest` is `checkpoint_digest(base)` if the caller has it; `progress(done, total)` gets bytes of shards. The
    result is a function of the arguments alone, byte for byte. An interrupted run is taken up by the same call,
    and a finished one left as it is.

    Raises UserError: bits that are none, experts that cannot be rounded, an `out` that must not be written, a tensor
    larger than a shard, a failing disk.
    """
    if bits not in BITS:
        raise UserError(f"--bits is {bits}: it must be {BITS.start} to {BITS.stop - 1}")
    weights = {weight.name: weight for weight in base.family.expert_weights(base.dimensions, base.tensors)}
    for weight in weights.values():
        if weight.shape[weight.input_axis] % GROUP:
            inputs = weight.shape[weight.input_axis]
            raise UserError(f"tensor {weight.name!r} has {inputs} inputs, which are no groups of {GROUP}")
    plans = plan_pieces(_pieces(base, weights), base.family.shard_group, max_shard_bytes=max_shard_bytes)
    companions(base)
    digest = base_digest or checkpoint_digest(base)
    record = Yardstick(
        base=ModelIdentity(name=base.name, digest=digest),
        bits=bits,
        group=GROUP,
        tool=ToolRecord(version=__version__),
        files={},
    )
    made_from = {"command": "yardstick", "base": record.base.digest, "bits": bits, "max_shard_bytes": max_shard_bytes}
    if up_to_date(out, made_from):
        return
    request = {"yardstick": record.model_dump(), "max_shard_bytes": max_shard_bytes}

    def write(plan: ShardPlan, target: Path, on_bytes: Callable[[int], None]) -> str:
        sha256 = _write_shard(plan, base, weights, bits, target, on_bytes)
        check_unchanged(base, digest)  # each time: what is finished is not written again
        return sha256

    total = sum(plan.size for plan in plans)
    with build(out, request, made_from=made_from, needs=f"whose shards take {total} bytes") as work:
        finished = finished_shards(work)
        write_shards(plans, work.payload, finished, write, progress)
        copy_companions(base, work.payload)
        check_unchanged(base, digest)
        write_json(work.payload / CONFIG_FILE, base.family.plain_config(base.config))
        write_index(plans, work.payload)
        files = file_records(work.payload, finished)
        write_model(work.payload / YARDSTICK_FILE, record.model_copy(update={"files": files}))


def _pieces(base: Checkpoint, weights: Mapping[str, ExpertWeight]) -> list[Piece]:
    """Every tensor of the yardstick. Those that are rounded lie nowhere in the base: their place in it is made up."""
    rounded = {name for weight in weights.values() for name in (weight.stored, weight.scales)}
    entries = [entry for entry in base.tensors.values() if entry.name not in rounded]
    entries += [TensorEntry(w.name, "BF16", w.shape, "", 0, 2 * prod(w.shape)) for w in weights.values()]
    return [Piece(entry, kept_whole(entry)) for entry in entries]


def _write_shard(
    plan: ShardPlan,
    base: Checkpoint,
    weights: Mapping[str, ExpertWeight],
    bits: int,
    target: Path,
    on_bytes: Callable[[int], None],
) -> str:
    """See `copy.copy_shard`."""
    digest = hashlib.sha256()
    with ExitStack() as stack:
        shards = {path.name: stack.enter_context(path.open("rb", buffering=0)) for path in base.shards}
        out = stack.enter_context(target.open("xb", buffering=0))

        def put(data: memoryview) -> None:
            write_all(out, data)
            digest.update(data)
            on_bytes(len(data))

        put(memoryview(plan.header))
        for name in plan.tensors:
            weight = weights.get(name)
            if weight is None:
                entry = base.tensors[name]
                for begin in range(entry.begin, entry.end, _COPY_BYTES):
                    put(_read(shards, entry, begin, min(_COPY_BYTES, entry.end - begin)).data)
                continue
            for weight_NIT in _groups(base, weight, shards):
                try:
                    round_groups(weight_NIT, bits)
                except ValueError as error:
                    raise UserError(f"{base.name}: tensor {weight.stored!r}: {error}; take a fresh copy") from None
                put(bfloat16_bits(weight_NIT).reshape(-1).view(np.uint8).data)
        os.fsync(out.fileno())
    return digest.hexdigest()


def _groups(base: Checkpoint, weight: ExpertWeight, shards: Mapping[str, BinaryIO]) -> Iterator[Float32]:
    """The weights, dequantised, in the order of the plain tensor, as [N, GROUP, T]. What is yielded is overwritten by
    the next: memory that is new each time costs more than the rounding."""
    entry = base.tensors[weight.stored]
    beside = prod(weight.shape[weight.input_axis + 1 :])
    count = max(1, CHUNK_WEIGHTS // (GROUP * beside))
    if weight.scales is None:
        stride = entry.nbytes // (prod(weight.shape) // (GROUP * beside))
        for begin in range(entry.begin, entry.end, count * stride):
            stored = _read(shards, entry, begin, min(count * stride, entry.end - begin))
            yield float32_of(stored, entry.dtype).reshape(-1, GROUP, beside)
        return
    scales = base.tensors[weight.scales]
    buffer_NIT = np.empty((count, GROUP, beside), np.float32)
    for expert in range(weight.shape[0]):
        blocks_OGB = _expert(shards, entry, expert).reshape(entry.shape[1:])
        scales_OG = _expert(shards, scales, expert).reshape(scales.shape[1:])
        for group in range(0, scales.shape[-1], count):
            some = slice(group, group + count)
            weight_NIT = buffer_NIT[: scales_OG[:, some].shape[1]]
            mxfp4_groups(blocks_OGB[:, some], scales_OG[:, some], weight_NIT)
            yield weight_NIT


def _expert(shards: Mapping[str, BinaryIO], entry: TensorEntry, expert: int) -> NDArray[np.uint8]:
    size = entry.nbytes // entry.shape[0]
    return _read(shards, entry, entry.begin + expert * size, size)


def _read(shards: Mapping[str, BinaryIO], entry: TensorEntry, begin: int, count: int) -> NDArray[np.uint8]:
    data = np.empty(count, np.uint8)
    read_all(shards[entry.shard], begin, data.data)
    return data
