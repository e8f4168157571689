"""The scores snapshot: a profile as far as scoring methods need it, small enough to travel with a checkpoint.

reap-scores.yaml says what the sums are of; reap-scores.npz beside it holds them, by pack and by class of token, and the
profile's rows. Cut from them as from the profile: any keep_n, scoring method, weights of regions, and weights of
classes with a type_power that there are sums for. Not: another alignment or quantile. A snapshot of earlier versions
holds the sums of one weighting of classes.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eaftgate.arrays import DamagedArray, read_archive
from eaftgate.errors import UserError
from eaftgate.files import read_regular, sha256_json
from eaftgate.packs.harmony import TokenClass
from eaftgate.profile.profile import Alignment, Profile, ProfileDescription
from eaftgate.records import first_problem
from eaftgate.select.class_sums import STORED_POWERS, ClassSums, sums_of_classes
from eaftgate.select.class_weights import ClassWeights
from eaftgate.select.saliency import RegionSums
from eaftgate.strict_yaml import read_yaml, yaml_value

SCORES_FILE = "reap-scores.yaml"
DATA_FILE = "reap-scores.npz"
MAX_DATA_BYTES = 1_000_000_000
_COMMENT = """\
# Sums over the profile that this checkpoint was made from. Other numbers of experts, scoring methods and weights of
# tokens are cut from them without profiling again, with the options of reap-recipe.yaml or with others:
#   eaftgate prune BASE --scores reap-scores.yaml --keep-n N --out NEW
"""
_SUMS = dict.fromkeys(("hits_PLE", "norm_PLE", "mass_PRLE"), "<f")
_CLASS_SUMS = dict.fromkeys(("hits_ZCPLE", "norm_ZCPLE", "mass_ZCPRLE"), "<f")


@dataclass(frozen=True)
class Scores:
    """Sums over the trace of the profile `description` (see profile.json), at `alignment`'s positions: `sums` by the
    weights `classes`, and of every class by itself, but for a profile of before classes and a snapshot of an earlier
    version."""

    description: ProfileDescription
    alignment: str
    low_quantile: float
    sums: RegionSums
    classes: ClassWeights = field(default_factory=ClassWeights)
    by_class: ClassSums | None = None

    def weighed(self, classes: ClassWeights) -> RegionSums:
        """What sums_of_classes makes of the trace, by these weights. Raises UserError for weights that the sums cannot
        give."""
        if classes == self.classes:
            return self.sums
        if self.by_class is None:
            held = "without --class-weight"
            if self.classes != ClassWeights():
                held = f"with --class-weight {self.classes.as_option()}"
            raise UserError(
                f"--scores hold sums of one weighting, cut {held}, because an earlier version made them or profiled: "
                "give the same, or --profile of a profile that says what its tokens are"
            )
        return self.by_class.mixed(classes)


class _Classes(BaseModel):
    """What the axes Z and C of the class sums are, the latter with the numbers of their tokens."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type_powers: Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(min_length=1)]
    tokens: Annotated[dict[str, Annotated[int, Field(gt=0, lt=1 << 62)]], Field(min_length=1)]


class _Snapshot(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    snapshot_schema: Literal["scores-1"] = Field(alias="schema")
    data_sha256: str
    alignment: Alignment
    low_quantile: Annotated[float, Field(ge=0, le=1)]
    class_weights: dict[str, float] = {}
    """Of earlier versions; empty: content alone, every token alike."""
    classes: _Classes | None = None
    """None in files of earlier versions, and of a profile of before classes."""
    profile: dict[str, Any]
    sha256: str | None = None
    """Of everything else that it says; None in files of earlier versions."""


def scores_of(profile: Profile, *, alignment: str, low_quantile: float, classes: ClassWeights | None = None) -> Scores:
    """Raises UserError for `classes` that the profile cannot give; the sums hold their type_power."""
    weights, trace = classes or ClassWeights(), profile.trace
    weights.token_weights(trace)  # may refuse
    powers = [*STORED_POWERS, weights.type_power] if trace.knows_classes else []
    plain, by_class = sums_of_classes(trace, powers, alignment=alignment, low_quantile=low_quantile)
    held = by_class if trace.knows_classes else None
    return Scores(profile.description, alignment, low_quantile, plain, by_class=held)


def scores_files(scores: Scores) -> dict[str, bytes]:
    """The two files of the snapshot by name, the same for the same scores."""
    description, data = scores.description, io.BytesIO()
    by_class = scores.by_class
    arrays = asdict(scores.sums) | ({} if by_class is None else {name: getattr(by_class, name) for name in _CLASS_SUMS})
    np.savez(data, rows=np.array(description.rows, dtype=np.bytes_), **arrays)
    told: dict[str, Any] = {
        "schema": "scores-1",
        "data_sha256": hashlib.sha256(data.getvalue()).hexdigest(),
        "alignment": scores.alignment,
        "low_quantile": scores.low_quantile,
        **({} if scores.classes == ClassWeights() else {"class_weights": scores.classes.as_dict()}),
        **({} if by_class is None else {"classes": _classes_told(by_class)}),
        "profile": description.model_dump(
            by_alias=True, exclude={"rows", "eaftgate", "thresholds", "seconds", "speed", "trace"}
        ),
    }
    told["sha256"] = sha256_json(told)
    return {
        SCORES_FILE: (_COMMENT + yaml.safe_dump(told, sort_keys=False)).encode(),
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
        arrays = read_archive(data, {"rows": "|S"} | _SUMS | ({} if told.classes is None else _CLASS_SUMS))
        rows = arrays["rows"].astype(np.str_).tolist()
    except (DamagedArray, UnicodeDecodeError) as error:
        raise UserError(f"{data_path} cannot be read ({error}): take fresh copies") from None
    try:
        description = ProfileDescription.model_validate({**told.profile, "rows": rows})
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)}; profile again") from None
    packs = len(arrays["hits_PLE"]) if arrays["hits_PLE"].ndim else 0
    if packs > len(description.packs):
        raise UserError(f"{data_path} has sums of more packs than {path} names: take fresh copies")
    sizes = {"P": packs, "R": 3, "L": description.dimensions.num_layers, "E": description.dimensions.num_experts}
    if told.classes is not None:
        sizes |= {"Z": len(told.classes.type_powers), "C": len(told.classes.tokens)}
    _check_sums(arrays, sizes, data_path)
    sums = RegionSums(**{name: arrays[name] for name in _SUMS})
    by_class = None if told.classes is None else _class_sums(told.classes, arrays, path)
    try:
        weights = ClassWeights.named(told.class_weights)
    except UserError as error:
        raise UserError(f"{path}: {error}: take fresh copies") from None
    return Scores(description, told.alignment, told.low_quantile, sums, weights, by_class)


def _sha256_of_rest(read: dict[str, Any]) -> str | None:
    try:
        return sha256_json({key: value for key, value in read.items() if key != "sha256"})
    except TypeError:  # a date, say, which we have never written
        return None


def _classes_told(by_class: ClassSums) -> dict[str, Any]:
    tokens = zip(by_class.classes, by_class.tokens_C.tolist(), strict=True)
    return {
        "type_powers": list(by_class.type_powers),
        "tokens": {kind.name.lower(): number for kind, number in tokens},
    }


def _class_sums(told: _Classes, arrays: Mapping[str, NDArray[Any]], path: Path) -> ClassSums:
    if len(set(told.type_powers)) < len(told.type_powers):
        raise UserError(f"{path} names a type_power twice: take fresh copies")
    kinds = {kind.name.lower(): kind for kind in TokenClass}
    if unknown := told.tokens.keys() - kinds.keys():
        raise UserError(f"{path} has tokens of {min(unknown)!r}, which is no class of tokens: take fresh copies")
    return ClassSums(
        tuple(told.type_powers),
        tuple(kinds[name] for name in told.tokens),
        np.array(list(told.tokens.values()), np.int64),
        **{name: arrays[name] for name in _CLASS_SUMS},
    )


def _check_sums(arrays: Mapping[str, NDArray[Any]], sizes: Mapping[str, int], path: Path) -> None:
    """Every array's shape is what its name says."""
    for name in (name for name in (*_SUMS, *_CLASS_SUMS) if name in arrays):
        array, shape = arrays[name], tuple(sizes[axis] for axis in name.partition("_")[2])
        numbers = sizes["P"] > 0 and array.shape == shape and array.dtype == np.float64 and np.isfinite(array).all()
        if not numbers or (array < 0).any():
            raise UserError(
                f"{path}: {name} must be finite float64 numbers from 0 of shape {list(shape)}: take fresh copies"
            )
