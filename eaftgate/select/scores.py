"""The scores snapshot: a profile as far as scoring methods need it, small enough to travel with a checkpoint.

reap-scores.yaml says what the sums are of; reap-scores.npz beside it holds them, and the profile's rows. Any keep_n,
scoring method and token weights can be cut from them, as from the profile; another alignment cannot.
"""

import hashlib
import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eaftgate.arrays import DamagedArray, read_archive
from eaftgate.errors import UserError
from eaftgate.files import read_regular, sha256_json
from eaftgate.profile.profile import Alignment, Profile, ProfileDescription
from eaftgate.profile.trace import TraceDimensions
from eaftgate.records import first_problem
from eaftgate.select.class_weights import ClassWeights
from eaftgate.select.saliency import RegionSums, region_sums
from eaftgate.strict_yaml import read_yaml, yaml_value

SCORES_FILE = "reap-scores.yaml"
DATA_FILE = "reap-scores.npz"
MAX_DATA_BYTES = 1_000_000_000
_COMMENT = """\
# Sums over the profile that this checkpoint was made from. Other numbers of experts, scoring methods and token weights
# are cut from them without profiling again:
#   eaftgate prune BASE --scores reap-scores.yaml --keep-n N{weighed} --out NEW
"""


@dataclass(frozen=True)
class Scores:
    """Sums over the trace of the profile `description` (see profile.json), at `alignment`'s positions."""

    description: ProfileDescription
    alignment: str
    low_quantile: float
    sums: RegionSums
    classes: ClassWeights = field(default_factory=ClassWeights)


class _Snapshot(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    snapshot_schema: Literal["scores-1"] = Field(alias="schema")
    data_sha256: str
    alignment: Alignment
    low_quantile: Annotated[float, Field(ge=0, le=1)]
    class_weights: dict[str, float] = {}
    """Empty: content alone, every token alike."""
    profile: dict[str, Any]
    sha256: str | None = None
    """Of everything else that it says; None in files of earlier versions."""


def scores_of(profile: Profile, *, alignment: str, low_quantile: float, classes: ClassWeights | None = None) -> Scores:
    sums = region_sums(profile.trace, alignment=alignment, low_quantile=low_quantile, classes=classes)
    return Scores(profile.description, alignment, low_quantile, sums, classes or ClassWeights())


def scores_files(scores: Scores) -> dict[str, bytes]:
    """The two files of the snapshot by name, the same for the same scores."""
    description, data = scores.description, io.BytesIO()
    plain = scores.classes == ClassWeights()
    weighed = "" if plain else f" --class-weight {scores.classes.as_option()}"
    np.savez(data, rows=np.array(description.rows, dtype=np.bytes_), **asdict(scores.sums))
    told: dict[str, Any] = {
        "schema": "scores-1",
        "data_sha256": hashlib.sha256(data.getvalue()).hexdigest(),
        "alignment": scores.alignment,
        "low_quantile": scores.low_quantile,
        **({} if plain else {"class_weights": scores.classes.as_dict()}),
        "profile": description.model_dump(
            by_alias=True, exclude={"rows", "eaftgate", "thresholds", "seconds", "trace"}
        ),
    }
    told["sha256"] = sha256_json(told)
    return {
        SCORES_FILE: (_COMMENT.format(weighed=weighed) + yaml.safe_dump(told, sort_keys=False)).encode(),
        DATA_FILE: data.getvalue(),
    }


def open_scores(path: Path) -> Scores:
    """Read a snapshot. Raises UserError when a file is missing, damaged or not of this kind."""
    try:
        read = yaml_value(read_yaml(path, what="scores file"), where=path)
        told = _Snapshot.model_validate(read)
        data_path = path.with_suffix(".npz")
        data = read_regular(data_path, what="scores file", limit=MAX_DATA_BYTES)
    except ValidationError as error:
        raise UserError(
            f"{path} is not a {SCORES_FILE} that eaftgate prune wrote: {first_problem(error)}; take a fresh copy"
        ) from None
    if told.sha256 is not None and told.sha256 != _sha256_of_rest(read):
        raise UserError(f"{path} has changed since it was written (its sha256 differs): take fresh copies")
    if hashlib.sha256(data).hexdigest() != told.data_sha256:
        raise UserError(f"{data_path} is not the file that {path} speaks of (its sha256 differs): take fresh copies")
    try:
        arrays = read_archive(data, {"rows": "|S", "hits_PLE": "<f", "norm_PLE": "<f", "mass_PRLE": "<f"})
        rows = arrays.pop("rows").astype(np.str_).tolist()
    except (DamagedArray, UnicodeDecodeError) as error:
        raise UserError(f"{data_path} cannot be read ({error}): take fresh copies") from None
    sums = RegionSums(**arrays)
    try:
        description = ProfileDescription.model_validate({**told.profile, "rows": rows})
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)}; profile again") from None
    _check_sums(sums, description.dimensions, data_path)
    if len(sums.hits_PLE) > len(description.packs):
        raise UserError(f"{data_path} has sums of more packs than {path} names: take fresh copies")
    if unknown := told.class_weights.keys() - ClassWeights().as_dict().keys():
        raise UserError(f"{path} weighs {min(unknown)!r}, which is no class of tokens: take fresh copies")
    return Scores(description, told.alignment, told.low_quantile, sums, ClassWeights(**told.class_weights))


def _sha256_of_rest(read: dict[str, Any]) -> str | None:
    try:
        return sha256_json({key: value for key, value in read.items() if key != "sha256"})
    except TypeError:  # a date, say, which we have never written
        return None


def _check_sums(sums: RegionSums, dimensions: TraceDimensions, path: Path) -> None:
    layers, experts = dimensions.num_layers, dimensions.num_experts
    packs = len(sums.hits_PLE) if sums.hits_PLE.ndim else 0
    expected = {"hits_PLE": (packs, layers, experts), "norm_PLE": (packs, layers, experts)}
    for name, shape in {**expected, "mass_PRLE": (packs, 3, layers, experts)}.items():
        array = getattr(sums, name)
        numbers = packs > 0 and array.shape == shape and array.dtype == np.float64 and np.isfinite(array).all()
        if not numbers or (array < 0).any():
            raise UserError(
                f"{path}: {name} must be finite float64 numbers from 0 of shape {list(shape)}: take fresh copies"
            )
