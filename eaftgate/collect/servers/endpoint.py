"""Scoring over HTTP with a server or router that somebody else runs: how users scale out."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eaftgate import __version__
from eaftgate.collect.collection import TOP_K, TokenStats, concatenate
from eaftgate.collect.collector import Said, ScoredModel
from eaftgate.collect.servers.dialect import DESCRIBING, Dialect
from eaftgate.collect.servers.exchange import Bounds, ask, place_of
from eaftgate.collect.servers.sglang import SGLANG
from eaftgate.collect.sglang.collector import vocab_size_of
from eaftgate.collect.sglang.engine import DEQUANTISING
from eaftgate.errors import UserError
from eaftgate.packs.blocks import Blocks
from eaftgate.strict_json import shown

if TYPE_CHECKING:
    from eaftgate.collect.servers.writer import EndpointWriter

CALL_TOKENS = 1 << 14
OTHER_BATCHES = 8
"""The noise floor sends that part of them at a time."""
IN_FLIGHT = 4
RETRY_SECONDS = (1.0, 4.0, 16.0)
IDLE_SECONDS = 600.0
"""A server says nothing while a question waits and is computed."""
SLOWEST = 100
"""Tokens a second that a server must manage, of those in flight."""
ANY_TOKEN = 1 << 31
"""A model may have more tokens than its tokenizer."""


def bounds_of(num_tokens: int, entry_bytes: int) -> Bounds:
    """What an answer about so many tokens can take and can hold."""
    return Bounds(
        idle=IDLE_SECONDS,
        total=IDLE_SECONDS + IN_FLIGHT * num_tokens / SLOWEST,
        nbytes=(1 << 20) + entry_bytes * (1 + TOP_K) * num_tokens,
    )


def endpoint_for(urls: Sequence[str], path: Path, name: str) -> str:
    """The one of `urls`, SGLang's, that serves the checkpoint at `path`, also known as `name`. Raises UserError when
    none does."""
    served = {url: str(SGLANG.model(place_of(url))["model_path"]) for url in urls}
    for url, model in served.items():
        if model == name or _is_directory(model, path):
            return url
    found = ", ".join(f"{url} serves {model}" for url, model in served.items())
    raise UserError(f"no --endpoint serves {name} ({found}): start one, and pass its URL too")


def _is_directory(model: str, path: Path) -> bool:
    try:
        return Path(model).samefile(path)
    except (OSError, ValueError):  # of no such file, or of what can be none
        return False


class Servers:
    """A Scorer: of the servers at `urls`, each serves one model, which may be known by its server's URL alone."""

    def __init__(self, urls: Sequence[str], dialect: Dialect = SGLANG) -> None:
        self._urls, self._dialect = urls, dialect

    def collector(self, model: ScoredModel, *, other_batches: bool = False) -> "EndpointCollector":
        """A server batches by itself; handed less at a time, it makes other batches."""
        calls = CALL_TOKENS // (OTHER_BATCHES if other_batches else 1)
        if model.vocab_size is not None:
            return EndpointCollector(
                model.source,
                is_mxfp4=False,
                vocab_size=model.vocab_size,
                call_tokens=calls,
                is_here=False,
                dialect=self._dialect,
            )
        url = endpoint_for(self._urls, model.path, model.source)
        return EndpointCollector(url, is_mxfp4=model.is_mxfp4, vocab_size=vocab_size_of(model.path), call_tokens=calls)

    def writer(self, model: ScoredModel) -> "EndpointWriter":
        from eaftgate.collect.servers.writer import EndpointWriter

        return EndpointWriter(self.collector(model))

    def said(self, url: str, *, patient: bool = False) -> Said:
        """See `collector.ServingScorer`."""
        place, dialect = place_of(url), self._dialect
        waits = RETRY_SECONDS if patient else ()
        model = dialect.model(place, waits=waits)
        named = {"engine": dialect.engine, "model": model.pop(next(iter(model)))}
        return {**named, **model, **dialect.settings(place, waits=waits), **dialect.start(place, waits=waits)}

    def tokens(self, url: str, text: str) -> list[int] | None:
        """See `collector.ServingScorer`."""
        question = {"prompt": text, "add_special_tokens": False}
        with suppress(UserError):
            answer = ask(place_of(url), "/tokenize", question, bounds=DESCRIBING)
            found = answer.get("tokens") if isinstance(answer, dict) else None
            if isinstance(found, list) and set(map(type, found)) <= {int}:
                return found
        return None

    def close(self) -> None:
        """They are not ours to end."""


class EndpointCollector:
    """`call_tokens` are sent at a time. `is_here`: the model is at hand, and `vocab_size` its own; else that of its
    tokenizer, and the server must not be started again while it is asked."""

    def __init__(
        self,
        url: str,
        *,
        is_mxfp4: bool,
        vocab_size: int,
        call_tokens: int = CALL_TOKENS,
        is_here: bool = True,
        dialect: Dialect = SGLANG,
    ) -> None:
        self.place, self.dialect, self._call_tokens = place_of(url), dialect, call_tokens
        self._vocab_size, self.vocab_size = vocab_size, vocab_size if is_here else ANY_TOKEN
        self._served, self.server = dialect.model(self.place), dialect.settings(self.place)
        self._start = {} if is_here else dialect.start(self.place)
        if is_mxfp4 and self.server["moe_runner_backend"] in DEQUANTISING:
            raise UserError(f"{url} dequantises MXFP4 experts: start it with another --moe-runner-backend")

    def settings(self) -> dict[str, Any]:
        return {
            "collector": f"{self.dialect.name}-endpoint",
            "eaftgate": __version__,
            "call_tokens": self._call_tokens,
            **self.server,
        }

    def batches(self, blocks: Blocks, first_block: int) -> Iterator[tuple[int, TokenStats]]:
        size = max(1, self._call_tokens // blocks.seq_len)
        starts = list(range(first_block, blocks.num_blocks, size))
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            pending: list[Future[TokenStats]] = []
            try:
                for place, start in enumerate(starts):
                    while len(pending) < min(place + IN_FLIGHT, len(starts)):
                        pending.append(pool.submit(self._score, blocks, starts[len(pending)], size))
                    stats = pending[place].result()
                    self.check_served(last=place == len(starts) - 1)
                    yield min(size, blocks.num_blocks - start), stats
            finally:
                for future in pending:
                    future.cancel()

    def check_served(self, *, last: bool) -> None:
        """Raises UserError when the server has another model than at first: before what it answered is kept."""
        was, now = dict(self._served), self.dialect.model(self.place, waits=RETRY_SECONDS)
        if last:
            was |= self.server | self._start
            now |= self.dialect.settings(self.place, waits=RETRY_SECONDS)
            now |= self.dialect.start(self.place, waits=RETRY_SECONDS) if self._start else {}
        for key in was:
            if was[key] != now[key]:
                raise UserError(
                    f"{self.place.url} was changed while it was asked ({key} was {shown(was[key])} and is "
                    f"{shown(now[key])}): let it serve one model, and run again"
                )

    def _score(self, blocks: Blocks, start: int, size: int) -> TokenStats:
        chosen = np.s_[start : min(start + size, blocks.num_blocks)]
        token_ids_BS, scored_BS = blocks.token_ids_BS[chosen], blocks.scored_BS[chosen]
        path, question = self.dialect.scoring(token_ids_BS)
        bounds = bounds_of(token_ids_BS.size, self.dialect.entry_bytes)
        answers = self.dialect.each(ask(self.place, path, question, bounds=bounds, waits=RETRY_SECONDS))
        if answers is None or len(answers) != len(token_ids_BS):
            raise UserError(
                f"{self.place.url} did not answer every block: its version of {self.dialect.engine} may not suit"
            )
        return concatenate(
            [
                self.dialect.stats(
                    answer,
                    ids_S,
                    scored_S,
                    vocab_size=self._vocab_size,
                    largest=self.vocab_size,
                    where=f"{self.place.url}, block {block}",
                )
                for block, (answer, ids_S, scored_S) in enumerate(
                    zip(answers, token_ids_BS, scored_BS, strict=True), start
                )
            ]
        )
