"""Bytes of a shard that is open, as many as were asked for."""

import os
from typing import BinaryIO

from eaftgate.errors import UserError


def read_all(file: BinaryIO, begin: int, view: memoryview) -> None:
    """Fill `view` from the byte `begin` of a file on. Raises UserError when that has become shorter."""
    while view:
        count = os.preadv(file.fileno(), [view], begin)
        if count == 0:
            raise UserError(f"shard {file.name} became shorter while it was read; restore it and run again")
        begin += count
        view = view[count:]
