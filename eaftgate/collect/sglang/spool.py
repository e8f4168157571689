"""Files by which a collector and the engine's processes hand each other whole blocks and their statistics.

A request's id is the path of its files without suffix, so the engine knows where its answer goes whatever batch it ends
up in. An answer comes in one part for every forward pass that held some of its tokens (chunked prefill).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eaftgate.collect.collection import TokenStats, concatenate, load_arrays, save_stats
from eaftgate.errors import UserError

MARK = "eaftgate-spool"
"""Part of the directory's name: a request whose id lacks it is none of ours."""
_TOKENS, _SCORED = "tokens.npy", "scored.npy"


def write_request(
    request: Path, token_ids_S: NDArray[Any], scored_S: NDArray[np.bool_], prompts_S: NDArray[np.bool_]
) -> str:
    """Write a block, which of its tokens are scored, and which of those are not the assistant's; returns the request's
    id."""
    write_tokens(request, token_ids_S)
    np.save(request.with_suffix(f".{_SCORED}"), scored_S.astype(np.uint8) + prompts_S)
    return str(request)


def write_tokens(request: Path, token_ids_S: Sequence[int] | NDArray[Any]) -> None:
    np.save(request.with_suffix(f".{_TOKENS}"), np.asarray(token_ids_S, np.int64))


def is_ours(rid: str) -> bool:
    return MARK in rid


def read_tokens(rid: str) -> NDArray[np.int64]:
    tokens: NDArray[np.int64] = np.load(f"{rid}.{_TOKENS}")
    return tokens


def wanted(rid: str, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(position, target, is not the assistant's) of every scored token that positions `start` to `stop` predict."""
    scored_S = np.load(f"{rid}.{_SCORED}")
    predicting = np.flatnonzero(scored_S) - 1
    predicting = predicting[(predicting >= start) & (predicting < stop)]
    return predicting, read_tokens(rid)[predicting + 1], scored_S[predicting + 1] > 1


def write_part(rid: str, start: int, stats: TokenStats) -> None:
    save_stats(Path(f"{rid}.{start:09d}.part"), stats, {}, {"request": rid})


def take_answer(request: Path, expected_tokens: int) -> TokenStats:
    """The request's statistics in token order; its files are removed. Raises UserError when tokens are missing."""
    parts = sorted(request.parent.glob(f"{request.name}.*.part"))
    stats: Sequence[TokenStats] = [load_arrays(part, {"request": str(request)})[0] for part in parts]
    if sum(map(len, stats)) != expected_tokens:
        raise UserError(
            f"the engine returned {sum(map(len, stats))} of {expected_tokens} scored tokens of a block: its version "
            "of SGLang may not suit eaftgate's model class"
        )
    for path in [*parts, *(request.with_suffix(f".{suffix}") for suffix in (_TOKENS, _SCORED))]:
        path.unlink()
    return concatenate(stats)
