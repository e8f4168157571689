"""Keep sets that somebody else has chosen, from a file: one that eaftgate wrote, or a list of lists.

{"num_experts": 32, "keep_n": 24, "layers": {"0": {"1": 0, "4": 1, ...}, ...}}     expert_mapping.json
[[1, 4, ...], ...]                                                                 ids in the base, by layer
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.errors import UserError
from eaftgate.rewrite.keep_n import ALLOW_ANY, check_keep_sets
from eaftgate.rewrite.manifest import MAPPING_FILE
from eaftgate.strict_json import is_count, parse_json, read_limited, shown, without_mark

if TYPE_CHECKING:
    from eaftgate.select.keep import KeepSets

_EXPERT_ID = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)
_FORMS = f"it must be an {MAPPING_FILE}, or ascending expert ids by layer, like [[0, 3], [1, 2]]"


@dataclass(frozen=True)
class GivenKeepSets:
    """`sha256` is the file's."""

    path: Path
    sha256: str
    keep: "KeepSets"

    @property
    def keep_n(self) -> int:
        return len(self.keep[0])


def read_keep_sets(path: Path, base: Checkpoint, *, allow_any_keep_n: bool = False) -> GivenKeepSets:
    """The keep sets in `path`, which are such that `base` can be cut to them. Raises UserError when they are not."""
    data = read_limited(path, what="the file of keep sets", remedy=_FORMS)
    value = parse_json(without_mark(data), what=f"keep sets {path}", remedy=_FORMS)
    try:
        keep = check_keep_sets(
            _of_mapping(value, base) if isinstance(value, dict) else _of_lists(value),
            num_layers=base.num_layers,
            num_experts=base.num_experts,
            top_k=base.top_k,
            allow_any=allow_any_keep_n,
            option=ALLOW_ANY,
        )
    except UserError as error:
        raise UserError(f"keep sets {path}: {error}") from None
    return GivenKeepSets(path, hashlib.sha256(data).hexdigest(), keep)


def _of_lists(value: Any) -> "KeepSets":
    if not isinstance(value, list):
        raise UserError(f"{shown(value)} is no list of layers; {_FORMS}")
    for layer, row in enumerate(value):
        if not isinstance(row, list):
            raise UserError(f"the keep set of layer {layer} is {shown(row)}; {_FORMS}")
        if wrong := [expert for expert in row if not is_count(expert)]:
            raise UserError(f"the keep set of layer {layer} holds {shown(wrong[0])}, which is no expert id; {_FORMS}")
    return value


def _of_mapping(value: dict[str, Any], base: Checkpoint) -> "KeepSets":
    """Of another number of experts it is another model's, whatever its ids are."""
    if value.get("num_experts") != base.num_experts:
        said = shown(value.get("num_experts"))
        raise UserError(f"num_experts is {said}, and {base.name} has {base.num_experts}: it is of another base")
    layers, numbers = value.get("layers"), [str(layer) for layer in base.dimensions.moe_layers]
    if not isinstance(layers, dict) or layers.keys() != set(numbers):
        raise UserError(f"layers must be those of {base.name}, {numbers[0]} to {numbers[-1]}, each once; {_FORMS}")
    keep = []
    for number in numbers:
        row = layers[number]
        if not isinstance(row, dict) or not all(map(_EXPERT_ID.fullmatch, row)):
            raise UserError(f"layer {number} must map expert ids to expert ids; {_FORMS}")
        if not all(map(is_count, row.values())) or list(row.values()) != list(range(len(row))):
            raise UserError(f"layer {number} does not number its experts from 0 in ascending order; {_FORMS}")
        keep.append([int(expert) for expert in row])
    if value.get("keep_n") != len(keep[0]):
        raise UserError(f"keep_n is {shown(value.get('keep_n'))}, and layer {numbers[0]} has {len(keep[0])} experts")
    return keep
