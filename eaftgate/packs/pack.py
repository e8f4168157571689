"""Packs: Parquet files of Harmony conversations, their row identities and orders (SPEC section 2)."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eaftgate.errors import UserError
from eaftgate.files import sha256_json
from eaftgate.packs.harmony import MalformedRow, assistant_messages
from eaftgate.visible import check_encoded

UNION = "UNION"
MIN_LIMIT_BYTES = 1 << 30
MAX_EXPANSION = 1000
"""A file may take so many times its size in memory, or MIN_LIMIT_BYTES."""
MAX_ROWS = 20_000_000
MAX_MALFORMED = 0.01
"""Share of a pack's rows that may be left out: beyond it the file is of another form, or cut."""


def row_identity(text: str) -> str:
    """A row's identity: the sha256 of its text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def shuffle_key(seed: int, identity: str) -> str:
    return hashlib.sha256(f"{seed}:{identity}".encode()).hexdigest()


@dataclass(frozen=True)
class Pack:
    """Rows of one pack in the order they are used.

    `identities[i]` is the sha256 of `texts[i]`, `sources[i]` the pack file that row i comes from (in UNION they mix),
    `domains[i]` what the file's column of that name says of it, "" where it has none.
    `left_out` says which rows of the file are no Harmony conversations, and so not here; empty when all are.
    """

    name: str
    texts: tuple[str, ...]
    identities: tuple[str, ...]
    sources: tuple[str, ...]
    domains: tuple[str, ...]
    left_out: str = ""

    def __len__(self) -> int:
        return len(self.texts)

    def reordered(self, order: Sequence[int]) -> "Pack":
        texts, identities, sources, domains = (
            tuple(column[i] for i in order) for column in (self.texts, self.identities, self.sources, self.domains)
        )
        return Pack(self.name, texts, identities, sources, domains, self.left_out)

    def shuffled(self, seed: int | None) -> "Pack":
        """Rows sorted by sha256(seed : identity); `None` keeps file order."""
        if seed is None:
            return self
        keys = [shuffle_key(seed, identity) for identity in self.identities]
        return self.reordered(sorted(range(len(keys)), key=keys.__getitem__))

    def head(self, num_rows: int | None) -> "Pack":
        return self if num_rows is None else self.reordered(range(min(num_rows, len(self))))


def pack_paths(directory: Path) -> list[Path]:
    """The pack files of a directory, in pack order (sorted file names). Raises UserError when there are none."""
    if not directory.is_dir():
        raise UserError(f"packs directory {directory} does not exist or is not a directory")
    paths = sorted(directory.glob("*.parquet"))
    if not paths:
        raise UserError(f"packs directory {directory} holds no *.parquet file")
    if reserved := [path for path in paths if path.stem == UNION]:
        raise UserError(f"{reserved[0]} has the name of the derived pack {UNION}: rename it")
    for path in paths:
        check_encoded(path.name, what=f"the name of a pack in {directory}")
        _check_regular(path)
    return paths


def _check_regular(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"pack {path} is no regular file: take it out of the directory")


def read_table(path: Path) -> pa.Table:
    """Read one pack file; `text` is a column of strings, however the file encodes them. Raises UserError when it is no
    Parquet file or has no usable `text` column."""
    _check_regular(path)
    try:
        check_size(path)
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException, OverflowError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"pack {path} cannot be read as Parquet: {reason}") from None
    if (found := table.column_names.count("text")) != 1:
        others = f"(columns: {', '.join(table.column_names)[:300] or 'none'})"
        raise UserError(f"pack {path} has {found or 'no'} column{'s' if found else ''} 'text' {others}")
    kind = table.schema.field("text").type
    if not _is_text(kind):
        raise UserError(f"pack {path}: column 'text' holds {str(kind)[:200]}, not strings")
    if table.num_rows == 0:
        raise UserError(f"pack {path} has no rows")
    try:
        table["text"].validate(full=True)
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            # Not every Arrow can cast views and dictionaries, or take rows of them.
            place = table.column_names.index("text")
            table = table.set_column(place, "text", pa.chunked_array([table["text"].to_pylist()], pa.large_string()))
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise UserError(f"pack {path}: column 'text' is damaged ({error}); write it as UTF-8") from None
    if table["text"].null_count:
        raise UserError(f"pack {path}: {table['text'].null_count} rows of column 'text' are null")
    return table


def check_size(path: Path) -> None:
    """Raises UserError for a file that would fill the memory: by what it announces, or by texts that it repeats."""
    try:
        found, size = pq.read_metadata(path), path.stat().st_size
    except (OSError, pa.ArrowException):
        return  # reading it says why
    if found.num_rows > MAX_ROWS:
        raise UserError(f"{path} has {found.num_rows} rows, more than {MAX_ROWS}: these are no conversations")
    limit = max(MIN_LIMIT_BYTES, MAX_EXPANSION * size)
    need = sum(found.row_group(number).total_byte_size for number in range(found.num_row_groups))
    if need <= limit < need * found.num_rows:  # a text may be there once and be repeated in every row
        repeated = pq.read_table(path, columns=["text"], read_dictionary=["text"])
        need = sum(_text_bytes(chunk) for column in repeated.columns for chunk in column.chunks)
    if need > limit:
        raise UserError(f"{path} has {size} bytes and would take {need} in memory: these are no conversations")


def _text_bytes(chunk: pa.Array) -> int:
    if not isinstance(chunk, pa.DictionaryArray) or not _is_text(chunk.type):
        return int(chunk.nbytes)
    lengths = pc.binary_length(chunk.dictionary).fill_null(0).to_numpy(zero_copy_only=False)
    return int(lengths[chunk.indices.drop_null().to_numpy(zero_copy_only=False)].sum(dtype=np.int64))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def read_pack(path: Path) -> Pack:
    """The well-formed rows of a pack. Raises UserError when more than MAX_MALFORMED of its rows are not."""
    found = read_table(path)
    rows: list[str] = found["text"].to_pylist()
    named = found["domain"].to_pylist() if "domain" in found.column_names else [None] * len(rows)
    malformed = {number: reason for number, text in enumerate(rows) if (reason := _malformed(text))}
    left_out = ""
    if malformed:
        first, reason = next(iter(malformed.items()))
        left_out = (
            f"pack {path.stem}: {len(malformed)} of {len(rows)} rows are not well-formed Harmony conversations (the "
            f"first is row {first}, counted from 0: {reason})"
        )
        if len(malformed) > MAX_MALFORMED * len(rows):
            raise UserError(f"{left_out}: correct them, or leave them out of {path}")
    kept = [number for number in range(len(rows)) if number not in malformed]
    texts = tuple(rows[number] for number in kept)
    domains = tuple("" if named[number] is None else str(named[number]) for number in kept)
    return Pack(path.stem, texts, tuple(map(row_identity, texts)), (path.stem,) * len(texts), domains, left_out)


def _malformed(text: str) -> str:
    """Why a row is no Harmony conversation; empty when it is one."""
    try:
        assistant_messages(text)
    except MalformedRow as error:
        return str(error)
    return ""


def read_packs(directory: Path) -> list[Pack]:
    return [read_pack(path) for path in pack_paths(directory)]


def union(packs: Sequence[Pack]) -> Pack:
    """UNION: row i of every pack in pack order, round robin, skipping exhausted packs."""
    longest = max(len(pack) for pack in packs)
    picks = [(pack, i) for i in range(longest) for pack in packs if i < len(pack)]
    return Pack(
        UNION,
        tuple(pack.texts[i] for pack, i in picks),
        tuple(pack.identities[i] for pack, i in picks),
        tuple(pack.sources[i] for pack, i in picks),
        tuple(pack.domains[i] for pack, i in picks),
        "; ".join(pack.left_out for pack in packs if pack.left_out),
    )


def rows_digest(packs: Iterable[Pack]) -> str:
    """sha256 over all rows' identities by pack, whatever their order."""
    return sha256_json({pack.name: sorted(pack.identities) for pack in packs})


def named_packs(directory: Path, *, seed: int | None) -> dict[str, Pack]:
    """Every pack of `directory` in its order for `seed`, and their UNION, which comes first."""
    packs = [pack.shuffled(seed) for pack in read_packs(directory)]
    return {UNION: union(packs), **{pack.name: pack for pack in packs}}
