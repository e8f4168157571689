"""Profiling a base model over the calibration packs: one pass, a resumable trace, a finished directory at the end."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from eaftgate import __version__
from eaftgate.building import build, joined
from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.checkpoint.digest import ModelIdentity
from eaftgate.checkpoint.finite import check_finite
from eaftgate.checkpoint.unchanged import check_unchanged
from eaftgate.collect.collection import check_stats, count_not_finite
from eaftgate.collect.stretches import finished_stretches, missing_stretches
from eaftgate.errors import UserError
from eaftgate.families.model import MoeModel
from eaftgate.model.load import ModelSettings, load_model
from eaftgate.model.memory import lack_of_memory
from eaftgate.model.stream import StreamedModel
from eaftgate.outputs import check_directory, up_to_date
from eaftgate.packs.blocks import Blocks, BoolArray, IntArray, build_blocks
from eaftgate.packs.pack import UNION, Pack, named_packs, rows_digest
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.profile.observe import Observation, observe_batch
from eaftgate.profile.profile import (
    ALIGNMENTS,
    PROFILE_FILE,
    TRACE_DIR,
    Alignment,
    Profile,
    ProfileDescription,
    RanOn,
    Speed,
    Thresholds,
    check_trace,
    open_profile,
)
from eaftgate.profile.ranks import ALONE, Ranks
from eaftgate.profile.streamed import group_tokens, observe_streamed
from eaftgate.profile.trace import (
    Trace,
    TraceDimensions,
    TraceShard,
    damaged_shards,
    load_trace,
    save_shard,
    shard_digests,
    shard_name,
    shard_ranges,
)
from eaftgate.progress import progress_bar
from eaftgate.records import write_model
from eaftgate.visible import sentence

SHARD_SECONDS = 30.0


@dataclass(frozen=True)
class ProfileRequest:
    """What to profile; with the base's digest it decides the result, so an unfinished run of it can be resumed."""

    packs: Path
    num_rows: int | None = None
    seq_len: int = 2048
    seed: int = 3407
    alignment: str = "predicting"
    batch_size: int = 1


def profile_checkpoint(
    base: Checkpoint,
    base_digest: str,
    request: ProfileRequest,
    out: Path,
    settings: ModelSettings,
    ranks: Ranks = ALONE,
    *,
    stream: bool | None = None,
) -> Profile:
    """Profile `base` and write `out`. An interrupted run is resumed, and a finished one left as it is
    (eaftgate.outputs).

    `stream` has one layer at a time in memory instead of the whole model, which changes nothing of the trace; None is
    where the whole does not fit.

    Each of several `ranks` (torchrun, one GPU each, `out` on a disk they share) observes its share of the blocks; the
    trace is that of one.

    Raises UserError for bad packs, an `out` that must not be written, a failing disk, or a model that yields values
    that are not finite.
    """
    check_directory(out, [request.packs])
    if request.alignment not in ALIGNMENTS:
        raise UserError(f"--alignment is {request.alignment!r}: it must be one of {', '.join(ALIGNMENTS)}")
    if base.num_experts > np.iinfo(np.uint8).max + 1:
        raise UserError(f"{base.name} has {base.num_experts} experts: a trace holds up to 256")
    packs = named_packs(request.packs, seed=request.seed)
    if ranks.first and packs[UNION].left_out:
        print(sentence(packs[UNION].left_out), file=sys.stderr)
    rows = packs.pop(UNION).head(request.num_rows)
    tokenizer = load_tokenizer(base.path)
    blocks = build_blocks(
        rows, tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=request.seq_len, num_blocks=None,
        vocab_size=base.vocab_size,
    )  # fmt: skip
    description = _describe(base, base_digest, request, settings, rows, blocks, packs)
    described = description.model_dump(by_alias=True, exclude_unset=True)
    if up_to_date(out, made_from := _made_from(description)):
        return open_profile(out)
    ranks.wait()  # until all have looked
    with build(out, described, made_from=made_from) if ranks.first else joined(out) as work:
        directory = work.payload / TRACE_DIR
        if ranks.first:
            _remove_damaged(directory)
        ranks.wait()
        seconds, speed = _trace_blocks(
            base, base_digest, settings, request.batch_size, rows, blocks, sorted(packs), directory, ranks, out,
            stream=stream,
        )  # fmt: skip
        ranks.wait()
        check_unchanged(base, base_digest)  # its tokenizer, too
        if ranks.first:
            trace = load_trace(directory, description.dimensions)
            check_trace(work.payload, trace, description)
            made = {
                "packs_dir": str(request.packs),
                "thresholds": _thresholds(trace),
                "seconds": seconds,
                "speed": speed,
                "trace": shard_digests(directory),
            }
            write_model(work.payload / PROFILE_FILE, description.model_copy(update=made))
    ranks.wait()
    return open_profile(out)


def _remove_damaged(directory: Path) -> None:
    """Take away what an interrupted run has left and is no longer as it was written."""
    if damaged := damaged_shards(directory):
        said = f"profiled again: {', '.join(damaged)} of the unfinished profile, damaged since or of an earlier version"
        print(sentence(said), file=sys.stderr)
    for name in damaged:
        shutil.rmtree(directory / name)


def _describe(
    base: Checkpoint,
    base_digest: str,
    request: ProfileRequest,
    settings: ModelSettings,
    rows: Pack,
    blocks: Blocks,
    packs: dict[str, Pack],
) -> ProfileDescription:
    """What is profiled: all of profile.json but what profiling finds, and the name of the directory of packs."""
    used = len(blocks.identities)
    return ProfileDescription(
        schema="profile-1",
        eaftgate=__version__,
        base=ModelIdentity(name=base.name, digest=base_digest),
        dimensions=TraceDimensions(num_layers=base.num_layers, num_experts=base.num_experts, top_k=base.top_k),
        packs={name: rows.sources[:used].count(name) for name in sorted(packs)},
        packs_digest=rows_digest(packs.values()),
        num_rows=request.num_rows,
        seq_len=request.seq_len,
        seed=request.seed,
        alignment=cast(Alignment, request.alignment),  # which was checked
        batch_size=request.batch_size,
        num_blocks=blocks.num_blocks,
        counted_tokens=blocks.num_counted,
        scored_tokens=blocks.num_scored,
        blocks_digest=blocks.digest,
        model=RanOn(**settings.describe()),
        rows=list(blocks.identities),
    )


def _made_from(description: ProfileDescription) -> dict[str, Any]:
    """By content: where base and packs lie, and the rows, of which the digest of the blocks is enough."""
    found = {"profile_schema", "eaftgate", "packs_dir", "rows", "thresholds", "seconds", "speed", "trace"}
    told = description.model_dump(mode="json", exclude=found)
    return {**told, "command": "profile", "base": description.base.digest}


def _trace_blocks(
    base: Checkpoint,
    base_digest: str,
    settings: ModelSettings,
    batch_size: int,
    rows: Pack,
    blocks: Blocks,
    pack_names: list[str],
    directory: Path,
    ranks: Ranks,
    out: Path,
    *,
    stream: bool | None,
) -> tuple[float, Speed | None]:
    """Observe every block of this rank's share that no finished shard holds; returns the seconds spent in the model,
    and how fast it was, if it ran."""
    directory.mkdir(exist_ok=True)
    share = ranks.share(blocks.num_blocks, batch_size)
    missing = missing_stretches(share, shard_ranges(directory).values())
    if not missing:
        return 0.0, None
    pack_R = np.array([pack_names.index(source) for source in rows.sources], dtype=np.uint8)
    if stream is None and (lack := lack_of_memory(base, settings)):
        stream = True
        if ranks.first:
            print(sentence(f"one layer is in memory at a time: {lack}"), file=sys.stderr)
    with progress_bar("profile", None, unit="tokens", out=out) as bar:
        observe: _Observe
        if stream:
            observe = partial(_observed_streaming, base, settings, StreamedModel(base, settings))
        else:
            observe = partial(_observed, base, load_model(base.path, settings))
        check_unchanged(base, base_digest)  # before anything is kept of what it puts out
        tokens = sum(map(len, missing)) * blocks.seq_len
        bar.show(0, tokens)
        if stream:  # of which only whole stretches are kept
            bar.keep()
        started = time.perf_counter()
        for gap in missing:
            for held, observations in observe(blocks, gap, batch_size, bar.advance):
                if stream:
                    check_unchanged(base, base_digest)  # which was read again and again
                part = blocks.reordered(np.arange(held.start, held.stop))
                save_shard(directory, shard_name(held.start, held.stop), _shard(observations, part, pack_R))
                if stream:
                    bar.keep()
    seconds = time.perf_counter() - started
    return seconds, Speed(tokens_per_second=tokens / seconds, on=settings.hardware, streamed=bool(stream))


_Observe = Callable[[Blocks, range, int, Callable[[int], None]], Iterator[tuple[range, list[Observation]]]]
"""Called with (blocks, those to observe, batch size, what gets the tokens of every batch): stretches of them."""


def _observed(
    base: Checkpoint, model: MoeModel, blocks: Blocks, gap: range, batch_size: int, advance: Callable[[int], None]
) -> Iterator[tuple[range, list[Observation]]]:
    """Batch after batch, by a model that is in memory as a whole."""

    def observations() -> Iterator[tuple[int, Observation]]:
        for batch in _batches(gap, batch_size):
            where, token_ids_BS, scored_BS = _of(blocks, batch)
            with _memory_of(where):
                observation = observe_batch(model, token_ids_BS, scored_BS)
            yield len(batch), _checked(base, observation, scored_BS, where)

    return finished_stretches(
        observations(), gap.start, seconds=SHARD_SECONDS, advance=lambda count: advance(count * blocks.seq_len)
    )


def _observed_streaming(
    base: Checkpoint,
    settings: ModelSettings,
    model: StreamedModel,
    blocks: Blocks,
    gap: range,
    batch_size: int,
    advance: Callable[[int], None],
) -> Iterator[tuple[range, list[Observation]]]:
    """Group after group, layer by layer."""
    most = max(1, group_tokens(base, settings) // (blocks.seq_len * batch_size)) * batch_size
    while gap:
        group = [_of(blocks, batch) for batch in _batches(gap[:most], batch_size)]
        with _memory_of(f"profiling from block {gap.start} on"):
            batches = [(token_ids_BS, scored_BS) for _, token_ids_BS, scored_BS in group]
            observations = observe_streamed(model, batches, advance, seconds=SHARD_SECONDS)
        checked = [
            _checked(base, observation, scored_BS, where)
            for observation, (where, _, scored_BS) in zip(observations, group, strict=False)
        ]
        done = min(len(checked) * batch_size, len(gap))
        yield gap[:done], checked
        gap = gap[done:]


def _batches(blocks: range, size: int) -> Iterator[range]:
    for start in range(blocks.start, blocks.stop, size):
        yield range(start, min(start + size, blocks.stop))


def _of(blocks: Blocks, batch: range) -> tuple[str, IntArray, BoolArray]:
    """What is said of a batch, its tokens, and which of them are scored."""
    held = slice(batch.start, batch.stop)
    return f"profiling blocks {batch.start} to {batch.stop - 1}", blocks.token_ids_BS[held], blocks.scored_BS[held]


@contextmanager
def _memory_of(where: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(f"{where} ran out of GPU memory: lower --batch-size or --seq-len") from None


def _checked(base: Checkpoint, observation: Observation, scored_BS: BoolArray, where: str) -> Observation:
    norms_finite = np.isfinite(observation.norm_XLK).all() and np.isfinite(observation.gate_XLK).all()
    if count_not_finite(observation.stats) or not norms_finite:
        check_finite(base)  # names the tensor, if it is one that is stored
    check_stats(observation.stats, int(scored_BS.sum()), where=where)
    if not norms_finite:
        raise UserError(f"{where}: an expert's output or gate is not finite or above 1e6; the checkpoint is damaged")
    return observation


def _shard(pending: list[Observation], blocks: Blocks, pack_R: np.ndarray) -> TraceShard:
    scored_BS, roles = blocks.scored_BS, blocks.roles.at(blocks.scored_BS)
    row_T = blocks.row_BS[scored_BS]
    base_X = np.cumsum([0] + [len(o.expert_XLK) for o in pending[:-1]]).astype(np.int32)
    return TraceShard(
        expert_XLK=np.concatenate([o.expert_XLK for o in pending]),
        gate_XLK=np.concatenate([o.gate_XLK for o in pending]),
        norm_XLK=np.concatenate([o.norm_XLK for o in pending]),
        p_T=np.minimum(np.exp(np.concatenate([o.stats.logprob_T for o in pending])), np.float32(1.0)),
        entropy_T=np.concatenate([o.stats.entropy_T for o in pending]),
        predicting_T=np.concatenate([o.predicting_T + x for o, x in zip(pending, base_X, strict=True)]),
        own_T=np.concatenate([o.own_T + x for o, x in zip(pending, base_X, strict=True)]),
        row_T=row_T,
        pack_T=pack_R[row_T],
        token_T=blocks.token_ids_BS[scored_BS],
        kind_T=roles.kind,
        content_T=roles.content,
    )


def _thresholds(trace: Trace) -> Thresholds:
    """The pooled 0.15 and 0.85 quantiles of content, for reading; selection cuts its own from the trace."""
    p_T, entropy_T = (trace.column(name)[trace.column("content_T")] for name in ("p_T", "entropy_T"))
    return Thresholds(
        p_lo=float(np.quantile(p_T, 0.15)),
        h_lo=float(np.quantile(entropy_T, 0.15)),
        h_hi=float(np.quantile(entropy_T, 0.85)),
    )
