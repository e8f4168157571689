"""Writing over HTTP: a conversation is a question, and the server batches by itself.

A server stops at each token that may end a turn. Where the turn goes on (reasoning that was closed), it is asked again,
for what follows.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from eaftgate import __version__
from eaftgate.collect.servers.endpoint import IDLE_SECONDS, RETRY_SECONDS, SLOWEST, EndpointCollector
from eaftgate.collect.servers.exchange import Bounds, ask
from eaftgate.packs.turns import Ending, IntArray

PLACES = 64
"""Conversations that a server writes at a time."""


class EndpointWriter:
    """See `writer.Writer`. `collector` is the server's, which knows what it serves."""

    def __init__(self, collector: EndpointCollector) -> None:
        self._endpoint = collector

    def settings(self) -> dict[str, Any]:
        return {
            "writer": f"{self._endpoint.dialect.name}-endpoint",
            "eaftgate": __version__,
            **self._endpoint.server,
        }

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
        dialect, place = self._endpoint.dialect, self._endpoint.place
        while len(written) < max_tokens and not ending.ends(written):
            left = max_tokens - len(written)
            path, question = dialect.writing([*prompt, *written], ending, left)
            seconds = IDLE_SECONDS + PLACES * (len(prompt) + max_tokens) / SLOWEST
            # Nothing is said until all of it is written.
            bounds = Bounds(idle=seconds, total=seconds, nbytes=(1 << 20) + dialect.token_bytes * left)
            answer = ask(place, path, question, bounds=bounds, waits=RETRY_SECONDS)
            written += dialect.written(answer, max_tokens=left, vocab_size=self._endpoint.vocab_size, where=place.url)
        return written
