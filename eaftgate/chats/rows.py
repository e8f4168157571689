"""Rows of chat data as they lie in files: JSONL, JSON (both also compressed), Parquet, Arrow, directories of Hugging
Face's datasets.

A line that cannot be read is a row with a problem: one damaged line is no reason to refuse a file. A file that cannot
be read at all is.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eaftgate.choices import listed
from eaftgate.errors import UserError
from eaftgate.files import is_regular
from eaftgate.lfs import check_file_no_pointer
from eaftgate.packs.pack import MAX_EXPANSION, MIN_LIMIT_BYTES, check_size
from eaftgate.strict_json import MAX_JSON_BYTES, parse_json, shown, without_mark
from eaftgate.visible import check_encoded

MAX_LINE_BYTES = 1 << 24
ROWS_PER_BATCH = 256
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow")
_LINES = (".jsonl", ".ndjson")
_PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Of lines and JSON alone: Parquet is compressed within."""
_KINDS = f"{', '.join(_SUFFIXES)} (.jsonl.gz and its like)"
_NOT_ROWS = {
    *("dataset_info.json", "state.json", "dataset_infos.json", "dataset_dict.json", "README.json", "split.json"),
    *("made_from.json", "config.json", "package.json"),
}
_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Row:
    """`number` is counted from 0, of JSONL with empty lines. `values` are None where `problem` says why."""

    file: Path
    number: int
    values: dict[str, Any] | None
    problem: str = ""

    @property
    def place(self) -> str:
        if kind_of(self.file) in _LINES:
            return f"{self.file.name} line {self.number + 1}"
        return f"{self.file.name} row {self.number}, counted from 0"


def kind_of(file: Path) -> str:
    """Its suffix, that before the compression's; empty for a file that holds no rows."""
    kind = Path(file.stem).suffix if file.suffix in _PACKED else file.suffix
    return kind if kind in _SUFFIXES and (file.suffix not in _PACKED or kind in (*_LINES, ".json")) else ""


def stem_of(file: Path) -> str:
    return Path(file.stem).stem if file.suffix in _PACKED else file.stem


def data_files(path: Path, *, split: str | None = None) -> list[Path]:
    """The files of rows that `path` names, in their order: itself, or those of a dataset's directory, sorted by name.

    Raises UserError when there are none, and when a directory holds several splits and `split` names none of them.
    """
    if is_regular(path):
        if not kind_of(path):
            raise UserError(f"{path} is of no kind that rows are read from: give {_KINDS} or a directory")
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} is no file or directory: correct the path")
    parts = {part.name: part for part in sorted(path.iterdir()) if _is_saved(part)}
    if parts:  # datasets' save_to_disk of several splits
        chosen = _chosen(path, list(parts), split)
        return data_files(parts[chosen[0]])
    beside, within = _rows_of(path), _rows_of(path / "data")
    if beside and within:
        raise UserError(
            f"{path} holds rows ({beside[0].name}) and {path / 'data'} does, too: give the one that is meant"
        )
    if not (found := beside or within):
        raise UserError(f"{path} holds no file of rows: give a directory with {_KINDS} in it or in data/")
    splits = {file: _split_of(file) for file in found}
    named = sorted({name for name in splits.values() if name})
    if len(named) < 2 and split is None:
        return found
    chosen = _chosen(path, named, split)
    return [file for file in found if splits[file] in chosen]


def _is_saved(path: Path) -> bool:
    return path.is_dir() and is_regular(path / "state.json") and any(path.glob("*.arrow"))


def _rows_of(directory: Path) -> list[Path]:
    """Those of one kind: a directory that holds two kinds of them may hold the same rows twice."""
    if not directory.is_dir():
        return []
    found = [p for p in sorted(directory.iterdir()) if kind_of(p) and p.name not in _NOT_ROWS]
    found = [p for p in found if not p.name.endswith(".build.json") and not p.name.startswith((".", "cache-"))]
    for path in found:
        check_encoded(path.name, what=f"the name of a file in {directory}")
        if not is_regular(path):
            raise UserError(f"{path} is no regular file: take it out of the directory")
    if (
        len(kinds := sorted({"".join(path.suffixes[-2:]) if path.suffix in _PACKED else path.suffix for path in found}))
        > 1
    ):
        raise UserError(f"{directory} holds rows of several kinds ({', '.join(kinds)}): give the files themselves")
    return found


def _split_of(file: Path) -> str:
    """`train` of train-00000-of-00002.parquet and of train.jsonl."""
    stem = stem_of(file)
    shard = _SHARD.fullmatch(stem)
    return shard["split"] if shard else stem if stem in ("train", "test", "validation", "valid", "dev") else ""


def _chosen(path: Path, there: Sequence[str], split: str | None) -> list[str]:
    if split is None and len(there) == 1:
        return list(there)
    if split is None or split not in there:
        wrong = "holds several splits" if split is None else f"has no split {split!r}"
        raise UserError(
            f"{path} {wrong}: choose with --split one of {listed(there, meant=split or '') if there else 'none'}"
        )
    return [split]


def read_rows(files: Iterable[Path], columns: Sequence[str], advance: Advance = lambda _: None) -> Iterator[Row]:
    """The rows of `files`, in order. Of Parquet and Arrow only `columns` are read. `advance` gets the bytes that were
    read. Raises UserError for a file that cannot be read."""
    for file in files:
        check_file_no_pointer(file)
        if kind_of(file) in _LINES:
            yield from _lines(file, advance)
        elif kind_of(file) == ".json":
            yield from _json(file, advance)
        else:
            yield from _columns(file, columns, advance)


@contextmanager
def _opened(file: Path) -> Iterator[io.BufferedIOBase]:
    """What is compressed in the file is read as it would lie in it. Raises UserError for what cannot be read."""
    try:
        with file.open("rb") as stream:
            if file.suffix not in _PACKED:
                yield stream
                return
            with pa.CompressedInputStream(stream, _PACKED[file.suffix]) as unpacked:
                yield io.BufferedReader(unpacked)
    except OSError as error:
        reason = error.strerror or (str(error).splitlines() or ["damaged"])[0][:300]
        raise UserError(
            f"{file} cannot be read ({reason}): check its permissions, or take a fresh copy of it"
        ) from None


def _lines(file: Path, advance: Advance) -> Iterator[Row]:
    number, whole, size = 0, 0, file.stat().st_size
    with _opened(file) as stream:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            read, problem = len(line), ""
            if read > MAX_LINE_BYTES and not line.endswith(b"\n"):
                problem = f"a line of more than {MAX_LINE_BYTES} bytes"
                while (more := stream.readline(MAX_LINE_BYTES)) and not more.endswith(b"\n"):
                    read += len(more)
            whole += read
            if whole > max(size, MIN_LIMIT_BYTES, MAX_EXPANSION * size):
                raise UserError(f"{file} has {size} bytes and holds more than {whole}: these are no conversations")
            data = without_mark(line) if number == 0 else line
            if data.strip():
                yield _row(file, number, data, problem)
            number += 1
            advance(read)


def _row(file: Path, number: int, data: bytes, problem: str) -> Row:
    if problem:
        return Row(file, number, None, problem)
    try:
        value = parse_json(data, what="the line", remedy="correct it")
    except UserError as error:
        return Row(file, number, None, str(error))
    return _of_value(file, number, value)


def _of_value(file: Path, number: int, value: Any) -> Row:
    if isinstance(value, list):  # a conversation by itself
        return Row(file, number, {"messages": value})
    if not isinstance(value, dict):
        return Row(file, number, None, f"the row is {shown(value)}, no object")
    return Row(file, number, value)


def _json(file: Path, advance: Advance) -> Iterator[Row]:
    """An array of rows, an object with one list of them, or lines under another name."""
    with _opened(file) as stream:
        line = stream.readline(MAX_LINE_BYTES + 1)
        more = stream.read(1 << 16)
        first = without_mark(line).strip()
        has_lines = first.startswith(b"{") and first.endswith(b"}") and more.strip().startswith(b"{")
        data = b"" if has_lines else line + more + stream.read(MAX_JSON_BYTES + 1)
    if has_lines:
        yield from _lines(file, advance)
        return
    if len(data) > MAX_JSON_BYTES:
        raise UserError(f"{file} is larger than {MAX_JSON_BYTES} bytes: write it as .jsonl, a row a line")
    value = parse_json(without_mark(data), what=f"file {file}", remedy="correct it")
    if isinstance(value, dict) and not {"messages", "conversations", "text"} & value.keys():
        lists = [key for key, found in value.items() if isinstance(found, list)]
        if len(lists) != 1:
            raise UserError(f"{file} is an object with {len(lists)} lists: give one with the list of rows alone")
        value = value[lists[0]]
    rows = value if isinstance(value, list) else [value]
    for number, row in enumerate(rows):
        yield _of_value(file, number, row)
    advance(min(file.stat().st_size, MAX_JSON_BYTES))


def _columns(file: Path, columns: Sequence[str], advance: Advance) -> Iterator[Row]:
    size, number = file.stat().st_size, 0
    try:
        for batch, share in _batches(file, columns):
            for values in batch.to_pylist():
                yield Row(file, number, {key: _without_nulls(value) for key, value in values.items()})
                number += 1
            advance(round(size * share))
    except (OSError, pa.ArrowException, OverflowError, MemoryError, UnicodeDecodeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} cannot be read ({reason[:300]}): take a fresh copy of it") from None


def _batches(file: Path, columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, float]]:
    """With each, its share of the file."""
    if file.suffix == ".parquet":
        check_size(file)
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            names = parquet.schema_arrow.names
            there, rows = [name for name in columns if name in names], max(1, parquet.metadata.num_rows)
            _check_columns(file, names, there)
            for batch in parquet.iter_batches(ROWS_PER_BATCH, columns=there):
                yield batch, batch.num_rows / rows
        return
    with pa.memory_map(str(file)) as source:
        try:
            batches: Any = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:  # the other of Arrow's two formats
            source.seek(0)
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        for whole in batches:
            there = [name for name in columns if name in whole.schema.names]
            _check_columns(file, whole.schema.names, there)
            for start in range(0, whole.num_rows, ROWS_PER_BATCH):
                yield whole.select(there).slice(start, ROWS_PER_BATCH), 0.0


def _check_columns(file: Path, names: Sequence[str], there: Sequence[str]) -> None:
    if twice := [name for name in there if list(names).count(name) > 1]:
        raise UserError(f"{file} has column {twice[0]!r} twice: write it with one")
    if not there:
        has = ", ".join(names)[:300] or "none"
        raise UserError(f"{file} has no column of conversations (columns: {has}): name it with --column")


def _without_nulls(value: Any) -> Any:
    """Arrow gives every struct of a column the fields of all, and null where a row has none."""
    if isinstance(value, dict):
        return {key: _without_nulls(found) for key, found in value.items() if found is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value
