"""What a collector knows about every scored token of one model on one set of blocks, and the file that holds it.

A file carries the sha256 of all its other bytes, and in `meta` what it is of. It is read whole and by both, or it is
damaged: its name says nothing.

Shapes: T scored tokens in block order, K = 20 alternatives.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from eaftgate.errors import UserError
from eaftgate.files import atomic_path, write_failure
from eaftgate.packs.blocks import Blocks, Roles
from eaftgate.strict_json import MAX_JSON_BYTES, parse_object

TOP_K = 20
SCHEMA = "collection-3"
_UNSEALED = "0" * 64
_SEAL = re.compile(rb'(?<!\\)"sha256":"([0-9a-f]{64})"')
"""In a header; a quote within the `meta` there has a backslash before it."""
LOGPROB_TOLERANCE = 1e-3
"""How far rounding may lift a log-probability above 0, or a sum of probabilities above 1."""

_OTHER = {"checkpoint": "another checkpoint", "blocks": "other blocks", "settings": "other settings of the collector"}

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


class Unusable(UserError):
    """A saved file that is damaged, or of something else than was asked; `reason` says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"saved collection {path} is damaged ({reason}): remove it and run again")
        self.reason = reason


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
_FORMS = {
    "logprob_T": ("f4", 1), "entropy_T": ("f4", 1), "top_ids_TK": ("i4", 2), "top_logprobs_TK": ("f4", 2),
    "token_T": ("i4", 1), "row_T": ("i4", 1), "block_T": ("i4", 1), "cut_T": ("?", 1),
    "role_kind_T": ("u1", 1), "role_content_T": ("?", 1), "role_recipient_T": ("?", 1), "role_message_T": ("i4", 1),
}  # fmt: skip
"""Type and dimensions of every array in a file."""


def check_stats(stats: TokenStats, expected_tokens: int, *, where: str, vocab_size: int | None = None) -> None:
    """The invariants of a collector's output. Raises UserError naming `where` when one is broken."""
    if problem := _problem(stats, expected_tokens, vocab_size):
        raise UserError(f"{where}: {problem}; the model or its engine is broken")


def _problem(stats: TokenStats, expected_tokens: int, vocab_size: int | None) -> str | None:
    lengths = {len(getattr(stats, field.name)) for field in fields(TokenStats)}
    ids_TK, logprobs_TK = stats.top_ids_TK, stats.top_logprobs_TK
    if lengths != {expected_tokens}:
        return f"{' or '.join(map(str, sorted(lengths)))} tokens came back for {expected_tokens} scored ones"
    if bad := count_not_finite(stats):
        return f"{bad} of {expected_tokens} scored tokens have a log-probability or entropy that is not finite"
    if stats.logprob_T.size and stats.logprob_T.max() > LOGPROB_TOLERANCE:
        return "a log-probability is above 0"
    if ((stats.entropy_T < 0) | (stats.entropy_T > 1)).any():
        return "an entropy lies outside 0 to 1"
    if (np.diff(logprobs_TK, axis=1) > 0).any():
        return "top log-probabilities are not in descending order"
    if (np.exp(logprobs_TK, dtype=np.float64).sum(axis=1) > 1 + LOGPROB_TOLERANCE).any():
        return "probabilities of the top 20 sum to more than 1"
    if ids_TK.size and not 0 <= ids_TK.min() <= ids_TK.max() < (vocab_size or math.inf):
        return "one of the top 20 is no token of the vocabulary"
    return None


def check_reference(stats: TokenStats, token_T: NDArray[Any], *, where: str) -> None:
    """Of an engine that names its own top 20: no token is twice among them, and `token_T` is as likely as it is there,
    or not above the least of them. Raises UserError naming `where`."""
    ids_TK, logprobs_TK = stats.top_ids_TK, stats.top_logprobs_TK
    own_TK = ids_TK == token_T[:, None]
    own_T = np.where(own_TK, logprobs_TK, -np.inf).max(axis=1)
    named_T, least_T = own_TK.any(axis=1), logprobs_TK.min(axis=1)
    problem = None
    if (np.diff(np.sort(ids_TK, axis=1), axis=1) == 0).any():
        problem = "a token is twice among the top 20"
    elif (np.abs(stats.logprob_T[named_T] - own_T[named_T]) > LOGPROB_TOLERANCE).any():
        problem = "a token's log-probability is not the one it has among its top 20"
    elif (stats.logprob_T[~named_T] > least_T[~named_T] + LOGPROB_TOLERANCE).any():
        problem = "a token is likelier than one of its top 20, and not among them"
    if problem:
        raise UserError(f"{where}: {problem}; the model or its engine is broken")


def count_not_finite(stats: TokenStats) -> int:
    """Scored tokens of which a number is NaN or infinite."""
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


def same_tokens(a: Collection, b: Collection) -> bool:
    """Whether two collections are of the same tokens in the same places, whatever was measured of them."""
    columns = [(getattr(a, name), getattr(b, name)) for name in _COLUMNS]
    columns += zip(a.roles.columns, b.roles.columns, strict=True)
    return a.identities == b.identities and all(np.array_equal(*column) for column in columns)


def restored(collection: Collection, order: NDArray[np.intp]) -> Collection:
    """A collection of `blocks.reordered(order)` as one of `blocks`: its tokens in the order of those blocks."""
    original = replace(collection, block_T=order[collection.block_T].astype(np.int32))
    return original.select(np.argsort(original.block_T, kind="stable"))


def save_stats(path: Path, stats: TokenStats, extra: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Raises UserError when the disk fails."""
    arrays = {field.name: np.ascontiguousarray(getattr(stats, field.name)) for field in fields(TokenStats)}
    metadata = {"schema": SCHEMA, "meta": json.dumps(meta), "sha256": _UNSEALED}
    try:
        with atomic_path(path) as temporary:
            save_file({**arrays, **extra}, temporary, metadata=metadata)
            _seal(temporary)
    except (OSError, SafetensorError) as error:
        raise write_failure(error, path) from None


def _seal(path: Path) -> None:
    data = path.read_bytes()
    place, _ = _seal_of(data)
    with path.open("r+b") as stream:
        stream.seek(place.start)
        stream.write(_sha256_but(data, place).encode())


def seal_of(path: Path) -> str:
    """The checksum that a saved file carries. Raises Unusable without one."""
    try:
        with path.open("rb") as stream:
            size = stream.read(8)
            return _seal_of(size + stream.read(int.from_bytes(size, "little")))[1]
    except (OSError, OverflowError, MemoryError, ValueError) as error:
        raise Unusable(path, str(error)) from None


def is_earlier(path: Path) -> bool:
    """Whether `path` is a saved collection of an earlier version, which no request finds."""
    try:
        with path.open("rb") as stream:
            begin = stream.read(8)
            header = begin + stream.read(min(int.from_bytes(begin, "little"), MAX_JSON_BYTES))
        schema = parse_object(_header(header), what="its header")["__metadata__"]["schema"]
    except (OSError, KeyError, TypeError, UserError):
        return False
    return isinstance(schema, str) and schema.startswith("collection-") and schema != SCHEMA


def _header(data: bytes) -> bytes:
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def _seal_of(data: bytes) -> tuple[slice, str]:
    """Where the checksum is in a file's bytes, and what it says. Raises ValueError without one."""
    found = list(_SEAL.finditer(_header(data)))
    if len(found) != 1:
        raise ValueError("it has no checksum, as in earlier versions")
    return slice(8 + found[0].start(1), 8 + found[0].end(1)), found[0][1].decode()


def _sha256_but(data: bytes, place: slice) -> str:
    view = memoryview(data)
    digest = hashlib.sha256(view[: place.start])
    digest.update(view[place.stop :])
    return digest.hexdigest()


def save_collection(path: Path, collection: Collection) -> None:
    extra = {name: getattr(collection, name) for name in _COLUMNS}
    extra |= {f"role_{name}_T": getattr(collection.roles, name) for name in _ROLES}
    save_stats(path, collection.stats, extra, {**collection.meta, "identities": list(collection.identities)})


def load_arrays(
    path: Path, of: Mapping[str, Any] | None = None
) -> tuple[TokenStats, dict[str, NDArray[Any]], dict[str, Any]]:
    """Token statistics, any further arrays and the meta data of a saved file.

    Raises Unusable when it is damaged, or does not say of itself what `of` does.
    """
    try:
        if not path.is_file():
            raise ValueError("there is no such file")
        data = path.read_bytes()
        place, said = _seal_of(data)
        if _sha256_but(data, place) != said:
            raise ValueError("its checksum does not hold")
        metadata = parse_object(_header(data), what="its header")["__metadata__"]
        if metadata["schema"] != SCHEMA:
            raise ValueError(f"it is of schema {metadata['schema']}")
        meta = parse_object(metadata["meta"].encode(), what="what it says of itself")
        arrays = load(data)
        for name, array in arrays.items():
            if (array.dtype, array.ndim) != (np.dtype(_FORMS[name][0]), _FORMS[name][1]):
                raise ValueError(f"{name} is of another type")
        stats = TokenStats(*(arrays.pop(field.name) for field in fields(TokenStats)))
        if stats.top_ids_TK.shape[1:] != (TOP_K,) or stats.top_logprobs_TK.shape[1:] != (TOP_K,):
            raise ValueError("its top 20 are another number")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, UserError) as error:
        raise Unusable(path, str(error)) from None
    for key, asked in (of or {}).items():
        if meta.get(key) != json.loads(json.dumps(asked)):
            raise Unusable(path, f"it is of {_OTHER.get(key, f'another {key}')}")
    return stats, arrays, meta


def load_collection(path: Path, of: Mapping[str, Any] | None = None, *, vocab_size: int | None = None) -> Collection:
    """Raises Unusable when the file is damaged, or does not say of itself what `of` does."""
    stats, extra, meta = load_arrays(path, of)
    identities = meta.pop("identities", None)
    roles = {name: extra.pop(f"role_{name}_T", None) for name in _ROLES}
    missing = [*({*_COLUMNS} - extra.keys()), *(f"role_{name}_T" for name, column in roles.items() if column is None)]
    if missing:
        raise Unusable(path, f"it lacks {' and '.join(sorted(missing))}")
    if not isinstance(identities, list) or not all(isinstance(identity, str) for identity in identities):
        raise Unusable(path, "it lacks the identities of its rows")
    columns = [*(getattr(stats, field.name) for field in fields(TokenStats)), *extra.values(), *roles.values()]
    if {column.shape[:1] for column in columns if column is not None} != {(len(stats),)}:
        raise Unusable(path, "its columns differ in length")
    if len(stats) and not 0 <= extra["row_T"].min() <= extra["row_T"].max() < len(identities):
        raise Unusable(path, f"a token is of a row that is none of its {len(identities)}")
    if problem := _problem(stats, len(stats), vocab_size):
        raise Unusable(path, problem)
    return Collection(
        stats=stats,
        roles=Roles(**roles),  # type: ignore[arg-type]
        identities=tuple(identities),
        meta=meta,
        **{name: extra[name] for name in _COLUMNS},
    )
