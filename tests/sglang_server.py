"""A server on this machine that answers in SGLang's form, or in vLLM's, sometimes late, sometimes not at all, or lies.

Its log-probabilities depend on the token before and on the place, and on nothing else: whatever model it is said to
serve.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax


def logprobs_after(token: int, place: int, vocabulary: int, weights: int = 0) -> NDArray[np.float64]:
    """`weights` other than 0 make another model, which is a little worse at what this one is sure of."""
    logits = np.random.default_rng([token, place]).normal(0, 3, vocabulary)
    if weights:
        logits += np.random.default_rng([weights, token, place]).normal(0, 0.1, vocabulary)
    logprobs: NDArray[np.float64] = log_softmax(logits)
    return logprobs


def answer(ids: list[int], vocabulary: int, weights: int = 0) -> dict[str, Any]:
    """What an SGLang server says of a prompt with logprob_start_len 0 and top_logprobs_num 20; like SGLang it reports
    the last id of the vocabulary as 0."""

    def reported(token: int) -> int:
        return token if token < vocabulary - 1 else 0

    given: list[Any] = [[None, reported(ids[0]), None]]
    tops: list[Any] = [None]
    for place in range(1, len(ids)):
        logprobs = logprobs_after(ids[place - 1], place, vocabulary, weights)
        given.append([float(logprobs[ids[place]]), reported(ids[place]), None])
        tops.append([[float(logprobs[i]), int(i), None] for i in np.argsort(-logprobs)[:20]])
    return {"text": "", "meta_info": {"input_token_logprobs": given, "input_top_logprobs": tops}}


def written(ids: list[int], sampling: dict[str, Any], vocabulary: int, weights: int = 0) -> dict[str, Any]:
    """What an SGLang server writes after a prompt, greedily."""
    text = list(ids)
    finish: dict[str, Any] = {"type": "length", "length": sampling["max_new_tokens"]}
    while len(text) - len(ids) < sampling["max_new_tokens"]:
        text.append(int(logprobs_after(text[-1], len(text), vocabulary, weights).argmax()))
        if text[-1] in sampling["stop_token_ids"]:
            finish = {"type": "stop", "matched": text[-1]}
            break
    return {"text": "", "output_ids": text[len(ids) :], "meta_info": {"finish_reason": finish}}


def completions(question: dict[str, Any], vocabulary: int, weights: int = 0) -> dict[str, Any]:
    """What a vLLM server says on /v1/completions, to a list of prompts that is to be scored, or to one prompt that is
    to be gone on with. The token itself comes first, and is one of the top 20 or one more."""
    if "prompt_logprobs" not in question:
        sampling = {"max_new_tokens": question["max_tokens"], "stop_token_ids": question["stop_token_ids"]}
        text = written(question["prompt"], sampling, vocabulary, weights)
        finish = text["meta_info"]["finish_reason"]
        choice = {
            "finish_reason": finish["type"],
            "stop_reason": finish.get("matched"),
            "token_ids": text["output_ids"],
        }
        return {"choices": [{"index": 0, **choice}]}
    assert (question["prompt_logprobs"], question["max_tokens"]) == (20, 1)
    choices = []
    for number, ids in enumerate(question["prompt"]):
        entries: list[Any] = [None]
        for place in range(1, len(ids)):
            logprobs = logprobs_after(ids[place - 1], place, vocabulary, weights)
            best = np.argsort(-logprobs)
            named = (ids[place], *map(int, best[:20]))
            entries.append({str(t): {"logprob": float(logprobs[t]), "decoded_token": "x"} for t in named})
        choices.append({"index": number, "prompt_logprobs": entries, "prompt_token_ids": ids, "token_ids": [0]})
    return {"choices": choices}


@dataclass
class Server:
    url: str = ""
    failures: list[int | None] = field(default_factory=list)
    """Before the next answers: a status to fail with, or None to drop the connection."""
    backend: str = "triton_kernel"
    asked: int = 0
    model: str = ""
    weights: int = 0
    """Of the model that it has, whatever it says."""
    seed: int = 0
    """What it says that it has drawn when it was started."""
    tokenise: Callable[[str], list[int]] | None = None
    """As its tokenizer does, if it tells."""
    lie: Callable[[Any], Any] | None = None
    """Makes other answers of what would be answered."""
    instead: Callable[[BaseHTTPRequestHandler], None] | None = None
    """Answers in the place of an answer."""
    at: Callable[[int], None] = lambda _: None
    """Gets the number of a question when it comes, before it is answered: what it changes holds for those after it."""
    arriving: threading.Lock = field(default_factory=threading.Lock)
    """Questions come at once, on connections of their own, and are numbered one after the other."""


@contextmanager
def serving(model: str, vocabulary: int) -> Iterator[Server]:
    state = Server(model=model)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._send(200, f"# HELP\nprocess_start_time_seconds 1.{state.seed}e+09\n".encode())
                return
            if self.path == "/v1/models":
                self._say(200, {"data": [{"id": "served", "root": state.model, "max_model_len": 4096}]})
                return
            described = {"model_path": state.model, "version": "0.5.16", "moe_runner_backend": state.backend}
            self._say(200, {**described, "random_seed": state.seed})

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize":
                assert question["add_special_tokens"] is False
                told = None if state.tokenise is None else {"tokens": state.tokenise(question["prompt"])}
                self._say(404 if told is None else 200, told)
                return
            with state.arriving:
                state.asked += 1
                status = state.failures.pop(0) if state.failures else 200
                instead = state.instead
                state.at(state.asked)
            if status is None:
                self.close_connection = True
                return
            if status != 200:
                self._say(status, {})
                return
            if instead is not None:
                instead(self)
                return
            answers: Any
            if self.path == "/v1/completions":
                answers = completions(question, vocabulary, state.weights)
            elif question["sampling_params"]["max_new_tokens"]:
                answers = written(question["input_ids"], question["sampling_params"], vocabulary, state.weights)
            else:
                assert (question["logprob_start_len"], question["top_logprobs_num"]) == (0, 20)
                answers = [answer(ids, vocabulary, state.weights) for ids in question["input_ids"]]
            self._say(200, answers if state.lie is None else state.lie(answers))

        def _say(self, status: int, value: Any) -> None:
            self._send(status, re.sub(r'"RAW(.*?)"', r"\1", json.dumps(value)).encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that has seen enough goes away."""

    httpd = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.005,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    try:
        yield state
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
