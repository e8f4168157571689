"""vLLM's OpenAI server: /v1/completions with token ids and prompt_logprobs.

Of a prompt of S tokens it says S entries: nothing of the first, and of each other an object of log-probabilities by
token id, the top 20 and the token itself, which is one of them or one more (vLLM 0.32, v1/engine/logprobs).

Shapes: S tokens of a block, T scored tokens, K alternatives.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eaftgate.collect.collection import TOP_K, TokenStats
from eaftgate.collect.collector import Said
from eaftgate.collect.servers.answers import (
    UNREADABLE,
    checked_stats,
    ids_of,
    logprobs_of,
    tokens_of_answer,
    unreadable,
)
from eaftgate.collect.servers.dialect import DESCRIBING, Question, described, plain_values
from eaftgate.collect.servers.exchange import Place, ask, ask_text
from eaftgate.errors import UserError
from eaftgate.packs.turns import Ending
from eaftgate.strict_json import shown

_ENGINE = "a vLLM server"
_MODELS, _COMPLETIONS, _METRICS = "/v1/models", "/v1/completions", "/metrics"
_STARTED = re.compile(r"^process_start_time_seconds ([0-9.e+]{1,30})$", re.M)
_GREEDY = {
    "temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0,
    "frequency_penalty": 0,
}  # fmt: skip
"""All of them: the model's generation_config.json is what a server does otherwise."""


class Vllm:
    """See `dialect.Dialect`. What decides its numbers (dtype, backends) a server does not tell."""

    name, engine = "vllm", "vLLM"
    entry_bytes = 192
    """With its rank and its text, which may be escaped."""
    token_bytes = 192

    def model(self, place: Place, *, waits: Sequence[float] = ()) -> Said:
        told = ask(place, _MODELS, bounds=DESCRIBING, waits=waits, remedy=f"is {_ENGINE} running there?")
        models = told.get("data") if isinstance(told, dict) else None
        first = models[0] if isinstance(models, list) and models else None
        if not isinstance(first, dict):
            raise UserError(f"{place.url}{_MODELS} answers {shown(told)}: is {_ENGINE} running there?")
        found = {"model": first.get("root") or first.get("id"), "name": first.get("id")}
        return plain_values(found | {"context": first.get("max_model_len")}, place, _MODELS, engine=_ENGINE)

    def settings(self, place: Place, *, waits: Sequence[float] = ()) -> Said:
        return described(place, "/version", ("version",), engine=_ENGINE, waits=waits)

    def start(self, place: Place, *, waits: Sequence[float] = ()) -> Said:
        """By its metrics, which several processes of one server do not have."""
        found = None
        with suppress(UserError):
            found = _STARTED.search(ask_text(place, _METRICS, bounds=DESCRIBING, waits=waits))
        return {"started": found and found[1]}

    def scoring(self, token_ids_BS: NDArray[Any]) -> Question:
        return _COMPLETIONS, {
            "prompt": token_ids_BS.tolist(),
            "max_tokens": 1,
            "prompt_logprobs": TOP_K,
            "return_token_ids": True,
            **_GREEDY,
        }

    def each(self, answer: Any) -> list[Any] | None:
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not set(map(type, choices)) <= {dict}:
            return None
        return choices if [choice.get("index") for choice in choices] == list(range(len(choices))) else None

    def stats(
        self, answer: Any, token_ids_S: NDArray[Any], scored_S: NDArray[np.bool_], *, vocab_size: int, largest: int,
        where: str,
    ) -> TokenStats:  # fmt: skip
        place_T = np.flatnonzero(scored_S)
        try:
            entries, asked = answer["prompt_logprobs"], token_ids_S.tolist()
            if answer.get("prompt_token_ids") not in (None, asked):
                raise ValueError("it is of other tokens than were asked about")
            if not isinstance(entries, list) or len(entries) != len(asked):
                raise ValueError("it has no prompt_logprobs of every token")
            own = [str(token) for token in asked]
            if any(token not in entry for token, entry in zip(own[1:], entries[1:], strict=True)):
                raise ValueError("it is of other tokens than were asked about")
            own_T, top_ids_TK, top_logprobs_TK = [], [], []
            for place in place_T.tolist():
                entry, token = entries[place], own[place]
                best = _top(entry, token)
                own_T.append(entry[token]["logprob"])
                top_ids_TK += [_id(key) for key in best]
                top_logprobs_TK += [entry[key]["logprob"] for key in best]
            shape = len(place_T), TOP_K
            ids_TK = ids_of(top_ids_TK, max(largest, vocab_size)).astype(np.int32).reshape(shape)
            logprobs_TK = logprobs_of(top_logprobs_TK).reshape(shape)
            logprob_T = logprobs_of(own_T)
        except UNREADABLE as error:
            raise unreadable(error, where, engine=self.engine) from None
        return checked_stats(logprob_T, ids_TK, logprobs_TK, token_ids_S[place_T], where=where)

    def writing(self, tokens: Sequence[int], ending: Ending, max_tokens: int) -> Question:
        return _COMPLETIONS, {
            "prompt": list(tokens),
            "max_tokens": max_tokens,
            "stop_token_ids": sorted(ending.ids),
            "return_token_ids": True,
            **_GREEDY,
        }

    def written(self, answer: Any, *, max_tokens: int, vocab_size: int, where: str) -> list[int]:
        """It says the ids of what it wrote from 0.10.2 on."""
        try:
            [choice] = answer["choices"]
            finish = {"type": choice["finish_reason"], "matched": choice.get("stop_reason")}
            written = {"output_ids": choice["token_ids"], "meta_info": {"finish_reason": finish}}
        except UNREADABLE as error:
            raise unreadable(error, where, engine=self.engine, what="what was written") from None
        return tokens_of_answer(written, max_tokens=max_tokens, vocab_size=vocab_size, where=where, engine=self.engine)


VLLM = Vllm()


def _top(entry: Mapping[str, Any], own: str) -> list[str]:
    """The top 20 of a place: all that is said, but for the token itself where it is one more. Raises ValueError."""
    keys = list(entry)
    if len(keys) == TOP_K + 1:
        keys.remove(own)
    if len(keys) != TOP_K:
        raise ValueError(f"not every token has its top {TOP_K}")
    return keys


def _id(key: str) -> int:
    """Raises ValueError."""
    if not (key.isascii() and key.isdecimal() and len(key) < 12):
        raise ValueError("a token's id is not a whole number")
    return int(key)
