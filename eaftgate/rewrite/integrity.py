"""Is a rewritten checkpoint what its manifest says, and are its tensors those of the base?"""

import os
from collections.abc import Sequence
from pathlib import Path

from eaftgate.checkpoint.checkpoint import CONFIG_FILE, Checkpoint
from eaftgate.errors import UserError
from eaftgate.rewrite.keep_n import check_keep_sets
from eaftgate.rewrite.manifest import MAPPING_FILE, Manifest, expert_mapping, verify_files
from eaftgate.rewrite.plan import MAX_SHARD_BYTES, ByteRange, kept_pieces
from eaftgate.strict_json import read_object

CHUNK_BYTES = 1 << 22


def check_artifact(
    candidate: Checkpoint,
    base: Checkpoint | None,
    manifest: Manifest,
    *,
    base_digest: str | None = None,
    hash_contents: bool = True,
) -> list[str]:
    """Problems of the checkpoint `candidate`, one sentence each; empty when it is what `manifest` says.

    Files against the manifest, keep sets, mapping, shard sizes, configuration (also against `base` when
    given, whose `checkpoint_digest` is `base_digest`), what must share a shard. Tensor contents are
    `compare_tensors`' job.
    """
    return [
        *verify_files(candidate.path, manifest.files, hash_contents=hash_contents),
        *_keep_problems(candidate, manifest),
        *_mapping_problems(candidate, manifest),
        *_shard_problems(candidate, manifest.max_shard_bytes or MAX_SHARD_BYTES),
        *(_base_problems(candidate, base, base_digest, manifest) if base is not None else []),
    ]


def compare_tensors(candidate: Checkpoint, base: Checkpoint, keep: Sequence[Sequence[int]]) -> list[str]:
    """Tensors of `candidate` that are not bit for bit the kept part of the base's, one sentence each.

    Reads both checkpoints once, in chunks. Raises UserError when a shard cannot be read.
    """
    expected = {piece.kept.name: piece for piece in kept_pieces(base, keep)}
    problems = [f"tensor {name!r} is only in the base" for name in sorted(expected.keys() - candidate.tensors)]
    for name, entry in candidate.tensors.items():
        piece = expected.get(name)
        if piece is None:
            problems.append(f"tensor {name!r} is not in the base")
        elif (entry.dtype, entry.shape) != (piece.entry.dtype, piece.kept.shape):
            problems.append(f"tensor {name!r} is {entry.dtype} {list(entry.shape)}, not the kept part of the base's")
        else:
            found = ByteRange(entry.shard, entry.begin, entry.end)
            if not _same_bytes(candidate.path, found, base.path, piece.ranges):
                problems.append(f"tensor {name!r} differs from the base's kept experts")
    return problems


def _keep_problems(candidate: Checkpoint, manifest: Manifest) -> list[str]:
    problems = []
    record = manifest.base
    try:
        rows = check_keep_sets(
            manifest.keep,
            num_layers=candidate.num_layers,
            num_experts=record.num_experts,
            top_k=record.top_k,
            allow_any=manifest.allow_any_keep_n,
        )
        if len(rows[0]) != manifest.keep_n:
            problems.append(f"the manifest says keep_n {manifest.keep_n}, its keep sets hold {len(rows[0])} experts")
    except UserError as error:
        problems.append(f"manifest: {error}")
    if candidate.num_experts != manifest.keep_n:
        problems.append(f"{CONFIG_FILE} has {candidate.num_experts} experts, the manifest says {manifest.keep_n}")
    if candidate.top_k != record.top_k:
        problems.append(f"{CONFIG_FILE} has top_k {candidate.top_k}, the base has {record.top_k}")
    if record.num_experts and manifest.keep_frac != manifest.keep_n / record.num_experts:
        problems.append(f"the manifest's keep_frac {manifest.keep_frac} is not {manifest.keep_n}/{record.num_experts}")
    return problems


def _mapping_problems(candidate: Checkpoint, manifest: Manifest) -> list[str]:
    try:
        mapping = read_object(candidate.path / MAPPING_FILE, what="the expert mapping")
    except UserError as error:
        return [str(error)]
    layers = candidate.dimensions.moe_layers
    return [] if mapping == expert_mapping(manifest, layers) else [f"{MAPPING_FILE} does not agree with the keep sets"]


def _shard_problems(candidate: Checkpoint, limit: int) -> list[str]:
    problems = [
        f"{shard.name} has {size} bytes, more than {limit}"
        for shard in candidate.shards
        if (size := shard.stat().st_size) > limit
    ]
    return problems + candidate.family.parted(candidate.tensors)


def _base_problems(candidate: Checkpoint, base: Checkpoint, base_digest: str | None, manifest: Manifest) -> list[str]:
    problems = []
    if base_digest is not None and base_digest != manifest.base.digest:
        problems.append(f"it was not made from {base.name}: the manifest names a base with another digest")
    if base.num_experts != manifest.base.num_experts:
        problems.append(f"the base has {base.num_experts} experts, the manifest says {manifest.base.num_experts}")
    expected = base.family.pruned_config(base.config, manifest.keep_n)
    differing = sorted(
        key
        for key in expected.keys() | candidate.config.keys()
        if key not in expected or key not in candidate.config or expected[key] != candidate.config[key]
    )
    if differing:
        problems.append(f"{CONFIG_FILE} differs from the base's in {', '.join(map(repr, differing))[:300]}")
    return problems


def _same_bytes(path: Path, found: ByteRange, base_path: Path, ranges: list[ByteRange]) -> bool:
    try:
        with (path / found.shard).open("rb", buffering=0) as ours:
            position = found.begin
            for item in ranges:
                with (base_path / item.shard).open("rb", buffering=0) as theirs:
                    for begin in range(item.begin, item.end, CHUNK_BYTES):
                        count = min(CHUNK_BYTES, item.end - begin)
                        mine = os.pread(ours.fileno(), count, position)
                        if len(mine) != count or mine != os.pread(theirs.fileno(), count, begin):
                            return False
                        position += count
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}); check the checkpoint") from None
    return position == found.end
