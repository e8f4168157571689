"""What a collector knows about every scored token of one model on one set of blocks.

Shapes: T scored tokens in block order, K = 20 alternatives.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from eaftgate.errors import UserError
from eaftgate.files import atomic_path, write_failure
from eaftgate.packs.blocks import Blocks, Roles

TOP_K = 20
SCHEMA = "collection-2"
LOGPROB_TOLERANCE = 1e-3
"""How far rounding may lift a log-probability above 0, or a sum of probabilities above 1."""

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


@dataclass(frozen=True)
class TokenStats:
    """`logprob_T` in nats; `entropy_T` of the renormalised top 20 over ln 20, in [0, 1]; top 20 best first."""

    logprob_T: FloatArray
    entropy_T: FloatArray
    top_ids_TK: IntArray
    top_logprobs_TK: FloatArray

    def __len__(self) -> int:
        return len(self.logprob_T)

    def select(self, chosen_T: NDArray[Any] | slice) -> "TokenStats":
        return TokenStats(*(getattr(self, field.name)[chosen_T] for field in fields(self)))


def concatenate(parts: Sequence[TokenStats]) -> TokenStats:
    columns = (np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(TokenStats))
    return TokenStats(*columns)


@dataclass(frozen=True)
class Collection:
    """Token statistics with the row and the block of every token, and what it is to the assistant's messages.

    `row_T` and `block_T` are the clusters of later statistics; `identities[row]` is the sha256 of a row's text.
    `token_T` is the token itself; `cut_T`: its row begins before its block, which therefore lacks a part of its prompt.
    `meta` says what was measured: model digest, blocks digest, collector settings.
    """

    stats: TokenStats
    token_T: IntArray
    row_T: IntArray
    block_T: IntArray
    roles: Roles
    cut_T: NDArray[np.bool_]
    identities: tuple[str, ...]
    meta: Mapping[str, Any]

    def select(self, chosen_T: NDArray[Any]) -> "Collection":
        return replace(
            self,
            stats=self.stats.select(chosen_T),
            roles=self.roles.at(chosen_T),
            **{name: getattr(self, name)[chosen_T] for name in _COLUMNS},
        )

    def content(self) -> "Collection":
        """Of content tokens alone: what perplexity is of."""
        return self.select(self.roles.content)


_COLUMNS = ("token_T", "row_T", "block_T", "cut_T")
_ROLES = tuple(field.name for field in fields(Roles))


def check_stats(stats: TokenStats, expected_tokens: int, *, where: str) -> None:
    """The invariants of a collector's output. Raises UserError naming `where` when one is broken."""
    problem = None
    lengths = {len(getattr(stats, field.name)) for field in fields(TokenStats)}
    if lengths != {expected_tokens}:
        problem = f"{' or '.join(map(str, sorted(lengths)))} tokens came back for {expected_tokens} scored ones"
    elif bad := _non_finite(stats):
        problem = f"{bad} of {expected_tokens} scored tokens have a log-probability or entropy that is not finite"
    elif stats.logprob_T.size and stats.logprob_T.max() > LOGPROB_TOLERANCE:
        problem = "a log-probability is above 0"
    elif ((stats.entropy_T < 0) | (stats.entropy_T > 1)).any():
        problem = "an entropy lies outside 0 to 1"
    elif (np.diff(stats.top_logprobs_TK, axis=1) > 0).any():
        problem = "top log-probabilities are not in descending order"
    elif (np.exp(stats.top_logprobs_TK, dtype=np.float64).sum(axis=1) > 1 + LOGPROB_TOLERANCE).any():
        problem = "probabilities of the top 20 sum to more than 1"
    if problem:
        raise UserError(f"{where}: {problem}; the model or its engine is broken")


def _non_finite(stats: TokenStats) -> int:
    finite = np.isfinite(stats.logprob_T) & np.isfinite(stats.entropy_T)
    return int((~(finite & np.isfinite(stats.top_logprobs_TK).all(axis=1))).sum())


def make_collection(stats: TokenStats, blocks: Blocks, meta: Mapping[str, Any]) -> Collection:
    scored_BS = blocks.scored_BS
    cut_BS = blocks.continued_B[:, None] & (blocks.row_BS == blocks.row_BS[:, :1])
    return Collection(
        stats=stats,
        token_T=blocks.token_ids_BS[scored_BS],
        row_T=blocks.row_BS[scored_BS],
        block_T=np.nonzero(scored_BS)[0].astype(np.int32),
        roles=blocks.roles.at(scored_BS),
        cut_T=cut_BS[scored_BS],
        identities=blocks.identities,
        meta=meta,
    )


def restored(collection: Collection, order: NDArray[np.intp]) -> Collection:
    """A collection of `blocks.reordered(order)` as one of `blocks`: its tokens in the order of those blocks."""
    original = replace(collection, block_T=order[collection.block_T].astype(np.int32))
    return original.select(np.argsort(original.block_T, kind="stable"))


def save_stats(path: Path, stats: TokenStats, extra: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Raises UserError when the disk fails."""
    arrays = {field.name: np.ascontiguousarray(getattr(stats, field.name)) for field in fields(TokenStats)}
    try:
        with atomic_path(path) as temporary:
            save_file({**arrays, **extra}, temporary, metadata={"schema": SCHEMA, "meta": json.dumps(meta)})
    except (OSError, SafetensorError) as error:
        raise write_failure(error, path) from None


def save_collection(path: Path, collection: Collection) -> None:
    extra = {name: getattr(collection, name) for name in _COLUMNS}
    extra |= {f"role_{name}_T": getattr(collection.roles, name) for name in _ROLES}
    save_stats(path, collection.stats, extra, {**collection.meta, "identities": list(collection.identities)})


def load_arrays(path: Path) -> tuple[TokenStats, dict[str, NDArray[Any]], dict[str, Any]]:
    """Token statistics, any further arrays and the meta data of a saved file. Raises UserError when it is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        names = [field.name for field in fields(TokenStats)]
        stats = TokenStats(*(arrays.pop(name) for name in names))
        if metadata.get("schema") != SCHEMA:
            raise KeyError(f"schema {metadata.get('schema')}")
        meta = json.loads(metadata["meta"])
        if not isinstance(meta, dict):
            raise ValueError("its meta data are no object")
        return stats, arrays, meta
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise _damaged(path, error) from None


def load_collection(path: Path) -> Collection:
    """Raises UserError when the file is damaged."""
    stats, extra, meta = load_arrays(path)
    identities = meta.pop("identities", None)
    roles = {name: extra.pop(f"role_{name}_T", None) for name in _ROLES}
    missing = [*({*_COLUMNS} - extra.keys()), *(f"role_{name}_T" for name, column in roles.items() if column is None)]
    if missing:
        raise _damaged(path, f"it lacks {' and '.join(sorted(missing))}")
    if not isinstance(identities, list) or not all(isinstance(identity, str) for identity in identities):
        raise _damaged(path, "it lacks the identities of its rows")
    columns = [*(getattr(stats, field.name) for field in fields(TokenStats)), *extra.values(), *roles.values()]
    if {column.shape[:1] for column in columns if column is not None} != {(len(stats),)}:
        raise _damaged(path, "its columns differ in length")
    if len(stats) and not 0 <= extra["row_T"].min() <= extra["row_T"].max() < len(identities):
        raise _damaged(path, f"a token is of a row that is none of its {len(identities)}")
    return Collection(
        stats=stats,
        roles=Roles(**roles),  # type: ignore[arg-type]
        identities=tuple(identities),
        meta=meta,
        **{name: extra[name] for name in _COLUMNS},
    )


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"saved collection {path} is damaged ({reason}): remove it and run again")
