"""Ways to be malformed that kinds of input share."""

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attacks.attack import Attack, Box, Expected

DEEP = 200_000
LONG_NUMBER = b"1" * 5000

NOT_JSON: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n\t ",
    "prose": b"not json",
    "cut": b'{"a": [1, 2',
    "two values": b"{} {}",
    "comment": b"// hello\n{}",
    "trailing comma": b'{"a": 1,}',
    "single quotes": b"{'a': 1}",
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "overflowing number": b'{"a": 1e999}',
    "number of 5000 digits": b'{"a": ' + LONG_NUMBER + b"}",
    "deep arrays": b'{"a": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep and cut": b"[" * DEEP,
    "key twice": b'{"a": 1, "a": 2}',
    "inner key twice": b'{"a": {"b": 1, "b": 1}}',
    "lone surrogate": b'{"a": "\\ud800"}',
    "lone surrogate in a key": b'{"\\udfff": 1}',
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-32": '{"a": 1}'.encode("utf-32"),
    "raw control character": b'{"a": "\x00\x1b"}',
    "zero bytes": b"\0" * 4096,
    "gzip": b"\x1f\x8b\x08\x00" + b"\x17" * 60,
    "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n",
    "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
}
"""What no reader of JSON takes."""

NOT_OBJECTS: dict[str, bytes] = {
    "an array": b"[]",
    "a number": b"17",
    "a string": b'"text"',
    "null": b"null",
    "true": b"true",
}

OTHER_TYPES: dict[str, Any] = {
    "null": None,
    "text": "x",
    "a number as text": "1",
    "a list": [],
    "an object": {},
    "true": True,
    "a fraction": 1.5,
    "negative": -1,
    "2**64": 1 << 64,
    "10**400": 10**400,
}
"""Values of which most are of the wrong type, or too large, wherever they stand."""


def bad_objects() -> Iterator[tuple[str, bytes]]:
    yield from NOT_JSON.items()
    yield from NOT_OBJECTS.items()
    yield "an empty object", b"{}"


def retyped(value: dict[str, Any], *keys: str, but: tuple[str, ...] = ()) -> Iterator[tuple[str, bytes]]:
    """A JSON object in which a key is missing, or has a value of each of OTHER_TYPES `but` those.

    A key is a path with dots; in a list a number is an index.
    """
    for key in keys:
        *way, last = key.split(".")
        for what, other in {"missing": ..., **OTHER_TYPES}.items():
            if what in but:
                continue
            changed = json.loads(json.dumps(value))
            at = changed
            for part in way:
                at = at[int(part) if isinstance(at, list) else part]
            if other is ...:
                del at[last]
            else:
                at[last] = other
            yield f"{key} is {what}", json.dumps(changed).encode()


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(path.name)
    finally:
        os.chdir(before)


NOT_FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,  # noqa: ARG005
    "a directory": lambda path: path.mkdir(),
    "a FIFO": os.mkfifo,
    "a socket": _socket,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a link to an empty device": lambda path: path.symlink_to("/dev/null"),
}
"""What may be where a file is expected; each puts it there."""


Place = Callable[[Box], Path]
"""Copies what is sound into a box, and says where in it the attacked file is."""
Command = Callable[[Box], Sequence[object]]


def with_contents(
    place: Place, command: Command, contents: Iterable[tuple[str, bytes]], *, says: str = "",
    expected: Expected = "refused", slow: bool = False,
) -> Iterator[Attack]:  # fmt: skip
    """An attack for each content of the file."""
    for name, content in contents:

        def make(box: Box, content: bytes = content) -> Sequence[object]:
            place(box).write_bytes(content)
            return command(box)

        yield Attack(name, make, expected, says, slow=slow)


def without_a_file(
    place: Place, command: Command, *, says: str = "", but: Iterable[str] = (), prefix: str = ""
) -> Iterator[Attack]:
    """An attack for each of NOT_FILES in the place of the file."""
    for name, put in NOT_FILES.items():
        if name in but:
            continue

        def make(box: Box, put: Callable[[Path], object] = put) -> Sequence[object]:
            path = place(box)
            path.unlink(missing_ok=True)
            put(path)
            return command(box)

        yield Attack(prefix + name, make, says=says)


def write_repeated(path: Path, times: int, text: str) -> None:
    """A Parquet file of a few kilobytes, with a text that many times."""
    indices = pa.array(np.zeros(min(times, 1_000_000), np.int32))
    part = pa.table({"text": pa.DictionaryArray.from_arrays(indices, pa.array([text]))})
    with pq.ParquetWriter(path, part.schema, store_schema=False) as writer:
        for _ in range(max(1, times // 1_000_000)):
            writer.write_table(part)
