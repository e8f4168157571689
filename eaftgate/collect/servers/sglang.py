"""SGLang's servers and routers: /generate with token ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eaftgate.collect.collection import TOP_K, TokenStats
from eaftgate.collect.collector import Said
from eaftgate.collect.servers.answers import stats_of_answer, tokens_of_answer
from eaftgate.collect.servers.dialect import Question, described
from eaftgate.collect.servers.exchange import Place
from eaftgate.packs.turns import Ending

_ENGINE = "an SGLang server"
_SERVED = ("model_path", "weight_version")
_RECORDED = ("version", "moe_runner_backend", "attention_backend", "dtype", "quantization", "tp_size", "dp_size")
_SEED, _CONTEXT = "random_seed", "max_req_input_len"
"""What is drawn when it starts, unless it is told; the longest prompt."""


class Sglang:
    """See `dialect.Dialect`."""

    name, engine = "sglang", "SGLang"
    entry_bytes = 64
    """SGLang's have 35."""
    token_bytes = 24

    def model(self, place: Place, *, waits: Sequence[float] = ()) -> Said:
        return described(place, "/model_info", _SERVED, engine=_ENGINE, waits=waits)

    def settings(self, place: Place, *, waits: Sequence[float] = ()) -> Said:
        return described(place, "/server_info", _RECORDED, engine=_ENGINE, waits=waits)

    def start(self, place: Place, *, waits: Sequence[float] = ()) -> Said:
        told = described(place, "/server_info", (_SEED, _CONTEXT), engine=_ENGINE, waits=waits)
        return {_SEED: told[_SEED], "context": told[_CONTEXT]}

    def scoring(self, token_ids_BS: NDArray[Any]) -> Question:
        return "/generate", {
            "input_ids": token_ids_BS.tolist(),
            "sampling_params": {"temperature": 0, "max_new_tokens": 0},
            "return_logprob": True,
            "logprob_start_len": 0,
            "top_logprobs_num": TOP_K,
        }

    def each(self, answer: Any) -> list[Any] | None:
        return answer if isinstance(answer, list) else None

    def stats(
        self, answer: Any, token_ids_S: NDArray[Any], scored_S: NDArray[np.bool_], *, vocab_size: int, largest: int,
        where: str,
    ) -> TokenStats:  # fmt: skip
        return stats_of_answer(answer, token_ids_S, scored_S, vocab_size=vocab_size, largest=largest, where=where)

    def writing(self, tokens: Sequence[int], ending: Ending, max_tokens: int) -> Question:
        return "/generate", {"input_ids": list(tokens), "sampling_params": sampling(ending, max_tokens)}

    def written(self, answer: Any, *, max_tokens: int, vocab_size: int, where: str) -> list[int]:
        return tokens_of_answer(answer, max_tokens=max_tokens, vocab_size=vocab_size, where=where)


SGLANG = Sglang()


def sampling(ending: Ending, max_tokens: int) -> dict[str, Any]:
    """SGLang's parameters of a greedy request."""
    return {"temperature": 0, "max_new_tokens": max_tokens, "stop_token_ids": sorted(ending.ids)}
