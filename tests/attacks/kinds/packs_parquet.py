"""Packs: Parquet files with a column of texts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attacks.attack import Attack, Box, Expected
from attacks.malformed import NOT_JSON, with_contents, without_a_file, write_repeated
from attacks.sound import conversation

FILE = "chat.parquet"
TEXTS = [conversation(number) for number in range(24)]


def pack(box: Box) -> Path:
    return box.packs() / FILE


def split(box: Box) -> list[object]:
    return ["packs", "split", box.packs(), "--out", box.out]


def profile(box: Box) -> list[object]:
    return [
        "profile",
        box.base(),
        "--packs",
        box.packs(),
        "--seq-len",
        64,
        "--num-rows",
        4,
        "--batch-size",
        8,
        "--out",
        box.out,
    ]


def attacks() -> Iterator[Attack]:
    column = pa.array(TEXTS)
    accepted: dict[str, Any] = {
        "string": column, "large_string": column.cast(pa.large_string()), "string_view": column.cast(pa.string_view()),
        "dictionary": column.dictionary_encode(),
        "dictionary of large_string": column.cast(pa.large_string()).dictionary_encode(),
    }  # fmt: skip
    for name, array in accepted.items():
        yield _of(f"{name} is split", pa.table({"text": array}), "accepted")
        yield _of(f"{name} is profiled", pa.table({"text": array}), "accepted", profile)
    yield _of(
        "other columns", pa.table({"n": [[1]] * 24, "text": column, "v": column.cast(pa.string_view())}), "accepted"
    )
    yield _of("a dictionary beside", pa.table({"text": column, "domain": column.dictionary_encode()}), "accepted")
    yield _of("a domain of numbers", pa.table({"text": column, "domain": list(range(24))}), "accepted", profile)
    yield _of("a domain of lists", pa.table({"text": column, "domain": [[1]] * 24}), "accepted", profile)
    for name, options in {
        "gzip": {"compression": "gzip"}, "no compression": {"compression": "none"}, "brotli": {"compression": "brotli"},
        "many row groups": {"row_group_size": 1}, "version 1.0": {"version": "1.0"},
    }.items():  # fmt: skip
        yield _of(name, pa.table({"text": column}), "accepted", **options)  # type: ignore[arg-type]
    refused: dict[str, Any] = {
        "no text": pa.table({"texts": column}), "no column": pa.table({}), "no rows": pa.table({"text": column[:0]}),
        "one row": pa.table({"text": column[:1]}), "numbers": pa.table({"text": list(range(24))}),
        "binary": pa.table({"text": column.cast(pa.binary())}), "lists": pa.table({"text": [[text] for text in TEXTS]}),
        "structs": pa.table({"text": [{"a": text} for text in TEXTS]}), "nulls": pa.table({"text": pa.nulls(24)}),
        "a null": pa.table({"text": [*TEXTS[:-1], None]}),
        "only null strings": pa.table({"text": pa.nulls(24, pa.string())}),
        "dictionary with a null": pa.table({"text": pa.array([*TEXTS[:-1], None]).dictionary_encode()}),
        "dictionary of numbers": pa.table({"text": pa.array([1, 2] * 12).dictionary_encode()}),
        "not UTF-8": pa.table({"text": _not_utf8(pa.string())}),
        "not UTF-8, large": pa.table({"text": _not_utf8(pa.large_string())}),
        "text twice": pa.table([column, column], names=["text", "text"]),
        "times": pa.table({"text": pa.array([1] * 24, pa.timestamp("s"))}),
    }  # fmt: skip
    for name, table in refused.items():
        yield _of(f"{name}, split", table)
        if name != "one row":
            yield _of(f"{name}, profiled", table, "refused", profile)
    yield from with_contents(pack, split, _damaged(), says=FILE)
    yield from with_contents(pack, split, ((f"bytes: {name}", data) for name, data in NOT_JSON.items()), says=FILE)
    yield from without_a_file(pack, split, says=FILE, but=["missing"])
    yield Attack("a row a hundred million times", _repeated(100_000_000, "a"), says=FILE)
    yield Attack("a megabyte ten thousand times", _repeated(10_000, "a" * 1_000_000), says=FILE)
    yield Attack("encrypted", _encrypted, says=FILE)
    yield Attack("no pack", _named(None), says="packs")
    for name, file in {"UNION": "UNION.parquet", "in capitals": "CHAT.PARQUET"}.items():
        yield Attack(f"a name: {name}", _named(file), says="packs")
    for name, directory in {
        "missing": "none",
        "a file": "packs/chat.parquet",
        "empty text": "",
        "of 5000": "a" * 5000,
    }.items():

        def make(box: Box, directory: str = directory) -> list[object]:
            box.packs()
            return ["packs", "split", directory, "--out", box.out]

        yield Attack(f"directory {name}", make)


def _of(
    name: str,
    table: Any,
    expected: Expected = "refused",
    command: Callable[[Box], list[object]] = split,
    **options: Any,
) -> Attack:
    def make(box: Box) -> list[object]:
        pq.write_table(table, pack(box), **options)
        return command(box)

    return Attack(name, make, expected, says="chat" if expected == "refused" else "")


def _not_utf8(kind: Any) -> Any:
    wide = pa.types.is_large_string(kind)
    binary = pa.array(
        [text.encode() for text in TEXTS[:-1]] + [b"\xff\xfe"], pa.large_binary() if wide else pa.binary()
    )
    return pa.Array.from_buffers(kind, 24, binary.buffers())


def _damaged() -> Iterator[tuple[str, bytes]]:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": TEXTS}), sink)
    data = sink.getvalue().to_pybytes()
    yield "nothing", b""
    yield "only the magic", b"PAR1"
    yield "magic twice", b"PAR1PAR1"
    yield "an endless footer", b"PAR1" + b"\xff\xff\xff\x7fPAR1"
    yield "cut", data[:-20]
    yield "no end", data[:100]
    yield "no begin", data[100:]
    for place in (4, len(data) - 60, len(data) - 9):
        yield f"zeros at {place * 100 // len(data)} %", data[:place] + b"\0" * 40 + data[place + 40 :][: len(data)]


def _repeated(times: int, text: str) -> Callable[[Box], list[object]]:
    """A file of a few kilobytes."""

    def make(box: Box) -> list[object]:
        write_repeated(pack(box), times, text)
        return split(box)

    return make


def _encrypted(box: Box) -> list[object]:
    data = pack(box).read_bytes()
    pack(box).write_bytes(b"PARE" + data[4:-4] + b"PARE")
    return split(box)


def _named(file: str | None) -> Callable[[Box], list[object]]:
    def make(box: Box) -> list[object]:
        for old in box.packs().iterdir():
            if file is None or old.name != FILE:
                old.unlink()
        if file is not None:
            pack(box).rename(box.packs() / file)
        return split(box)

    return make
