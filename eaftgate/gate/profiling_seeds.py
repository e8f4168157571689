"""Which checkpoints of a run differ only in their profiling seed, told by their manifests.

The seed decides which calibration rows are drawn and in which order. What follows from it (the rows and blocks, and how
many tokens they count) may differ within a group; whatever else a manifest records may not.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from eaftgate.errors import UserError
from eaftgate.files import sha256_json
from eaftgate.prune.methods import needing
from eaftgate.rewrite.manifest import MANIFEST_FILE, Manifest, read_manifest
from eaftgate.select.keep import KeepSets
from eaftgate.select.overlap import jaccard_L

_FOLLOWS_FROM_SEED = frozenset({"seed", "packs", "num_blocks", "counted_tokens", "blocks_digest"})

_FOUND = frozenset({"positions", "start", "swaps"})
"""Of a search: what it found, not how it was asked."""


@dataclass(frozen=True)
class ProfilingGroup:
    """Two or more checkpoints, by ascending profiling seed: `checkpoints[i]` was profiled with `seeds[i]`.

    `jaccard_PL[p]` is the overlap of the keep sets of the p-th pair per layer; `rows_jaccard` the mean overlap of the
    calibration rows over the pairs: seeds that saw the same rows say little.
    """

    checkpoints: tuple[str, ...]
    seeds: tuple[int, ...]
    jaccard_PL: tuple[tuple[float, ...], ...]
    rows_jaccard: float

    @property
    def name(self) -> str:
        return "+".join(self.checkpoints)

    @property
    def mean_jaccard_L(self) -> list[float]:
        """Per layer, over the pairs."""
        return [fmean(layer) for layer in zip(*self.jaccard_PL, strict=True)]

    @property
    def min_jaccard_L(self) -> list[float]:
        """Per layer, of the pair that overlaps least."""
        return [min(layer) for layer in zip(*self.jaccard_PL, strict=True)]


class _Lenient(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Profile(_Lenient):
    seed: int
    packs: dict[str, int]


class _Provenance(_Lenient):
    """What is looked at of a manifest's provenance, which may say more."""

    method: str
    profile: _Profile
    calibration_rows: list[str]
    search: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Profiled:
    """A checkpoint that a profile chose the experts of. `recipe` is equal where only the seed differs."""

    recipe: str
    seed: int
    keep: KeepSets
    rows: frozenset[str]


def local_manifests(checkpoints: Mapping[str, str]) -> dict[str, Manifest]:
    """The manifests of those that are directories, by name; one that cannot be read is for the checkpoint's own cases
    to report, and a hub id is not fetched for this."""
    found = {}
    for name, source in checkpoints.items():
        with suppress(UserError, OSError):
            if (Path(source) / MANIFEST_FILE).is_file():
                found[name] = read_manifest(Path(source))
    return found


def profiling_groups(manifests: Mapping[str, Manifest]) -> tuple[ProfilingGroup, ...]:
    """Groups of two or more profiling seeds, in the order of their first checkpoints; of a seed the first counts."""
    by_recipe: defaultdict[str, dict[int, tuple[str, _Profiled]]] = defaultdict(dict)
    for name, manifest in manifests.items():
        if profiled := _profiled(manifest):
            by_recipe[profiled.recipe].setdefault(profiled.seed, (name, profiled))
    return tuple(
        _group([by_seed[seed] for seed in sorted(by_seed)]) for by_seed in by_recipe.values() if len(by_seed) > 1
    )


def _group(members: Sequence[tuple[str, _Profiled]]) -> ProfilingGroup:
    pairs = list(combinations([profiled for _, profiled in members], 2))
    return ProfilingGroup(
        checkpoints=tuple(name for name, _ in members),
        seeds=tuple(profiled.seed for _, profiled in members),
        jaccard_PL=tuple(tuple(jaccard_L(a.keep, b.keep).tolist()) for a, b in pairs),
        rows_jaccard=fmean(len(a.rows & b.rows) / max(1, len(a.rows | b.rows)) for a, b in pairs),
    )


def _profiled(manifest: Manifest) -> _Profiled | None:
    """None when no profile chose the experts, even if one was given, or when the manifest does not say how."""
    try:
        provenance = _Provenance.model_validate(manifest.provenance)
    except ValidationError:
        return None
    if provenance.method in needing("nothing") or manifest.keep_n in (0, manifest.base.num_experts):
        return None
    if any(len(set(experts)) != manifest.keep_n for experts in manifest.keep) or not manifest.keep:
        return None
    recipe = {
        **manifest.provenance,
        "base": manifest.base.digest,
        "eaftgate": manifest.tool.version,
        "keep_n": manifest.keep_n,
        "layers": len(manifest.keep),
        # A profile of an earlier version does not name its packs by content; then their names have to do.
        "profile": {
            k: v for k, v in provenance.profile.model_dump().items() if k not in _FOLLOWS_FROM_SEED and v is not None
        },
        "packs": sorted(provenance.profile.packs),
        "search": {k: v for k, v in (provenance.search or {}).items() if k not in _FOUND},
        "calibration_rows": None,
    }
    return _Profiled(
        sha256_json(recipe), provenance.profile.seed, manifest.keep, frozenset(provenance.calibration_rows)
    )
