"""A copy of a checkpoint that is off by one bfloat16 ulp: what the noise floor of any engine can be measured with.

The weights of the two norms of every layer move by one unit in the last place, up or down by a seeded coin, and with
them every number that enters an attention or a mixture of experts. No serving engine promises more than that.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from eaftgate.building import build
from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.errors import UserError

_BITS: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {"BF16": (np.uint16, 1), "F32": (np.uint32, 1 << 16)}
"""Stored dtype -> the integer of its bits, and one bfloat16 ulp in them."""


def perturb_in_place(path: Path, *, seed: int) -> None:
    """Perturb the checkpoint directory `path`. Raises UserError when its norms are neither bfloat16 nor float32."""
    checkpoint = open_checkpoint(path)
    rng = np.random.default_rng(seed)
    for name, entry in sorted(checkpoint.tensors.items()):
        if not checkpoint.family.is_norm(name):
            continue
        if entry.dtype not in _BITS:
            raise UserError(f"{name} of {path} is {entry.dtype}: the noise floor needs norms in BF16 or F32")
        unsigned, ulp = _BITS[entry.dtype]
        with (path / entry.shard).open("r+b") as stream:
            stream.seek(entry.begin)
            bits = np.frombuffer(stream.read(entry.nbytes), unsigned)
            step = np.where(rng.random(len(bits)) < 0.5, ulp, -ulp).astype(unsigned)  # wraps around, as it must
            magnitude = bits & unsigned(np.iinfo(unsigned).max >> 1)
            stream.seek(entry.begin)
            stream.write(np.where(magnitude < ulp, bits, bits + step).tobytes())  # zero has no neighbour below


def make_perturbed(source: Path, out: Path, *, seed: int) -> None:
    """`out` becomes `source` (a finished rewrite) perturbed; it appears under its name only when it is whole."""
    with build(out) as work:
        shutil.copytree(source, work.payload, dirs_exist_ok=True)
        perturb_in_place(work.payload, seed=seed)
