"""Generations on disk: written once per content, shared between processes, resumed after a kill.

As collections are (collect.store): the key is the sha256 of the checkpoint's digest, the turns' and the writer's
settings, it names the file, and the file is used only when it says the same of itself. Turns end in any order, so that
a part holds the numbers of those that have ended; after a kill the others are asked for again, in other batches.
"""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from eaftgate.collect.store import OpenBar, Say, no_bar
from eaftgate.collect.writer import Writer
from eaftgate.errors import UserError
from eaftgate.files import sha256_json, write_failure
from eaftgate.generate.generations import (
    SCHEMA,
    WHAT,
    Generations,
    Written,
    asked_of,
    load_generations,
    save_generations,
    written_as,
)
from eaftgate.packs.turns import ChosenTurns, Ending
from eaftgate.records import Unusable, json_of, read_sealed, write_model

PART_SECONDS = 20.0
"""At most this much work is lost to a kill."""


@dataclass(frozen=True)
class Request:
    """What this model writes for these turns with this writer. `replicate` names a repetition; `vocab_size` bounds
    tokens."""

    checkpoint_digest: str
    chosen: ChosenTurns
    writer: Writer
    ending: Ending
    max_tokens: int
    vocab_size: int
    replicate: str = ""

    def of(self) -> dict[str, Any]:
        """What a file says of itself."""
        return {
            "schema": SCHEMA,
            "checkpoint": self.checkpoint_digest,
            "turns": self.chosen.digest,
            "settings": self.writer.settings(),
            "max_tokens": self.max_tokens,
            "replicate": self.replicate,
        }

    @property
    def key(self) -> str:
        return sha256_json(self.of())

    def problem(self, written: Written) -> str:
        """Why no model can have written this; empty when one can."""
        tokens = list(written.tokens)
        if not 0 < len(tokens) <= self.max_tokens:
            return f"{len(tokens)} tokens were written where {self.max_tokens} were allowed"
        if not all(0 <= token < self.vocab_size for token in tokens):
            return f"a token is none of the {self.vocab_size}"
        if written != written_as(tokens, self.ending):
            return "a text is not that of its tokens"
        if not written.ended and len(tokens) < self.max_tokens:
            return f"a turn stopped after {len(tokens)} tokens without an end"
        return ""


@dataclass(frozen=True)
class _Part:
    of: dict[str, Any]
    numbers: tuple[int, ...]
    written: tuple[Written, ...]


class GenerationStore:
    """Generations under one directory."""

    def __init__(self, root: Path, *, say: Say = lambda _: None) -> None:
        self._root, self._say = root, say

    def path(self, request: Request) -> Path:
        return self._root / f"{request.key[:32]}.json"

    def get(self, request: Request, *, open_bar: OpenBar = no_bar) -> Generations:
        """From disk, or written now; a second process asking for them waits for the first. Raises UserError when they
        cannot be written."""
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
                self._say(f"{path} is not used but written again: {error.reason}")
            try:
                return self._write(request, path, open_bar)
            except OSError as error:
                raise write_failure(error, path) from None

    def _write(self, request: Request, path: Path, open_bar: OpenBar) -> Generations:
        parts_dir = path.with_suffix(".parts")
        done = self._finished_parts(parts_dir, request)
        left = [number for number in range(len(request.chosen)) if number not in done]
        fresh: dict[int, Written] = {}
        tokens = 0
        started = put_away = time.perf_counter()
        with open_bar(len(left)) as bar:
            prompts = [request.chosen.prompts[number] for number in left]
            answers = request.writer.write(prompts, ending=request.ending, max_tokens=request.max_tokens)
            for place, ids in answers:
                found = written_as(ids, request.ending)
                if problem := request.problem(found):
                    raise UserError(f"pack {request.chosen.pack}: {problem}; the model or its engine is broken")
                fresh[left[place]] = found
                tokens += len(ids)
                bar.advance(1)
                if time.perf_counter() - put_away > PART_SECONDS and len(done) + len(fresh) < len(request.chosen):
                    part = _Part(request.of(), tuple(fresh), tuple(fresh.values()))
                    # No other part has this turn, so none is written over, whichever were damaged and are gone.
                    write_model(parts_dir / f"{part.numbers[0]:06d}.json", part, sealed=True)
                    done |= fresh
                    fresh, put_away = {}, time.perf_counter()
        done |= fresh
        if missing := [number for number in range(len(request.chosen)) if number not in done]:
            raise UserError(f"pack {request.chosen.pack}: turn {missing[0]} was not written; its engine is broken")
        tools, asked = asked_of(request.chosen)
        generations = Generations(
            **request.of(),
            pack=request.chosen.pack,
            too_long=request.chosen.too_long,
            tools=tools,
            asked=asked,
            written=tuple(done[number] for number in range(len(request.chosen))),
            seconds=time.perf_counter() - started,
            seconds_tokens=tokens,
        )
        save_generations(path, generations)
        shutil.rmtree(parts_dir, ignore_errors=True)
        return generations

    def _finished_parts(self, directory: Path, request: Request) -> dict[int, Written]:
        """Turns that were saved before a kill. A part that is damaged or of something else is removed."""
        done: dict[int, Written] = {}
        for path in sorted(path for path in directory.glob("*.json") if path.is_file()):
            try:
                part = _load_part(path, request)
            except Unusable as error:
                self._say(f"{path} is not used but written again: {error.reason}")
                path.unlink()
                continue
            done |= dict(zip(part.numbers, part.written, strict=True))
        return done


def _load(path: Path, request: Request) -> Generations:
    """Raises Unusable when the file is damaged or of something else than the request."""
    found = load_generations(path, request.of())
    if (found.tools, found.asked) != asked_of(request.chosen):
        raise Unusable(path, "its turns are not those that are asked for", what=WHAT)
    for written in found.written:
        if problem := request.problem(written):
            raise Unusable(path, problem, what=WHAT)
    return found


def _load_part(path: Path, request: Request) -> _Part:
    part = read_sealed(path, _Part, {}, what=WHAT)
    if part.of != json_of(request.of()):
        raise Unusable(path, "it is of other turns", what=WHAT)
    if len(part.numbers) != len(part.written) or not set(part.numbers) <= set(range(len(request.chosen))):
        raise Unusable(path, "its turns are not those that are asked for", what=WHAT)
    for written in part.written:
        if problem := request.problem(written):
            raise Unusable(path, problem, what=WHAT)
    return part
