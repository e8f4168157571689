"""NaN and infinity in stored weights, which the safetensors format does not look for.

Each stored value is looked at by its bits, in chunks, so that no dtype NumPy lacks (BF16) has to be decoded.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.checkpoint.header import TensorEntry
from eaftgate.errors import UserError
from eaftgate.families.family import Family

CHUNK_BYTES = 1 << 24
E8M0_NAN = 255
"""The one scale value that is not a power of two (OCP Microscaling Formats v1.0, section 5.4.1)."""

# dtype -> (unsigned integer of the same width, which of its bits are looked at, what they are in NaN or infinity).
_SCALES = ("u1", 0xFF, E8M0_NAN)
_NOT_FINITE: dict[str, tuple[str, int, int]] = {
    "BF16": ("<u2", 0x7F80, 0x7F80),
    "F16": ("<u2", 0x7C00, 0x7C00),
    "F32": ("<u4", 0x7F80_0000, 0x7F80_0000),
    "F64": ("<u8", 0x7FF0_0000_0000_0000, 0x7FF0_0000_0000_0000),
    "F8_E4M3": ("u1", 0x7F, 0x7F),
    "F8_E5M2": ("u1", 0x7C, 0x7C),
    "F8_E4M3FNUZ": ("u1", 0xFF, 0x80),
    "F8_E5M2FNUZ": ("u1", 0xFF, 0x80),
    "F8_E8M0": _SCALES,
}


def check_finite(checkpoint: Checkpoint) -> None:
    """Raise UserError naming the first tensor with NaN or infinity (of any floating dtype, and E8M0 scales)."""
    for entry in checkpoint.tensors.values():
        shard = checkpoint.path / entry.shard
        if _is_checked(entry, checkpoint.family) and (index := _first_nonfinite(shard, entry)) is not None:
            raise UserError(
                f"{shard}: tensor {entry.name!r} holds NaN or infinity at "
                f"element {index}; take a fresh copy of the checkpoint"
            )


def _is_checked(entry: TensorEntry, family: Family) -> bool:
    return entry.dtype in _NOT_FINITE or family.is_scales(entry.name)


def _first_nonfinite(shard: Path, entry: TensorEntry) -> int | None:
    """Flat index of the first value that is not finite."""
    kind, looked_at, found = _NOT_FINITE.get(entry.dtype, _SCALES)
    dtype = np.dtype(kind)
    mask, value = dtype.type(looked_at), dtype.type(found)
    done = 0
    total = entry.nbytes // dtype.itemsize
    try:
        with shard.open("rb") as stream:
            stream.seek(entry.begin)
            while done < total:
                count = min(CHUNK_BYTES // dtype.itemsize, total - done)
                bits: NDArray[np.unsignedinteger] = np.frombuffer(stream.read(count * dtype.itemsize), dtype)
                if len(bits) != count:
                    raise UserError(f"shard {shard} ends inside tensor {entry.name!r}; take a fresh copy of the file")
                bad = (bits & mask) == value
                if bad.any():
                    return done + int(bad.argmax())
                done += count
    except OSError as error:
        raise UserError(f"shard {shard} cannot be read ({error.strerror}); check the checkpoint") from None
    return None
