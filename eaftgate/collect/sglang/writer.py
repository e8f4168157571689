"""Writing by SGLang, as an engine or a server: a conversation is a request, and the engine batches by itself.

An engine stops at each token that may end a turn. Where the turn goes on (reasoning that was closed), it is asked
again, for what follows; it still has the keys and values of what it wrote.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import count
from pathlib import Path
from typing import Any

from eaftgate import __version__
from eaftgate.collect.collector import ScoredModel
from eaftgate.collect.sglang import spool
from eaftgate.collect.sglang.answers import tokens_of_answer
from eaftgate.collect.sglang.collector import SHARED_MEMORY, Engines, software
from eaftgate.collect.sglang.endpoint import IDLE_SECONDS, RETRY_SECONDS, SLOWEST, EndpointCollector
from eaftgate.collect.sglang.exchange import Bounds, ask
from eaftgate.errors import UserError
from eaftgate.packs.turns import Ending, IntArray

PLACES = 64
"""Conversations that an engine writes at a time."""
TOKEN_BYTES = 24
"""Of a written token in an answer: its id, and its text where the server has a tokenizer."""


def sampling(ending: Ending, max_tokens: int) -> dict[str, Any]:
    """SGLang's parameters of a greedy request."""
    return {"temperature": 0, "max_new_tokens": max_tokens, "stop_token_ids": sorted(ending.ids)}


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


class EndpointWriter:
    """See `writer.Writer`. `collector` is the server's, which knows what it serves."""

    def __init__(self, collector: EndpointCollector) -> None:
        self._endpoint = collector

    def settings(self) -> dict[str, Any]:
        return {"writer": "sglang-endpoint", "eaftgate": __version__, **self._endpoint.server}

    def write(self, prompts: Sequence[IntArray], *, ending: Ending, max_tokens: int) -> Iterator[tuple[int, list[int]]]:
        waiting = iter(sorted(range(len(prompts)), key=lambda number: -len(prompts[number])))
        left = len(prompts)
        with ThreadPoolExecutor(PLACES) as pool:
            pending: dict[Future[list[int]], int] = {}
            try:
                while left:
                    while len(pending) < PLACES and (number := next(waiting, None)) is not None:
                        pending[pool.submit(self._turn, prompts[number].tolist(), ending, max_tokens)] = number
                    done, _ = wait(pending, return_when=FIRST_COMPLETED)
                    self._endpoint.check_served(last=len(done) == left)
                    for future in done:
                        left -= 1
                        yield pending.pop(future), future.result()
            finally:
                for future in pending:
                    future.cancel()

    def _turn(self, prompt: list[int], ending: Ending, max_tokens: int) -> list[int]:
        written: list[int] = []
        while len(written) < max_tokens and not ending.ends(written):
            left = max_tokens - len(written)
            question = {"input_ids": [*prompt, *written], "sampling_params": sampling(ending, left)}
            seconds = IDLE_SECONDS + PLACES * (len(prompt) + max_tokens) / SLOWEST
            # Nothing is said until all of it is written.
            bounds = Bounds(idle=seconds, total=seconds, nbytes=(1 << 20) + TOKEN_BYTES * left)
            place = self._endpoint.place
            answer = ask(place, "/generate", question, bounds=bounds, waits=RETRY_SECONDS)
            written += tokens_of_answer(answer, max_tokens=left, vocab_size=self._endpoint.vocab_size, where=place.url)
        return written
