"""From what an SGLang server answers to arrays, without a loop over tokens in Python. What contradicts itself is none.

With logprob_start_len 0 a prompt of S tokens gets S entries: (logprob, id, text) of each token, the first without a
logprob, and for each but the first its top alternatives, best first, as such triples.

Shapes: S tokens of a block, T scored tokens, K alternatives.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from eaftgate.collect.collection import LOGPROB_TOLERANCE, TOP_K, TokenStats, check_reference
from eaftgate.errors import UserError

_TRIPLE = 3
UNREADABLE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)
"""What reading a value of another form raises."""


def stats_of_answer(
    answer: Any,
    token_ids_S: NDArray[Any],
    scored_S: NDArray[np.bool_],
    *,
    vocab_size: int,
    where: str,
    largest: int | None = None,
) -> TokenStats:
    """Statistics of a block's scored tokens. `largest`: how many ids there may be, where the model may have more than
    the tokenizer. Raises UserError when the answer is not of this block or of this form, or contradicts itself."""
    largest = largest or vocab_size
    place_T = np.flatnonzero(scored_S)
    try:
        meta = answer["meta_info"]
        given, tops = meta["input_token_logprobs"], meta["input_top_logprobs"]
        counts = len(given), len(tops), meta.get("prompt_tokens", len(token_ids_S))
        if counts != (len(token_ids_S),) * 3:
            raise ValueError(f"{counts[0]} and {counts[1]} entries of {counts[2]} tokens for {len(token_ids_S)}")
        logprobs, ids = _columns(given)
        _check_asked(ids_of(ids, largest), token_ids_S, vocab_size)
        logprob_T = logprobs_of([logprobs[place] for place in place_T.tolist()])
        of_T = [tops[place] for place in place_T.tolist()]
        if not set(map(type, of_T)) <= {list} or not set(map(len, of_T)) <= {TOP_K}:
            raise ValueError(f"not every token has its top {TOP_K}")
        logprobs, ids = _columns(list(chain.from_iterable(of_T)))
        top_logprobs_TK = logprobs_of(logprobs).reshape(len(place_T), TOP_K)
        top_ids_TK = ids_of(ids, largest).astype(np.int32).reshape(len(place_T), TOP_K)
        if (np.diff(top_logprobs_TK, axis=1) > LOGPROB_TOLERANCE).any():
            raise ValueError(f"a top {TOP_K} is not in descending order")
    except UNREADABLE as error:
        raise unreadable(error, where, engine="SGLang") from None
    return checked_stats(logprob_T, top_ids_TK, top_logprobs_TK, token_ids_S[place_T], where=where)


def checked_stats(
    logprob_T: NDArray[np.float32],
    top_ids_TK: NDArray[np.int32],
    top_logprobs_TK: NDArray[np.float32],
    token_T: NDArray[Any],
    *,
    where: str,
) -> TokenStats:
    """The top 20 in whatever order. Raises UserError when they contradict what is said of the tokens themselves."""
    # Servers may round equal values in any order; sorted, they are what the other collectors give.
    order_TK = np.argsort(-top_logprobs_TK, axis=1, kind="stable")
    top_logprobs_TK = np.take_along_axis(top_logprobs_TK, order_TK, axis=1)
    top_ids_TK = np.take_along_axis(top_ids_TK, order_TK, axis=1)
    stats = TokenStats(logprob_T, normalised_entropy(top_logprobs_TK), top_ids_TK, top_logprobs_TK)
    check_reference(stats, token_T, where=where)
    return TokenStats(np.minimum(logprob_T, 0), stats.entropy_T, top_ids_TK, top_logprobs_TK)


def unreadable(error: Exception, where: str, *, engine: str, what: str = "the answer") -> UserError:
    """Of one that is UNREADABLE."""
    reason = f"there is no {error}" if isinstance(error, KeyError) else error
    return UserError(f"{where}: {what} cannot be read ({reason}): its version of {engine} may not suit")


def _columns(entries: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The log-probabilities and the ids of triples. Raises ValueError for what is none."""
    if not set(map(type, entries)) <= {list} or not set(map(len, entries)) <= {_TRIPLE}:
        raise ValueError("an entry is not a log-probability, an id and a text")
    flat = list(chain.from_iterable(entries))
    return flat[::_TRIPLE], flat[1::_TRIPLE]


def logprobs_of(values: list[Any]) -> NDArray[np.float32]:
    """Raises ValueError for what is no log-probability."""
    if not set(map(type, values)) <= {float, int}:
        raise ValueError("a log-probability is not a number")
    found = np.array(values, np.float64)
    if found.size and found.max() > LOGPROB_TOLERANCE:
        raise ValueError(f"a log-probability is {found.max():g}, which is above 0")
    if found.size and found.min() < np.finfo(np.float32).min:
        raise ValueError(f"a log-probability is {found.min():g}")
    return found.astype(np.float32)


def ids_of(values: list[Any], vocab_size: int) -> NDArray[np.int64]:
    """Raises ValueError for what is no token of the vocabulary."""
    if not set(map(type, values)) <= {int}:
        raise ValueError("a token's id is not a whole number")
    if values and not 0 <= min(values) <= max(values) < vocab_size:
        raise ValueError(f"a token's id is not one of the {vocab_size}")
    return np.array(values, np.int64)


def _check_asked(id_S: NDArray[np.int64], token_ids_S: NDArray[Any], vocab_size: int) -> None:
    """Raises ValueError when the answer is of other tokens than were asked about."""
    # SGLang reports the last id of a vocabulary as 0 (0.5.16, logprob_result_processor: room for images' hashes).
    as_reported_S = np.where(token_ids_S < vocab_size - 1, token_ids_S, 0)
    if ((id_S != token_ids_S) & (id_S != as_reported_S)).any():
        raise ValueError("it is of other tokens than were asked about")


def normalised_entropy(top_logprobs_TK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Entropy of the renormalised top K over ln K, clamped to [0, 1] (SPEC section 3)."""
    log_q_TK = log_softmax(top_logprobs_TK.astype(np.float64), axis=1)
    entropy_T = -(np.exp(log_q_TK) * log_q_TK).sum(axis=1) / np.log(top_logprobs_TK.shape[1])
    clamped_T: NDArray[np.float32] = np.clip(entropy_T, 0, 1).astype(np.float32)
    return clamped_T


def tokens_of_answer(answer: Any, *, max_tokens: int, vocab_size: int, where: str, engine: str = "SGLang") -> list[int]:
    """What a server wrote, with the token it stopped at. Raises UserError for an answer of another form, and one that
    stopped for another reason."""
    try:
        tokens, finish = answer["output_ids"], answer["meta_info"]["finish_reason"]
        found: list[int] = ids_of(list(tokens), vocab_size).tolist()
        matched = finish.get("matched")
        if finish["type"] == "stop" and type(matched) is int and found[-1:] != [matched]:
            found += ids_of([matched], vocab_size).tolist()
        if finish["type"] not in ("stop", "length"):
            raise ValueError(f"it ended with {str(finish['type'])[:100]!r}")
        if not 0 < len(found) <= max_tokens or (finish["type"] == "length" and len(found) < max_tokens):
            raise ValueError(f"it has {len(found)} tokens of {max_tokens}")
    except UNREADABLE as error:
        raise unreadable(error, where, engine=engine, what="what was written") from None
    return found
