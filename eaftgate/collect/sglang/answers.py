"""From what an SGLang server answers to arrays, without a loop over tokens in Python.

With logprob_start_len 0 a prompt of S tokens gets S entries: (logprob, id, text) of each token, the first without a
logprob, and for each but the first its top alternatives, best first, as such triples.

Shapes: S tokens of a block, T scored tokens, K alternatives.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from eaftgate.collect.collection import TOP_K, TokenStats
from eaftgate.errors import UserError

_TRIPLE = 3


def stats_of_answer(meta_info: Mapping[str, Any], token_ids_S: NDArray[Any], scored_S: NDArray[np.bool_]) -> TokenStats:
    """Statistics of a block's scored tokens. Raises UserError when the answer is not of this block or of this form."""
    place_T = np.flatnonzero(scored_S)
    try:
        given, tops = meta_info["input_token_logprobs"], meta_info["input_top_logprobs"]
        if len(given) != len(token_ids_S) or len(tops) != len(token_ids_S):
            raise ValueError(f"{len(given)} and {len(tops)} entries for {len(token_ids_S)} tokens")
        chosen = [given[place] for place in place_T.tolist()]
        alternatives = list(chain.from_iterable(tops[place] for place in place_T.tolist()))
        given_T3 = np.array(chosen, dtype=object).reshape(-1, _TRIPLE)
        top_TK3 = np.array(alternatives, dtype=object).reshape(len(place_T), TOP_K, _TRIPLE)
        logprob_T = given_T3[:, 0].astype(np.float32)
        id_T = given_T3[:, 1].astype(np.int64)
        other_T = id_T != token_ids_S[place_T]
        # SGLang reports the last id of a vocabulary as 0 (0.5.16, logprob_result_processor: room for images' hashes).
        if id_T[other_T].any() or len(np.unique(token_ids_S[place_T][other_T])) > 1:
            raise ValueError("the tokens are others")
        top_logprobs_TK = top_TK3[:, :, 0].astype(np.float32)
        top_ids_TK = top_TK3[:, :, 1].astype(np.int32)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"the SGLang server's answer cannot be read ({error}): its version may not suit") from None
    # Servers may round equal values in any order; sorted, they are what the other collectors give.
    order_TK = np.argsort(-top_logprobs_TK, axis=1, kind="stable")
    top_logprobs_TK = np.take_along_axis(top_logprobs_TK, order_TK, axis=1)
    top_ids_TK = np.take_along_axis(top_ids_TK, order_TK, axis=1)
    return TokenStats(np.minimum(logprob_T, 0), normalised_entropy(top_logprobs_TK), top_ids_TK, top_logprobs_TK)


def normalised_entropy(top_logprobs_TK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Entropy of the renormalised top K over ln K, clamped to [0, 1] (SPEC section 3)."""
    log_q_TK = log_softmax(top_logprobs_TK.astype(np.float64), axis=1)
    entropy_T = -(np.exp(log_q_TK) * log_q_TK).sum(axis=1) / np.log(top_logprobs_TK.shape[1])
    clamped_T: NDArray[np.float32] = np.clip(entropy_T, 0, 1).astype(np.float32)
    return clamped_T
