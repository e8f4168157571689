"""Collections on disk: computed once per content, shared between processes, resumed after a kill.

A collection's key is the sha256 of the checkpoint digest, the blocks digest and the collector's settings. While it is
computed, finished stretches of blocks are saved as parts, so that a killed run goes on where the last part ends.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from eaftgate.collect.collection import (
    SCHEMA,
    Collection,
    TokenStats,
    check_stats,
    concatenate,
    load_arrays,
    load_collection,
    make_collection,
    save_collection,
    save_stats,
)
from eaftgate.collect.collector import Collector
from eaftgate.collect.stretches import finished_stretches
from eaftgate.errors import UserError
from eaftgate.files import sha256_json
from eaftgate.packs.blocks import Blocks
from eaftgate.progress import Bar
from eaftgate.records import read_model, write_model

PART_SECONDS = 20.0
"""At most this much work is lost to a kill."""

OpenBar = Callable[[int], AbstractContextManager[Bar]]
"""Opens the progress bar of a collection, given the number of tokens still to score."""


def no_bar(_: int) -> AbstractContextManager[Bar]:
    return nullcontext(Bar())


@dataclass(frozen=True)
class Failure:
    """Why a collection could not be made, so that a session does not try each of them again for every case."""

    session: str
    reason: str


@dataclass(frozen=True)
class Request:
    """One collection: this model on these blocks with this collector.

    `replicate` is empty for the collection that verdicts read; a name ("rerun") makes it a fresh measurement of the
    same content, for the noise floor.
    """

    checkpoint_digest: str
    blocks: Blocks
    collector: Collector
    replicate: str = ""

    def meta(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "checkpoint": self.checkpoint_digest,
            "blocks": self.blocks.digest,
            "settings": self.collector.settings(),
            "replicate": self.replicate,
        }


class CollectionStore:
    """Collections under one directory. `session` names a run: a failure is final within its run, not beyond it."""

    def __init__(self, root: Path, *, session: str) -> None:
        self._root, self._session = root, session

    def path(self, request: Request) -> Path:
        return self._root / f"{sha256_json(request.meta())[:32]}.safetensors"

    def get(self, request: Request, *, open_bar: OpenBar = no_bar) -> Collection:
        """The collection, from disk or computed now; a second process asking for it waits for the first.

        Raises UserError when it cannot be computed, with the same message for everybody who asks in this session.
        """
        path = self.path(request)
        if path.exists():
            return load_collection(path)
        self._root.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if path.exists():
                return load_collection(path)
            self._raise_known_failure(path)
            try:
                return self._compute(request, path, open_bar)
            except UserError as error:
                with suppress(OSError):  # a full disk takes no record either
                    write_model(path.with_suffix(".failed.json"), Failure(self._session, str(error)))
                raise

    def _raise_known_failure(self, path: Path) -> None:
        failed = path.with_suffix(".failed.json")
        if failed.exists():
            failure = read_model(failed, Failure, what="failure record", remedy="remove it")
            if failure.session == self._session:
                raise UserError(failure.reason)
            failed.unlink()

    def _compute(self, request: Request, path: Path, open_bar: OpenBar) -> Collection:
        blocks, parts_dir = request.blocks, path.with_suffix(".parts")
        parts, first_block = _finished_parts(parts_dir, blocks)
        started = time.perf_counter()
        tokens = (blocks.num_blocks - first_block) * blocks.seq_len
        with open_bar(tokens) as bar:
            for held, results in finished_stretches(
                _checked(request, first_block),
                first_block,
                seconds=PART_SECONDS,
                advance=lambda count: bar.advance(count * blocks.seq_len),
            ):
                parts.append(concatenate(results))
                if held.stop < blocks.num_blocks:
                    save_stats(parts_dir / f"{held.start:08d}-{held.stop:08d}.safetensors", parts[-1], {}, {})
        stats = concatenate(parts)
        check_stats(stats, blocks.num_scored, where=f"pack {blocks.pack}, seq_len {blocks.seq_len}")
        speed = {"seconds": time.perf_counter() - started, "tokens": tokens}
        collection = make_collection(stats, blocks, {**request.meta(), "speed": speed})
        save_collection(path, collection)
        shutil.rmtree(parts_dir, ignore_errors=True)
        return collection


def _checked(request: Request, first_block: int) -> Iterator[tuple[int, TokenStats]]:
    """The collector's batches. Raises UserError for one that no sound model can have."""
    blocks, start = request.blocks, first_block
    for count, stats in request.collector.batches(blocks, first_block):
        where = f"pack {blocks.pack}, seq_len {blocks.seq_len}, blocks {start} to {start + count - 1}"
        check_stats(stats, int(blocks.scored_BS[start : start + count].sum()), where=where)
        yield count, stats
        start += count


def _finished_parts(directory: Path, blocks: Blocks) -> tuple[list[TokenStats], int]:
    """Saved parts that follow each other from block 0, and the first block that none of them holds.

    The first part that is damaged or does not follow is removed with all later ones.
    """
    parts: list[TokenStats] = []
    next_block = 0
    paths = sorted(directory.glob("*.safetensors"))
    for place, path in enumerate(paths):
        try:
            first, end = (int(number) for number in path.stem.split("-"))
            part = load_arrays(path)[0]
            check_stats(part, int(blocks.scored_BS[next_block:end].sum()), where=str(path))
            usable = first == next_block
        except (UserError, ValueError):
            usable = False
        if not usable:
            for stale in paths[place:]:
                stale.unlink()
            break
        parts.append(part)
        next_block = end
    return parts, next_block
