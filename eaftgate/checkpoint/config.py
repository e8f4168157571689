"""What a config.json says of its model, checked: its family and its sizes."""

from pathlib import Path
from typing import Any

from eaftgate.errors import UserError
from eaftgate.families.family import Dimensions, Family
from eaftgate.families.registry import family_of


def read_config(config: dict[str, Any], *, where: Path) -> tuple[Family, Dimensions]:
    """The family and the sizes of `config` (from the file `where`). Raises UserError."""
    family = family_of(config, where=where)
    if "auto_map" in config:
        raise UserError(f"{where}: auto_map asks for code from the checkpoint to be run; do not use this checkpoint")
    dimensions = family.dimensions(config, where=where)
    if dimensions.top_k > dimensions.num_experts:
        raise UserError(
            f"{where}: {dimensions.top_k} experts per token of {dimensions.num_experts} is impossible; "
            "take a fresh copy of the file"
        )
    return family, dimensions
