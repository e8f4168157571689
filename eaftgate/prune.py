"""Pruning: a profile and a method become keep sets, keep sets become a checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.errors import UserError
from eaftgate.profile.profile import Profile
from eaftgate.progress import progress_bar
from eaftgate.rewrite.keep_n import resolve_keep_n
from eaftgate.rewrite.rewrite import rewrite_checkpoint
from eaftgate.select.keep import METHODS, KeepSets, random_keep_sets, select_keep_sets
from eaftgate.select.saliency import EaftWeights

DEFAULT_METHOD = "eaft-reap"
NO_OP = "no-op"


@dataclass(frozen=True)
class PruneRequest:
    """`alignment` None takes the profile's. `seed` is for the random method only."""

    keep_n: int | None = None
    keep_frac: float | None = None
    method: str = DEFAULT_METHOD
    alignment: str | None = None
    weights: EaftWeights = field(default_factory=EaftWeights)
    seed: int = 0
    allow_any_keep_n: bool = False


def prune_checkpoint(
    base: Checkpoint, base_digest: str, profile: Profile | None, request: PruneRequest, out: Path
) -> None:
    """Write the pruned checkpoint to `out`. Raises UserError; see rewrite_checkpoint for what is left behind."""
    keep_n = resolve_keep_n(
        base.num_experts, base.top_k, request.keep_n, request.keep_frac, allow_any=request.allow_any_keep_n
    )
    keep, provenance = choose_experts(base, base_digest, profile, request, keep_n)
    with progress_bar("rewrite", None, unit="B") as bar:
        rewrite_checkpoint(
            base,
            keep,
            out,
            provenance=provenance,
            base_digest=base_digest,
            allow_any_keep_n=request.allow_any_keep_n,
            progress=bar.show,
        )


def choose_experts(
    base: Checkpoint, base_digest: str, profile: Profile | None, request: PruneRequest, keep_n: int
) -> tuple[KeepSets, dict[str, Any]]:
    """The keep sets, and how they came about, for the manifest.

    Raises UserError for an unknown method, a missing profile, or one of another base.
    """
    if request.method not in METHODS:
        raise UserError(f"--method is {request.method!r}: it must be one of {', '.join(METHODS)}")
    if profile is not None and profile.description["base"]["digest"] != base_digest:
        made_from = profile.description["base"]["name"]
        raise UserError(f"profile {profile.path} was made from another checkpoint ({made_from}): profile {base.name}")
    provenance: dict[str, Any] = {"method": request.method}
    if profile is not None:
        described = (
            "packs",
            "num_rows",
            "seq_len",
            "seed",
            "num_blocks",
            "counted_tokens",
            "blocks_digest",
            "model",
        )
        provenance["profile"] = {key: profile.description[key] for key in described}
        provenance["calibration_rows"] = sorted(profile.description["rows"])
    if keep_n == base.num_experts:
        return [list(range(keep_n))] * base.num_layers, {**provenance, "method": NO_OP}
    if request.method == "random":
        keep = random_keep_sets(base.num_layers, base.num_experts, keep_n, request.seed)
        return keep, {**provenance, "seed": request.seed}
    if profile is None:
        raise UserError(f"--method {request.method} needs --profile: run eaftgate profile {base.name} first")
    alignment = request.alignment or profile.description["alignment"]
    keep = select_keep_sets(
        profile.trace, method=request.method, keep_n=keep_n, alignment=alignment, weights=request.weights
    )
    return keep, {**provenance, "alignment": alignment, "weights": request.weights.as_dict()}
