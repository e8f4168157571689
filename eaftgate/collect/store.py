"""Collections on disk: computed once per content, shared between processes, resumed after a kill.

A collection's key is the sha256 of the checkpoint digest, the blocks digest and the collector's settings. It names the
file, which is used only when it says the same of itself, its checksum holds and its tokens are those of the blocks;
what is not used is computed again. While it is computed, finished stretches of blocks are saved as parts, of which the
same holds, so that a killed run goes on where the last part ends.
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
    Collection,
    TokenStats,
    Unusable,
    check_stats,
    concatenate,
    load_arrays,
    load_collection,
    make_collection,
    same_tokens,
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

NAMED_SINCE = "collection-2"
"""The schema that files took their names from: one of that version is met, not used, and said."""

OpenBar = Callable[[int], AbstractContextManager[Bar]]
"""Opens a progress bar, given how much is still to do: tokens to score, of generations turns to write."""


Say = Callable[[str], None]
"""Takes a line for the user: why what was saved is not used."""


def no_bar(_: int) -> AbstractContextManager[Bar]:
    return nullcontext(Bar())


@dataclass(frozen=True)
class Failure:
    """Why a collection could not be made, so that a session does not try each of them again for every case. `key` is
    the collection's."""

    session: str
    key: str
    reason: str


@dataclass(frozen=True)
class Request:
    """One collection: this model on these blocks with this collector.

    `replicate` is empty for the collection that verdicts read; a name ("rerun") makes it a fresh measurement of the
    same content, for the noise floor. `vocab_size`, where it is known, bounds the ids of the top 20.
    """

    checkpoint_digest: str
    blocks: Blocks
    collector: Collector
    replicate: str = ""
    vocab_size: int | None = None

    def meta(self) -> dict[str, Any]:
        """What a collection says of itself."""
        return {
            "checkpoint": self.checkpoint_digest,
            "blocks": self.blocks.digest,
            "settings": self.collector.settings(),
            "replicate": self.replicate,
        }

    @property
    def key(self) -> str:
        return sha256_json({"schema": NAMED_SINCE, **self.meta()})

    def check(self, stats: TokenStats, blocks: slice = slice(None)) -> None:
        """Raises UserError for statistics of a range of the blocks that no sound model can have."""
        scored_BS = self.blocks.scored_BS
        where = f"pack {self.blocks.pack}, seq_len {self.blocks.seq_len}"
        if blocks != slice(None):
            where += f", blocks {blocks.start} to {blocks.stop - 1}"
        check_stats(stats, int(scored_BS[blocks].sum()), where=where, vocab_size=self.vocab_size)


class CollectionStore:
    """Collections under one directory. `session` names a run: a failure is final within its run, not beyond it."""

    def __init__(self, root: Path, *, session: str, say: Say = lambda _: None) -> None:
        self._root, self._session, self._say = root, session, say

    def path(self, request: Request) -> Path:
        return self._root / f"{request.key[:32]}.safetensors"

    def get(self, request: Request, *, open_bar: OpenBar = no_bar) -> Collection:
        """The collection, from disk or computed now; a second process asking for it waits for the first.

        Raises UserError when it cannot be computed, with the same message for everybody who asks in this session.
        """
        path = self.path(request)
        with suppress(Unusable):
            if path.exists():
                return _load(path, request)
        self._root.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            try:
                if path.exists():
                    return _load(path, request)
            except Unusable as error:
                self._say(f"{path} is not used but collected again: {error.reason}")
            self._raise_known_failure(path, request)
            try:
                return self._compute(request, path, open_bar)
            except UserError as error:
                with suppress(OSError):  # a full disk takes no record either
                    write_model(path.with_suffix(".failed.json"), Failure(self._session, request.key, str(error)))
                raise

    def _raise_known_failure(self, path: Path, request: Request) -> None:
        failed = path.with_suffix(".failed.json")
        if failed.exists():
            try:
                failure = read_model(failed, Failure, what="failure record", remedy="remove it")
            except UserError:
                failure = Failure(session="", key="", reason="")  # damaged, or of an earlier version
            if (failure.session, failure.key) == (self._session, request.key):
                raise UserError(failure.reason)
            failed.unlink()

    def _compute(self, request: Request, path: Path, open_bar: OpenBar) -> Collection:
        blocks, parts_dir = request.blocks, path.with_suffix(".parts")
        parts, first_block = self._finished_parts(parts_dir, request)
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
                    file = parts_dir / f"{held.start:08d}-{held.stop:08d}.safetensors"
                    save_stats(file, parts[-1], {}, {**request.meta(), "begin": held.start, "end": held.stop})
        stats = concatenate(parts)
        request.check(stats)
        speed = {"seconds": time.perf_counter() - started, "tokens": tokens}
        collection = make_collection(stats, blocks, {**request.meta(), "speed": speed})
        save_collection(path, collection)
        shutil.rmtree(parts_dir, ignore_errors=True)
        return collection

    def _finished_parts(self, directory: Path, request: Request) -> tuple[list[TokenStats], int]:
        """Saved parts that follow each other from block 0, and the first block that none of them holds.

        The first part that is damaged, of something else or does not follow is removed with all later ones.
        """
        parts: list[TokenStats] = []
        next_block = 0
        paths = sorted(path for path in directory.glob("*.safetensors") if path.is_file())
        for place, path in enumerate(paths):
            try:
                part, end = _load_part(path, request, next_block)
            except Unusable as error:
                self._say(f"{path} is not used but collected again: {error.reason}")
                for stale in paths[place:]:
                    stale.unlink()
                break
            parts.append(part)
            next_block = end
        return parts, next_block


def _load(path: Path, request: Request) -> Collection:
    """Raises Unusable when the file is damaged or of something else than the request."""
    saved = load_collection(path, request.meta(), vocab_size=request.vocab_size)
    collection = make_collection(saved.stats, request.blocks, saved.meta)
    if not same_tokens(saved, collection):
        raise Unusable(path, "its tokens are not those of the blocks")
    return collection


def _load_part(path: Path, request: Request, begin: int) -> tuple[TokenStats, int]:
    """A part that begins with block `begin`, and where it ends. Raises Unusable when it is none."""
    stats, _, meta = load_arrays(path, {**request.meta(), "begin": begin})
    end = meta.get("end")
    if not (isinstance(end, int) and begin < end <= request.blocks.num_blocks):
        raise Unusable(path, "it does not say where it ends")
    try:
        request.check(stats, slice(begin, end))
    except UserError as error:
        raise Unusable(path, str(error)) from None
    return stats, end


def _checked(request: Request, first_block: int) -> Iterator[tuple[int, TokenStats]]:
    """The collector's batches. Raises UserError for one that no sound model can have."""
    start = first_block
    for count, stats in request.collector.batches(request.blocks, first_block):
        request.check(stats, slice(start, start + count))
        yield count, stats
        start += count
