"""Writing by an SGLang engine: a conversation is a request, and the engine batches by itself.

An engine stops at each token that may end a turn. Where the turn goes on (reasoning that was closed), it is asked
again, for what follows; it still has the keys and values of what it wrote.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from eaftgate.collect.collector import ScoredModel
from eaftgate.collect.servers.answers import tokens_of_answer
from eaftgate.collect.servers.sglang import sampling
from eaftgate.collect.sglang import spool
from eaftgate.collect.sglang.collector import SHARED_MEMORY, Engines, software
from eaftgate.errors import UserError
from eaftgate.packs.turns import Ending, IntArray

PLACES = 64
"""Conversations that an engine writes at a time."""


class SglangWriter:
    """See `writer.Writer`. The engine is one of its own: one that scores has no CUDA graphs and keeps nothing."""

    def __init__(self, engines: Engines, model: ScoredModel, *, vocab_size: int) -> None:
        self._engines, self._model, self._vocab_size = engines, model, vocab_size

    def settings(self) -> dict[str, Any]:
        return {"writer": "sglang", **software(), **self._engines.options.writing_arguments(PLACES)}

    def write(self, prompts: Sequence[IntArray], *, ending: Ending, max_tokens: int) -> Iterator[tuple[int, list[int]]]:
        engine = self._engines.engine_of(self._model, places=PLACES)
        root = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        # Its name lacks the mark of what is scored.
        directory = Path(tempfile.mkdtemp(prefix="eaftgate-writing-", dir=root))
        waiting = iter(sorted(range(len(prompts)), key=lambda number: -len(prompts[number])))
        written: dict[int, list[int]] = {}
        files = count()
        unanswered: set[int] = set()

        def submit(number: int) -> None:
            so_far = written[number]
            tokens = directory / f"{next(files):09d}"
            spool.write_tokens(tokens, [*prompts[number].tolist(), *so_far])
            engine.write(number, str(tokens), sampling(ending, max_tokens - len(so_far)))
            unanswered.add(number)

        try:
            while True:
                while len(written) < 2 * PLACES and (number := next(waiting, None)) is not None:
                    written[number] = []
                    submit(number)
                if not written:
                    return
                number, answer = engine.wait_written()
                unanswered.remove(number)
                text = written[number]
                text += tokens_of_answer(
                    answer, max_tokens=max_tokens - len(text), vocab_size=self._vocab_size, where="SGLang's engine"
                )
                if ending.ends(text) or len(text) == max_tokens:
                    yield number, written.pop(number)
                else:
                    submit(number)
        finally:
            try:
                for _ in unanswered:  # an abandoned run leaves the engine usable
                    engine.wait_written()
            except UserError:
                self._engines.forget()
            shutil.rmtree(directory, ignore_errors=True)
