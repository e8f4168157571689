"""Scoring over HTTP with an SGLang server or router that somebody else runs: how users scale out."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from eaftgate import __version__
from eaftgate.collect.collection import TOP_K, TokenStats, concatenate
from eaftgate.collect.collector import ScoredModel
from eaftgate.collect.sglang.answers import stats_of_answer
from eaftgate.collect.sglang.engine import DEQUANTISING
from eaftgate.errors import UserError
from eaftgate.packs.blocks import Blocks

CALL_TOKENS = 1 << 14
OTHER_BATCHES = 8
"""The noise floor sends that part of them at a time."""
IN_FLIGHT = 4
RETRY_SECONDS = (1.0, 4.0, 16.0)
TIMEOUT_SECONDS = 600.0
RECORDED = ("version", "moe_runner_backend", "attention_backend", "dtype", "quantization", "tp_size", "dp_size")
"""What of the server's own description decides the numbers."""


def endpoint_for(urls: Sequence[str], path: Path, name: str) -> str:
    """The one of `urls` that serves the checkpoint at `path`, also known as `name`. Raises UserError when none does."""
    served = {url: str(get_json(url, "/model_info").get("model_path")) for url in urls}
    for url, model in served.items():
        if model == name or (Path(model).exists() and Path(model).resolve() == path.resolve()):
            return url
    found = ", ".join(f"{url} serves {model}" for url, model in served.items())
    raise UserError(f"no --endpoint serves {name} ({found}): start one, and pass its URL too")


class Servers:
    """A Scorer: of the servers at `urls`, each serves one model."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls

    def collector(self, model: ScoredModel, *, other_batches: bool = False) -> "EndpointCollector":
        """A server batches by itself; handed less at a time, it makes other batches."""
        calls = CALL_TOKENS // (OTHER_BATCHES if other_batches else 1)
        url = endpoint_for(self._urls, model.path, model.source)
        return EndpointCollector(url, is_mxfp4=model.is_mxfp4, call_tokens=calls)

    def close(self) -> None:
        """They are not ours to end."""


class EndpointCollector:
    """`call_tokens` are sent at a time."""

    def __init__(self, url: str, *, is_mxfp4: bool, call_tokens: int = CALL_TOKENS) -> None:
        self._url, self._call_tokens = url.rstrip("/"), call_tokens
        self._server = {key: get_json(url, "/server_info").get(key) for key in RECORDED}
        if is_mxfp4 and self._server["moe_runner_backend"] in DEQUANTISING:
            raise UserError(f"{url} dequantises MXFP4 experts: start it with another --moe-runner-backend")

    def settings(self) -> dict[str, Any]:
        return {
            "collector": "sglang-endpoint",
            "eaftgate": __version__,
            "call_tokens": self._call_tokens,
            **self._server,
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
                    yield min(size, blocks.num_blocks - start), pending[place].result()
            finally:
                for future in pending:
                    future.cancel()

    def _score(self, blocks: Blocks, start: int, size: int) -> TokenStats:
        chosen = np.s_[start : min(start + size, blocks.num_blocks)]
        token_ids_BS, scored_BS = blocks.token_ids_BS[chosen], blocks.scored_BS[chosen]
        question = {
            "input_ids": token_ids_BS.tolist(),
            "sampling_params": {"temperature": 0, "max_new_tokens": 0},
            "return_logprob": True,
            "logprob_start_len": 0,
            "top_logprobs_num": TOP_K,
        }
        answers = post_json(f"{self._url}/generate", question)
        if not isinstance(answers, list) or len(answers) != len(token_ids_BS):
            raise UserError(f"{self._url} did not answer every block: its version of SGLang may not suit")
        return concatenate(
            [
                stats_of_answer(answer["meta_info"], ids_S, scored_S)
                for answer, ids_S, scored_S in zip(answers, token_ids_BS, scored_BS, strict=True)
            ]
        )


def post_json(url: str, question: dict[str, Any]) -> Any:
    """Asked again after a dropped connection or an overloaded server; the answer is the same."""
    body = json.dumps(question).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    for wait in (*RETRY_SECONDS, None):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                return json.load(response)
        except (OSError, HTTPException, ValueError) as error:
            reason, refused = str(error), isinstance(error, urllib.error.HTTPError) and error.code < 500
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it is the response, too
        if wait is None or refused:
            raise UserError(f"{url} does not answer ({reason}): see the server's log")
        time.sleep(wait)
    raise AssertionError("unreachable")


def get_json(url: str, path: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}{path}", timeout=30.0) as response:
            found = json.load(response)
        return dict(found)
    except (OSError, HTTPException, ValueError, TypeError) as error:
        raise UserError(f"--endpoint {url} does not answer ({error}): is an SGLang server running there?") from None
