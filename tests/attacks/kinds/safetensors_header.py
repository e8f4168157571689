"""The header of a shard."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tiny_checkpoint import Size, build_tensors, build_tokenizer, shard_bytes

from attacks.attack import Attack, Box
from attacks.kinds.config_json import prune
from attacks.malformed import LONG_NUMBER, NOT_JSON, with_contents, without_a_file

SHARD = "model-00002-of-00002.safetensors"
NORM = "model.layers.0.input_layernorm.weight"


def shard(box: Box) -> Path:
    return box.base() / SHARD


def whole(box: Box) -> Path:
    """A checkpoint in one file."""
    for old in box.base().glob("model*"):
        old.unlink()
    return box.base() / "model.safetensors"


def framed(header: bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def attacks() -> Iterator[Attack]:
    tensors = build_tensors(Size(), mxfp4=True, vocab_size=build_tokenizer().get_vocab_size())
    sound = shard_bytes(tensors)
    (length,) = struct.unpack("<Q", sound[:8])
    header, data = json.loads(sound[8 : 8 + length]), sound[8 + length :]
    end = len(data)

    def changed(change: Callable[[dict[str, Any]], object], more: bytes = b"") -> bytes:
        value = json.loads(json.dumps(header))
        change(value)
        return framed(json.dumps(value).encode(), data + more)

    accepted: dict[str, bytes] = {
        "as it was": sound,
        "padded with spaces": framed(json.dumps(header).encode() + b" " * 4000, data),
        "no metadata": changed(lambda h: h.pop("__metadata__")),
        "metadata of any words": changed(lambda h: h["__metadata__"].update({"\u202e": "\x1b[31m"})),
    }
    yield from with_contents(whole, prune, accepted.items(), expected="accepted")
    refused: dict[str, bytes] = {
        "nothing": b"",
        "seven bytes": b"\0" * 7,
        "only a length": struct.pack("<Q", 2),
        "length 0": struct.pack("<Q", 0),
        "length 2**63": struct.pack("<Q", 1 << 63) + b"{}",
        "length 2**64-1": b"\xff" * 8 + b"{}",
        "length beyond the file": framed(b"{}", length=3),
        "length of 100 MB and one": struct.pack("<Q", 100_000_001) + b"{}",
        "length one short": framed(json.dumps(header).encode(), data, length=length - 1),
        "a byte order mark": framed(b"\xef\xbb\xbf" + json.dumps(header).encode(), data),
        "a space in front": framed(b" " + json.dumps(header).encode(), data),
        "no tensor": framed(b"{}"),
        "an array": framed(b"[]"),
        "cut by one byte": sound[:-1],
        "one byte more": sound + b"\0",
        "a hole": changed(_shift(8), b"\0" * 8),
        "an overlap": changed(_shift(-8)),
        "a pickle": b"\x80\x04\x95" + b"\0" * 60,
        "a zip": b"PK\x03\x04" + b"\0" * 60,
        "a GGUF": b"GGUF" + b"\0" * 60,
        "metadata that is a list": changed(lambda h: h.update(__metadata__=[])),
        "metadata of numbers": changed(lambda h: h.update(__metadata__={"a": 1})),
        "no dtype": changed(lambda h: h[NORM].pop("dtype")),
        "no shape": changed(lambda h: h[NORM].pop("shape")),
        "no offsets": changed(lambda h: h[NORM].pop("data_offsets")),
        "an entry that is a list": changed(lambda h: h.update({NORM: []})),
        "an entry that is null": changed(lambda h: h.update({NORM: None})),
    }
    for what, value in {
        "unknown": "BF17", "in small letters": "bf16", "a number": 7, "null": None, "a list": ["BF16"], "wider": "F32",
    }.items():  # fmt: skip
        refused[f"dtype {what}"] = changed(lambda h, value=value: h[NORM].update(dtype=value))  # type: ignore[misc]
    for what, value in {
        "negative": [-64], "a fraction": [64.0], "text": ["64"], "true": [True, 64], "no list": 64, "null": None,
        "a dimension more": [64, 2], "a dimension of 0": [64, 0], "overflowing": [1 << 40, 1 << 40], "nested": [[64]],
        "10**400": [10**400], "100,000 dimensions": [1] * 100_000 + [64, 2],
    }.items():  # fmt: skip
        refused[f"shape {what}"] = changed(lambda h, value=value: h[NORM].update(shape=value))  # type: ignore[misc]
    for what, value in {
        "reversed": [end, 0], "negative": [-128, 0], "beyond the file": [end, end + 128], "one number": [0],
        "three numbers": [0, 1, 2], "text": ["0", "128"], "fractions": [0.0, 128.0], "true": [True, 129],
        "2**64": [1 << 64, (1 << 64) + 128], "null": None, "10**400": [0, 10**400],
    }.items():  # fmt: skip
        refused[f"offsets {what}"] = changed(lambda h, value=value: h[NORM].update(data_offsets=value))  # type: ignore[misc]
    refused["offsets of 5000 digits"] = framed(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,' + LONG_NUMBER + b"]}}"
    )
    refused |= {f"header: {name}": framed(content) for name, content in NOT_JSON.items()}
    yield from with_contents(whole, prune, refused.items(), says="model.safetensors")
    yield from without_a_file(shard, prune, says=SHARD)


def _shift(by: int) -> Callable[[dict[str, Any]], None]:
    """The last tensor lies `by` bytes further on."""

    def change(header: dict[str, Any]) -> None:
        last = max((info for name, info in header.items() if name != "__metadata__"), key=lambda i: i["data_offsets"])
        last["data_offsets"] = [offset + by for offset in last["data_offsets"]]

    return change
