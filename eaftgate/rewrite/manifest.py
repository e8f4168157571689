"""manifest.json: what a rewritten checkpoint was made from, with which choices, and every file's sha256."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from eaftgate.errors import UserError
from eaftgate.files import sha256_file
from eaftgate.records import Record, first_problem, read_model
from eaftgate.rewrite.keep_n import check_keep_sets
from eaftgate.strict_json import read_object

MANIFEST_FILE = "manifest.json"
MAPPING_FILE = "expert_mapping.json"
CARD_FILE = "README.md"
"""The model card. Not in the manifest: that which is published has the verdict in it, and the same manifest holds."""
FORMAT: Final = "eaftgate-checkpoint"
_UNLISTED_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".py")
"""What a loader may pick up by itself: nothing of the kind may lie in the directory unlisted."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][^/\\\x00-\x1f\x7f]*$")]
"""One in the directory itself: "LICENSE (1).txt" is one, "../LICENSE" is not."""
Count = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FileRecord(_Strict):
    """Content of one file; `size` in bytes."""

    sha256: Sha256
    size: Count


class BaseRecord(_Strict):
    """The checkpoint that was rewritten."""

    name: str
    """As the user gave it."""
    digest: Sha256
    num_experts: Count
    top_k: Count


class ToolRecord(_Strict):
    name: Literal["eaftgate"] = "eaftgate"
    version: str


class Selection(Record):
    """What others read of a provenance, which says more."""

    method: str | None = None
    calibration_rows: list[str] = Field(default_factory=list)
    """Identities of the rows that the experts were chosen on."""
    class_weights: dict[str, float] = Field(default_factory=dict)
    """By class of token; empty: content alone, every token alike."""


class Manifest(_Strict):
    """The manifest of a rewritten checkpoint."""

    schema_version: Literal[1] = 1
    format: Literal["eaftgate-checkpoint"] = FORMAT
    base: BaseRecord
    keep_n: Count
    keep_frac: Annotated[float, Field(gt=0, le=1)]
    """keep_n / base.num_experts."""
    allow_any_keep_n: bool
    keep: list[list[Count]]
    """Per layer that has experts, the kept ones' ids in the base, ascending."""
    provenance: dict[str, Any]
    """Method, parameters, profile: whatever the selection wants to be remembered by."""
    tool: ToolRecord
    max_shard_bytes: Count | None = None
    """Not there where it is the limit that published shards keep to."""
    files: dict[FileName, FileRecord]
    """Every file of the checkpoint but the manifest itself and the card."""

    def content(self) -> dict[str, Any]:
        """Of manifest.json."""
        return self.model_dump(exclude={"max_shard_bytes"} if self.max_shard_bytes is None else None)

    @property
    def selection(self) -> Selection:
        """Raises UserError when the provenance says it in another way."""
        try:
            return Selection.model_validate(self.provenance)
        except ValidationError as error:
            raise UserError(
                f"the manifest's provenance: {first_problem(error)}; rewrite the checkpoint again"
            ) from None


def expert_mapping(manifest: Manifest, moe_layers: Sequence[int]) -> dict[str, Any]:
    """Content of expert_mapping.json: layer -> expert id in the base -> expert id here. `moe_layers` are the numbers,
    in the model, of the layers that the keep sets are of."""
    return {
        "num_experts": manifest.base.num_experts,
        "keep_n": manifest.keep_n,
        "layers": {
            str(layer): {str(old): new for new, old in enumerate(row)}
            for layer, row in zip(moe_layers, manifest.keep, strict=False)  # an edited manifest may hold any number
        },
    }


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the rewritten checkpoint in `directory`. Raises UserError when missing or not valid."""
    return read_model(directory / MANIFEST_FILE, Manifest, what="the manifest", remedy="rewrite the checkpoint again")


def read_kept(directory: Path) -> Manifest:
    """The same, with keep sets that agree with the rest of it. Raises UserError."""
    manifest = read_manifest(directory)
    base, keep = manifest.base, manifest.keep
    try:
        check_keep_sets(keep, num_layers=len(keep), num_experts=base.num_experts, top_k=base.top_k, allow_any=True)
        if len(keep[0]) != manifest.keep_n:
            raise UserError(f"keep_n is {manifest.keep_n}, and layer 0 keeps {len(keep[0])} experts")
    except UserError as error:
        raise UserError(f"{directory / MANIFEST_FILE}: {error}") from None
    return manifest


def own_manifest(directory: Path) -> Manifest | None:
    """The same of a checkpoint that eaftgate need not have made: None unless the file says that it is of its format."""
    try:
        said = read_object(directory / MANIFEST_FILE, what="the manifest")
    except UserError:
        return None
    return read_manifest(directory) if "keep" in said and said.get("format", FORMAT) == FORMAT else None


def verify_files(
    directory: Path, files: Mapping[str, FileRecord], *, hash_contents: bool, record: str = "the manifest"
) -> list[str]:
    """What differs between the files of `directory` and those that `record` lists, one sentence each; empty if nothing.

    Without `hash_contents` only presence and sizes are compared.
    """
    problems = [
        f"{path.name} is not in {record}"
        for path in sorted(directory.iterdir())
        if path.suffix in _UNLISTED_SUFFIXES and path.name not in files
    ]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = pool.map(
            lambda item: _problem(directory / item[0], item[1], hash_contents, record), sorted(files.items())
        )
        return problems + [problem for problem in found if problem]


def _problem(path: Path, listed: FileRecord, hash_contents: bool, record: str) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    try:
        size = path.stat().st_size
        if size != listed.size:
            return f"{path.name} has {size} bytes where {record} says {listed.size}"
        if hash_contents and sha256_file(path) != listed.sha256:
            return f"{path.name} does not have the sha256 of {record}"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None
