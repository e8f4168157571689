"""The families that are known, by the `model_type` of config.json.

Another one is a module with a class that satisfies `family.Family`, one with a class that satisfies
`model.MoeModel`, and an entry in FAMILIES.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eaftgate.errors import UserError
from eaftgate.families.family import Family
from eaftgate.families.gpt_oss import GptOss
from eaftgate.strict_json import shown

FAMILIES: dict[str, Family] = {family.model_type: family for family in (GptOss(),)}


def family_of(config: Mapping[str, Any], *, where: Path) -> Family:
    """The family of a config.json (the file `where`). Raises UserError for a model_type that is not known, or one with
    another architecture than its own."""
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is not None and config.get("architectures", [family.architecture]) == [family.architecture]:
        return family
    known = FAMILIES.values()
    raise UserError(
        f"{where}: model_type {shown(model_type)} with architectures {_listed(config)} "
        f"is not {' or '.join(family.name for family in known)}; only "
        f"{', '.join(f'{family.model_type!r} / {family.architecture}' for family in known)} checkpoints can be used"
    )


def _listed(config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures")
    if isinstance(architectures, list) and len(architectures) == 1:
        return shown(architectures[0])
    return shown(architectures)
