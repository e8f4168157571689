"""The header of a safetensors file, checked by the rules of the format before anything is read.

File = u64 little-endian header length, JSON header, data buffer. The rules are those of `tensor.rs` in
huggingface/safetensors; they are checked here because reading byte ranges by hand (which the rewrite does)
must not rest on a header that nobody has checked.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eaftgate.errors import UserError
from eaftgate.lfs import check_no_pointer
from eaftgate.strict_json import is_count, parse_object, shown

MAX_HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8
METADATA_KEY = "__metadata__"

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip

_U64_LIMIT = 1 << 64
_BEGINNING_BYTES = 64
_REPAIR = "take a fresh copy of the file"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: `begin` and `end` are absolute byte offsets in the file named `shard`."""

    name: str
    dtype: str
    """safetensors name: "BF16", "U8", ..."""
    shape: tuple[int, ...]
    shard: str
    """File name without directories."""
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read and check the header of the safetensors file `path`; tensor name -> entry, in order of the data.

    Raises UserError for a file that is missing, truncated or breaks a rule of the format.
    """
    if not path.is_file():
        raise UserError(f"shard {path} is missing or not a regular file; {_REPAIR}")
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            check_no_pointer(stream.read(_BEGINNING_BYTES), path)
            stream.seek(0)
            length = _header_length(stream.read(LENGTH_BYTES), size, path)
            text = stream.read(length)
    except OSError as error:
        raise UserError(f"shard {path} cannot be read ({error.strerror}); check its permissions") from None
    if len(text) != length:
        raise UserError(f"shard {path} ends inside its header; {_REPAIR}")
    if not text.startswith(b"{"):
        raise UserError(f"shard {path}: the header does not start with '{{'; {_REPAIR}")
    header = parse_object(text, what=f"header of shard {path}")
    _check_metadata(header.pop(METADATA_KEY, {}), path)
    data_begin = LENGTH_BYTES + length
    entries = [_entry(name, info, data_begin, path) for name, info in header.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    _check_contiguous(entries, data_begin, size, path)
    return {entry.name: entry for entry in entries}


def _header_length(prefix: bytes, size: int, path: Path) -> int:
    if len(prefix) < LENGTH_BYTES:
        raise UserError(f"shard {path} has {size} bytes, too few for a safetensors header; {_REPAIR}")
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER_BYTES:
        raise UserError(f"shard {path} announces a header of {length} bytes, more than {MAX_HEADER_BYTES}; {_REPAIR}")
    if LENGTH_BYTES + length > size:
        raise UserError(f"shard {path} announces a header of {length} bytes but has only {size}; {_REPAIR}")
    return int(length)


def _check_metadata(metadata: object, path: Path) -> None:
    if metadata is None:  # as the library has it
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UserError(f"shard {path}: {METADATA_KEY} must map strings to strings; {_REPAIR}")


def _entry(name: str, info: Any, data_begin: int, path: Path) -> TensorEntry:
    where = f"shard {path}, tensor {shown(name)}"
    if not isinstance(info, dict) or not info.keys() >= {"dtype", "shape", "data_offsets"}:
        raise UserError(f"{where}: the entry must hold dtype, shape and data_offsets; {_REPAIR}")
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise UserError(f"{where}: {shown(dtype)} is not a safetensors dtype; {_REPAIR}")
    if not isinstance(shape, list) or not all(is_count(dim) for dim in shape):
        raise UserError(f"{where}: the shape must be a list of integers >= 0; {_REPAIR}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_count(offset) for offset in offsets):
        raise UserError(f"{where}: data_offsets must be two integers >= 0; {_REPAIR}")
    begin, end = offsets
    bits = DTYPE_BITS[dtype]
    for dim in shape:
        bits *= dim
        if bits >= _U64_LIMIT:
            raise UserError(f"{where}: the shape overflows 64 bits; {_REPAIR}")
    if bits % 8 or bits // 8 != end - begin:
        raise UserError(f"{where}: shape and dtype need {bits / 8:g} bytes, data_offsets say {end - begin}; {_REPAIR}")
    return TensorEntry(name, dtype, tuple(shape), path.name, data_begin + begin, data_begin + end)


def _check_contiguous(entries: list[TensorEntry], data_begin: int, size: int, path: Path) -> None:
    position = data_begin
    for entry in entries:
        if entry.begin != position:
            kind = "a hole" if entry.begin > position else "an overlap"
            raise UserError(f"shard {path} has {kind} in its data before tensor {shown(entry.name)}; {_REPAIR}")
        position = entry.end
    if position != size:
        raise UserError(f"shard {path} has {size} bytes where its header describes {position}; {_REPAIR}")
