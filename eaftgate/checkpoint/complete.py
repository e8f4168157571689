"""Whether a checkpoint holds just the tensors that its model class loads.

A loader invents what is missing and leaves out what it does not know, and says so where nobody looks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eaftgate.checkpoint.header import TensorEntry
from eaftgate.errors import UserError
from eaftgate.families.family import Family
from eaftgate.strict_json import shown

CHUNK_BYTES = 1 << 22
_SCALED = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_OF_ACTIVATIONS = ("activation", "input", "output")


def check_complete(
    path: Path,
    config: Mapping[str, Any],
    family: Family,
    needed: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, TensorEntry],
) -> None:
    """Hold the tensors that the checkpoint in `path` stores to those that its model class loads.

    Raises UserError, which names the first tensor that is missing, of another shape than config.json says, or one that
    the model does not have, and says how many more there are.
    """
    twins = {name: of for name, of in family.twins(config).items() if name in stored}
    known = {**needed} | {name: needed[of] for name, of in twins.items()}
    extra = [name for name in stored.keys() - known.keys() if not family.is_passed_over(name)]
    problems = [
        *(f"tensor {name!r} is missing, which the model needs" for name in sorted(needed.keys() - stored.keys())),
        *(
            f"tensor {name!r} has shape {list(entry.shape)[:8]} where config.json says {list(known[name])}"
            for name, entry in stored.items()
            if entry.shape != known.get(name, entry.shape)
        ),
        *(f"tensor {shown(name)} is none that the model has" for name in sorted(extra)),
    ]
    if problems:
        more = f" (the first of {len(problems)} tensors that are not as they must be)" if problems[1:] else ""
        raise UserError(f"{path}: {problems[0]}{more}; take a complete copy of the checkpoint and its config.json")
    for name, of in twins.items():
        if not _equal(path, stored[name], stored[of]):
            raise UserError(
                f"{path}: tensor {name!r} differs from {of!r}, which config.json says is the same (tied), so that "
                "loaders disagree on it; correct config.json or remove the tensor"
            )


def check_scaled(path: Path, stored: Mapping[str, TensorEntry]) -> None:
    """Raises UserError naming the first tensor of 8-bit floats that has no scale beside it: where a loader dequantises
    it takes them as they are then, and does not say so (transformers 5.24, FP8 on a CPU)."""
    scales: dict[str, list[str]] = {}
    for name in stored:
        module, _, part = name.rpartition(".")
        if "scale" in part and not part.startswith(_OF_ACTIVATIONS):
            scales.setdefault(module, []).append(part)
    for name, entry in stored.items():
        module, _, part = name.rpartition(".")
        beside = scales.get(module, [])
        if entry.dtype in _SCALED and not any(part == "weight" or scale.startswith(part) for scale in beside):
            raise UserError(
                f"{path}: tensor {shown(name)} is of 8-bit floats and its scale is missing; take a complete copy of "
                "the checkpoint"
            )


def _equal(path: Path, one: TensorEntry, other: TensorEntry) -> bool:
    if one.dtype != other.dtype:
        return False
    with (path / one.shard).open("rb") as ours, (path / other.shard).open("rb") as theirs:
        ours.seek(one.begin)
        theirs.seek(other.begin)
        sizes = (min(CHUNK_BYTES, one.nbytes - done) for done in range(0, one.nbytes, CHUNK_BYTES))
        return all(ours.read(size) == theirs.read(size) for size in sizes)
