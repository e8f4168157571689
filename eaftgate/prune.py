"""Pruning: a profile and a method become keep sets, keep sets become a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.errors import UserError
from eaftgate.profile.profile import Profile
from eaftgate.progress import progress_bar
from eaftgate.rewrite.keep_n import resolve_keep_n
from eaftgate.rewrite.rewrite import rewrite_checkpoint
from eaftgate.rewrite.workdir import refuse_existing
from eaftgate.select.keep import METHODS, SEARCHES, KeepSets, random_keep_sets, select_keep_sets
from eaftgate.select.saliency import EaftWeights

if TYPE_CHECKING:  # torch; only those who run a model wait for it
    from eaftgate.gate.judge import JudgedCell
    from eaftgate.model.load import ModelSettings
    from eaftgate.search.search import SearchSettings

DEFAULT_METHOD = "eaft-reap"
NO_OP = "no-op"


@dataclass(frozen=True)
class ModelRun:
    """Calibration packs, and how the base runs over them: for searches and the pre-gate."""

    packs: Path
    model: "ModelSettings"
    search: "SearchSettings"
    pre_gate: bool = False


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
    run: ModelRun | None = None


def prune_checkpoint(
    base: Checkpoint,
    base_digest: str,
    profile: Profile | None,
    request: PruneRequest,
    out: Path,
    *,
    show: "Callable[[JudgedCell], None] | None" = None,
) -> None:
    """Write the pruned checkpoint to `out`; before that, `show` gets the pre-gate's cell if one was asked for.

    Raises UserError; see rewrite_checkpoint for what is left behind.
    """
    keep_n = resolve_keep_n(
        base.num_experts, base.top_k, request.keep_n, request.keep_frac, allow_any=request.allow_any_keep_n
    )
    refuse_existing(out)
    provenance = _provenance(base, base_digest, profile, request)
    if request.run is not None:
        keep, chosen, judged = _on_model(base, profile, request, request.run, keep_n)
        if judged is not None and show is not None:
            show(judged)
    else:
        keep, chosen = choose_experts(base, profile, request, keep_n)
    with progress_bar("rewrite", None, unit="B") as bar:
        rewrite_checkpoint(
            base,
            keep,
            out,
            provenance=provenance | chosen,
            base_digest=base_digest,
            allow_any_keep_n=request.allow_any_keep_n,
            progress=bar.show,
        )


def _provenance(base: Checkpoint, base_digest: str, profile: Profile | None, request: PruneRequest) -> dict[str, Any]:
    """What the keep sets were made from. Raises UserError for an unknown method or the profile of another base."""
    if request.method not in METHODS:
        raise UserError(f"--method is {request.method!r}: it must be one of {', '.join(METHODS)}")
    provenance: dict[str, Any] = {"method": request.method}
    if profile is None:
        return provenance
    check_profile(base, base_digest, profile)
    described = (
        "packs", "packs_digest", "num_rows", "seq_len", "seed", "num_blocks", "counted_tokens", "blocks_digest", "model"
    )  # fmt: skip
    provenance["profile"] = {key: profile.description.get(key) for key in described}  # an older one has no packs_digest
    provenance["calibration_rows"] = sorted(profile.description["rows"])
    return provenance


def check_profile(base: Checkpoint, base_digest: str, profile: Profile) -> None:
    """Raises UserError when the profile is of another checkpoint."""
    if profile.description["base"]["digest"] != base_digest:
        made_from = profile.description["base"]["name"]
        raise UserError(f"profile {profile.path} was made from another checkpoint ({made_from}): profile {base.name}")


def choose_experts(
    base: Checkpoint, profile: Profile | None, request: PruneRequest, keep_n: int
) -> tuple[KeepSets, dict[str, Any]]:
    """The keep sets of a method that does not run the model, and how they came about, for the manifest.

    Raises UserError for a search, and without the profile that a scorer needs.
    """
    if keep_n == base.num_experts:
        return [list(range(keep_n))] * base.num_layers, {"method": NO_OP}
    if request.method == "random":
        return random_keep_sets(base.num_layers, base.num_experts, keep_n, request.seed), {"seed": request.seed}
    if profile is None:
        raise UserError(f"--method {request.method} needs --profile: run eaftgate profile {base.name} first")
    if request.method in SEARCHES:
        raise UserError(
            f"--method {request.method} needs --packs: the calibration packs that the profile was made from"
        )
    alignment = request.alignment or profile.description["alignment"]
    keep = select_keep_sets(
        profile.trace, method=request.method, keep_n=keep_n, alignment=alignment, weights=request.weights
    )
    return keep, {"alignment": alignment, "weights": request.weights.as_dict()}


def _on_model(
    base: Checkpoint, profile: Profile | None, request: PruneRequest, run: ModelRun, keep_n: int
) -> tuple[KeepSets, dict[str, Any], "JudgedCell | None"]:
    """Keep sets by a search, or by any method and pre-gated; only the profile's own rows are looked at."""
    searching = request.method in SEARCHES and keep_n < base.num_experts
    if not (searching or run.pre_gate):
        raise UserError("--packs is for --pre-gate and for --method " + ", ".join(SEARCHES) + ": leave it out")
    if searching and request.alignment == "token":
        raise UserError(f"--method {request.method} looks at the positions that predict: leave --alignment out")
    if searching and request.weights != EaftWeights():
        raise UserError(f"--method {request.method} weighs every token alike: leave --w-good and its like out")
    if profile is None:
        raise UserError(f"--packs needs --profile, which says what its rows are: run eaftgate profile {base.name}")
    from eaftgate.model.load import load_model
    from eaftgate.search.calibration import calibration_blocks
    from eaftgate.search.search import pre_gate, search_keep_sets

    blocks = calibration_blocks(base, profile, run.packs)
    if not searching:  # before the model: it may refuse
        keep, chosen = choose_experts(base, profile, request, keep_n)
    model = load_model(base.path, run.model)
    if searching:
        keep, found = search_keep_sets(model, blocks, profile, keep_n=keep_n, settings=run.search)
        found["model"] = run.model.describe()
        chosen = {"alignment": "predicting", "search": found}
    judged = pre_gate(model, blocks, keep, batch_size=run.search.batch_size) if run.pre_gate else None
    return keep, chosen, judged
