"""NumPy's files from outside: arrays of the type and shape that the caller declares, and nothing else.

np.load evaluates a header, follows pickles and allocates what a header announces; here a file holds just the bytes that
its header describes, or it is refused before they are read.
"""

import io
import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

MAX_ARCHIVE_BYTES = 4_000_000_000
"""Of all arrays of an archive, as they are in memory."""
_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 10_000
_HEADER = re.compile(
    rb"\{'descr': '([<>|=][biufS][0-9]{1,6})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,18}, )*[0-9]{0,18},?)\), \} *\n"
)
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


class DamagedArray(ValueError):
    """What is wrong with a file, in half a sentence."""


@dataclass(frozen=True)
class _Form:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool
    begin: int
    """Bytes before the data."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def open_array(path: Path) -> NDArray[Any]:
    """The array of a .npy file, mapped. Raises DamagedArray, or OSError."""
    if not path.is_file():
        raise DamagedArray(f"{path.name} is missing or no regular file")
    with path.open("rb") as stream:
        form = _form(stream, path.name)
    if form.begin + form.nbytes != (size := path.stat().st_size):
        raise DamagedArray(f"{path.name} has {size} bytes where its header describes {form.begin + form.nbytes}")
    order: Any = "F" if form.is_fortran else "C"
    if form.nbytes == 0:
        return np.empty(form.shape, form.dtype, order)
    return np.memmap(path, form.dtype, "r", form.begin, form.shape, order)


def read_archive(data: bytes, expected: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, of which there are just those `expected`: name -> what their dtype begins with, like
    "<f8" or "|S". Raises DamagedArray."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            names = sorted(member.filename for member in members)
            if names != sorted(f"{name}.npy" for name in expected):
                raise DamagedArray(f"it holds {', '.join(names)[:300] or 'nothing'}")
            total = sum(member.file_size for member in members)
            if total > MAX_ARCHIVE_BYTES:
                raise DamagedArray(f"its arrays take {total} bytes, more than {MAX_ARCHIVE_BYTES}")
            return {member.filename.removesuffix(".npy"): _member(archive, member, expected) for member in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        if isinstance(error, DamagedArray):
            raise
        raise DamagedArray(" ".join(str(error).split())[:200] or type(error).__name__) from None


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, expected: Mapping[str, str]) -> NDArray[Any]:
    name = member.filename
    if member.compress_type not in (_STORED, _DEFLATED) or member.flag_bits & 1:
        raise DamagedArray(f"{name} is compressed in a way that is not read, or encrypted")
    with archive.open(member) as stream:
        form = _form(stream, name)
        if not form.dtype.str.startswith(wanted := expected[name.removesuffix(".npy")]):
            raise DamagedArray(f"{name} holds {form.dtype.str}, not {wanted}")
        if form.begin + form.nbytes != member.file_size:
            raise DamagedArray(
                f"{name} has {member.file_size} bytes where its header describes {form.begin + form.nbytes}"
            )
        content = stream.read(form.nbytes + 1)  # the one more makes zipfile compare the checksum
    if len(content) != form.nbytes:
        raise DamagedArray(f"{name} ends too soon")
    flat: NDArray[Any] = np.frombuffer(content, form.dtype)
    return flat.reshape(form.shape, order="F" if form.is_fortran else "C")


def _form(stream: IO[bytes], name: str) -> _Form:
    begin = stream.read(10)
    length = int.from_bytes(begin[8:10], "little")
    if len(begin) < 10 or not begin.startswith(_MAGIC + b"\x01\x00") or length > _MAX_HEADER_BYTES:
        raise DamagedArray(f"{name} is no .npy file of version 1.0")
    match = _HEADER.fullmatch(stream.read(length))
    if match is None:
        raise DamagedArray(f"{name} has a header that describes no plain array")
    try:
        dtype = np.dtype(match[1].decode())
    except TypeError:
        raise DamagedArray(f"{name} holds {match[1].decode()!r}, which is no type") from None
    shape = tuple(int(size) for size in match[3].decode().split(",") if size.strip())
    if len(shape) > 8 or math.prod(max(size, 1) for size in shape) * max(dtype.itemsize, 1) >= 1 << 62:
        raise DamagedArray(f"{name} has an impossible shape")
    return _Form(dtype, shape, match[2] == b"True", 10 + length)
