"""Writing the smaller checkpoint: kept experts and everything else, copied bit for bit.

No tensor is decoded and none is held in memory; see `plan` for what goes where, `copy` for how it gets
there, `finished` for what need not be done again after an interruption.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path
from threading import Event, Lock
from typing import Any

from eaftgate import __version__
from eaftgate.building import build
from eaftgate.checkpoint.checkpoint import CONFIG_FILE, Checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.checkpoint.shards import INDEX_FILE
from eaftgate.checkpoint.unchanged import check_unchanged
from eaftgate.files import sha256_file, write_json, write_text
from eaftgate.lfs import check_file_no_pointer
from eaftgate.rewrite.copy import copy_shard
from eaftgate.rewrite.finished import FinishedShards, finished_shards
from eaftgate.rewrite.keep_n import check_keep_sets
from eaftgate.rewrite.manifest import (
    CARD_FILE,
    MANIFEST_FILE,
    MAPPING_FILE,
    BaseRecord,
    FileRecord,
    Manifest,
    ToolRecord,
    expert_mapping,
)
from eaftgate.rewrite.plan import MAX_SHARD_BYTES, ShardPlan, plan_shards

COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "generation_config.json", "chat_template.json",
    "*.jinja", "LICENSE*", "NOTICE*", "USAGE_POLICY*",
)  # fmt: skip
"""Files copied along when the base has them: tokenizer, generation, chat template, licence. Never code."""
_MAX_THREADS = 4


def rewrite_checkpoint(
    base: Checkpoint,
    keep: Sequence[Sequence[int]],
    out: Path,
    *,
    provenance: dict[str, Any],
    carried: Mapping[str, bytes] | None = None,
    card: str | None = None,
    base_digest: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    allow_any_keep_n: bool = False,
    made_from: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write to `out` the checkpoint `base` with only the experts of `keep` (per layer, ascending ids).

    `provenance` (a JSON object) goes into the manifest, `carried` are further files by name, `card` is CARD_FILE;
    `base_digest` is `checkpoint_digest(base)` if the caller has it, `made_from` what `outputs.up_to_date` compares.
    `progress(done, total)` gets bytes of shards, from several threads but one at a time.
    The result is a function of the arguments alone, byte for byte.

    An interrupted run is taken up by the same call (eaftgate.outputs).
    Raises UserError: bad keep sets, an `out` that must not be written, a tensor larger than a shard, a failing disk.
    """
    rows = check_keep_sets(
        keep,
        num_layers=base.num_layers,
        num_experts=base.num_experts,
        top_k=base.top_k,
        allow_any=allow_any_keep_n,
    )
    plans = plan_shards(base, rows, max_shard_bytes=max_shard_bytes)
    digest = base_digest or checkpoint_digest(base)
    manifest = Manifest(
        base=BaseRecord(name=base.name, digest=digest, num_experts=base.num_experts, top_k=base.top_k),
        keep_n=len(rows[0]),
        keep_frac=len(rows[0]) / base.num_experts,
        allow_any_keep_n=allow_any_keep_n,
        keep=rows,
        provenance=provenance,
        tool=ToolRecord(version=__version__),
        max_shard_bytes=None if max_shard_bytes <= MAX_SHARD_BYTES else max_shard_bytes,
        files={},
    )
    request = {"manifest": manifest.content(), "max_shard_bytes": max_shard_bytes}
    json.dumps(request, allow_nan=False)  # a provenance that is not JSON must fail now, not after the copy
    total = sum(plan.size for plan in plans)

    def copy(plan: ShardPlan, target: Path, on_bytes: Callable[[int], None]) -> str:
        sha256 = copy_shard(plan, base.path, target, on_bytes)
        check_unchanged(base, digest)  # each time: what is finished is not copied again
        return sha256

    with build(out, request, made_from=made_from, needs=f"whose shards take {total} bytes") as work:
        finished = finished_shards(work)
        write_shards(plans, work.payload, finished, copy, progress)
        for name, content in (carried or {}).items():
            (work.payload / name).write_bytes(content)
        _write_companions(plans, base, manifest, work.payload, finished)
        if card is not None:
            write_text(work.payload / CARD_FILE, card)


def write_shards(
    plans: list[ShardPlan],
    payload: Path,
    finished: FinishedShards,
    write_one: Callable[[ShardPlan, Path, Callable[[int], None]], str],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write the shards that are not finished, in threads. `write_one(plan, target, on_bytes)` is such as
    `copy.copy_shard`: it returns the new file's sha256, and an exception of `on_bytes` stops it."""
    total = sum(plan.size for plan in plans)
    missing = [plan for plan in plans if plan.name not in finished.records]
    done = total - sum(plan.size for plan in missing)
    guard, stop = Lock(), Event()

    def on_bytes(count: int) -> None:
        nonlocal done
        if stop.is_set():
            raise InterruptedError("stopped because another shard failed")
        with guard:
            done += count
            if progress is not None:
                progress(done, total)

    def write(plan: ShardPlan) -> None:
        sha256 = write_one(plan, payload / plan.name, on_bytes)
        finished.add(plan.name, FileRecord(sha256=sha256, size=plan.size))

    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(write, plan) for plan in missing]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:  # Ctrl-C too: the other shards must not be copied to their end first
            pool.shutdown(wait=False, cancel_futures=True)
            stop.set()
            raise


def _write_companions(
    plans: list[ShardPlan], base: Checkpoint, manifest: Manifest, payload: Path, finished: FinishedShards
) -> None:
    """Every file that is not a shard; the manifest last."""
    copy_companions(base, payload)
    check_unchanged(base, manifest.base.digest)
    write_json(payload / CONFIG_FILE, base.family.pruned_config(base.config, manifest.keep_n))
    write_index(plans, payload)
    write_json(payload / MAPPING_FILE, expert_mapping(manifest, base.dimensions.moe_layers))
    listed = manifest.model_copy(update={"files": file_records(payload, finished)})
    write_json(payload / MANIFEST_FILE, listed.content())


def companions(base: Checkpoint) -> list[Path]:
    """The files of COMPANIONS that the base has. Raises UserError for one that is a git-lfs pointer."""
    found = [
        path
        for path in sorted(base.path.iterdir())
        if path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in COMPANIONS)
    ]
    for path in found:
        check_file_no_pointer(path)
    return found


def copy_companions(base: Checkpoint, payload: Path) -> None:
    for path in companions(base):
        shutil.copyfile(path, payload / path.name)  # follows a link: the copy is a file of its own


def write_index(plans: list[ShardPlan], payload: Path) -> None:
    weight_map = {tensor: plan.name for plan in plans for tensor in plan.tensors}
    total_size = sum(plan.size - len(plan.header) for plan in plans)
    write_json(
        payload / INDEX_FILE,
        {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))},
    )


def file_records(payload: Path, finished: FinishedShards) -> dict[str, FileRecord]:
    """Of every file that is there, by name; shards are not hashed again."""
    files = dict(finished.records)
    for path in payload.iterdir():
        if path.name not in files:
            files[path.name] = FileRecord(sha256=sha256_file(path), size=path.stat().st_size)
    return dict(sorted(files.items()))
