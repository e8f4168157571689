"""Pruning: a profile and a method become keep sets, keep sets become a checkpoint.

The checkpoint carries what made it: reap-recipe.yaml, and reap-scores.yaml where a scoring method chose the experts.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eaftgate import __version__
from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.errors import UserError
from eaftgate.profile.profile import Profile
from eaftgate.progress import progress_bar
from eaftgate.recipes.recipe import RECIPE_FILE, recipe_text
from eaftgate.rewrite.keep_n import resolve_keep_n
from eaftgate.rewrite.rewrite import rewrite_checkpoint
from eaftgate.rewrite.workdir import refuse_existing
from eaftgate.search.journal import Journal, journal_path
from eaftgate.select.keep import METHODS, SEARCHES, KeepSets, random_keep_sets, scored_keep_sets
from eaftgate.select.saliency import EaftWeights
from eaftgate.select.scores import Scores, scores_files, scores_of

if TYPE_CHECKING:  # torch; only those who run a model wait for it
    from eaftgate.judge.cell import JudgedCell
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


@dataclass(frozen=True)
class Choice:
    """Keep sets and how they came about: `provenance` for the manifest, `options` of eaftgate prune for the recipe.

    `scores` is what a scoring method chose by; None for all other methods.
    """

    keep: KeepSets
    provenance: dict[str, Any]
    options: dict[str, Any]
    scores: Scores | None = None


def prune_checkpoint(
    base: Checkpoint,
    base_digest: str,
    profile: Profile | None,
    request: PruneRequest,
    out: Path,
    *,
    scores: Scores | None = None,
    show: "Callable[[JudgedCell], None] | None" = None,
) -> None:
    """Write the pruned checkpoint to `out`; before that, `show` gets the pre-gate's cell if one was asked for.

    `scores` (of a checkpoint pruned before) take the place of the profile. Raises UserError; see rewrite_checkpoint
    for what is left behind.
    """
    keep_n = resolve_keep_n(
        base.num_experts, base.top_k, request.keep_n, request.keep_frac, allow_any=request.allow_any_keep_n
    )
    refuse_existing(out)
    if profile is not None and scores is not None:
        raise UserError("--profile and --scores say the same twice: leave one of them out")
    if request.method not in METHODS:
        raise UserError(f"--method is {request.method!r}: it must be one of {', '.join(METHODS)}")
    if profile is not None:
        check_profile(base, base_digest, profile)
    if scores is not None and scores.description["base"]["digest"] != base_digest:
        raise UserError(f"--scores are of another checkpoint ({scores.description['base']['name']}) than {base.name}")
    if request.run is not None:
        choice, judged = _on_model(base, profile, request, request.run, keep_n, out)
        if judged is not None and show is not None:
            show(judged)
    else:
        choice = choose_experts(base, profile or scores, request, keep_n)
    source = profile or scores
    description = None if source is None else source.description
    with progress_bar("rewrite", None, unit="B") as bar:
        rewrite_checkpoint(
            base,
            choice.keep,
            out,
            provenance={"method": request.method} | _calibration(description) | choice.provenance,
            carried={RECIPE_FILE: _recipe(base, description, request, keep_n, choice).encode()}
            | ({} if choice.scores is None else scores_files(choice.scores)),
            base_digest=base_digest,
            allow_any_keep_n=request.allow_any_keep_n,
            progress=bar.show,
        )
    journal_path(out).unlink(missing_ok=True)


def _calibration(description: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the manifest says of a profile."""
    if description is None:
        return {}
    described = (
        "packs", "packs_digest", "num_rows", "seq_len", "seed", "num_blocks", "counted_tokens", "blocks_digest", "model"
    )  # fmt: skip
    return {
        "profile": {key: description.get(key) for key in described},  # an older one has no packs_digest
        "calibration_rows": sorted(description["rows"]),
    }


def _recipe(
    base: Checkpoint, description: Mapping[str, Any] | None, request: PruneRequest, keep_n: int, choice: Choice
) -> str:
    """The recipe that makes the same checkpoint again: every option that has a say in it, none left to a default.

    Names of directories are as they were given. That of the profile is not there: it is the other command's output.
    """
    sections: dict[str, dict[str, Any]] = {}
    if description is not None:
        model = description["model"]
        options = {key: description[key] for key in ("num_rows", "seq_len", "seed", "alignment", "batch_size")}
        packs = {"base": description["base"]["name"], "packs": description.get("packs_dir")}
        runs_on = {"device": "cpu" if model["device"] == "cpu" else "cuda", "dtype": model["dtype"]}
        sections["profile"] = {key: v for key, v in (packs | options | runs_on).items() if v is not None}
    any_keep_n = {"allow_any_keep_n": True} if request.allow_any_keep_n else {}
    sections["prune"] = {"base": base.name, "keep_n": keep_n} | any_keep_n | choice.options
    commands = [f"eaftgate {name} --recipe {RECIPE_FILE}" for name in sections]
    outputs = ["--out PROFILE", "--profile PROFILE --out NEW"] if description is not None else ["--out NEW"]
    comment = f"What eaftgate {__version__} made this checkpoint with. The same checkpoint again:\n" + "\n".join(
        f"  {command} {output}" for command, output in zip(commands, outputs, strict=True)
    )
    return recipe_text(sections, comment=comment)


def check_profile(base: Checkpoint, base_digest: str, profile: Profile) -> None:
    """Raises UserError when the profile is of another checkpoint."""
    if profile.description["base"]["digest"] != base_digest:
        made_from = profile.description["base"]["name"]
        raise UserError(f"profile {profile.path} was made from another checkpoint ({made_from}): profile {base.name}")


def choose_experts(base: Checkpoint, source: Profile | Scores | None, request: PruneRequest, keep_n: int) -> Choice:
    """The keep sets of a method that does not run the model.

    Raises UserError for a search, and without the profile that a scorer needs, or scores in its place.
    """
    if keep_n == base.num_experts:
        return Choice([list(range(keep_n))] * base.num_layers, {"method": NO_OP}, {})
    if request.method == "random":
        keep = random_keep_sets(base.num_layers, base.num_experts, keep_n, request.seed)
        return Choice(keep, {"seed": request.seed}, {"method": request.method, "seed": request.seed})
    if source is None:
        raise UserError(f"--method {request.method} needs --profile: run eaftgate profile {base.name} first")
    if request.method in SEARCHES:
        raise UserError(
            f"--method {request.method} needs --packs: the calibration packs that the profile was made from"
        )
    weights = request.weights
    if isinstance(source, Profile):
        alignment = request.alignment or source.description["alignment"]
        scores = scores_of(source, alignment=alignment, low_quantile=weights.low_quantile)
    else:
        scores = source
        if (request.alignment or scores.alignment, weights.low_quantile) != (scores.alignment, scores.low_quantile):
            raise UserError(
                f"--scores are for --alignment {scores.alignment} and quantile {scores.low_quantile}: give --profile"
            )
    keep = scored_keep_sets(scores.sums, method=request.method, keep_n=keep_n, weights=weights)
    options = {"w_good": weights.good, "w_conflict": weights.conflict, "w_uncertain": weights.uncertain}
    return Choice(
        keep,
        {"alignment": scores.alignment, "weights": weights.as_dict()},
        {"method": request.method, "alignment": scores.alignment} | options,
        scores,
    )


def _on_model(
    base: Checkpoint, profile: Profile | None, request: PruneRequest, run: ModelRun, keep_n: int, out: Path
) -> tuple[Choice, "JudgedCell | None"]:
    """Keep sets by a search, or by any method and pre-gated; only the profile's own rows are looked at.

    How far a refinement has come lies beside `out` until that is written.
    """
    searching = request.method in SEARCHES and keep_n < base.num_experts
    if not (searching or run.pre_gate):
        raise UserError("--packs is for --pre-gate and for --method " + ", ".join(SEARCHES) + ": leave it out")
    if searching and request.alignment == "token":
        raise UserError(f"--method {request.method} looks at the positions that predict: leave --alignment out")
    if searching and request.weights != EaftWeights():
        raise UserError(f"--method {request.method} does not use EAFT's token weights: leave --w-good and its like out")
    if profile is None:
        raise UserError(f"--packs needs --profile, which says what its rows are: run eaftgate profile {base.name}")
    from eaftgate.model.load import load_model
    from eaftgate.search.calibration import calibration_blocks
    from eaftgate.search.search import pre_gate, search_keep_sets

    blocks = calibration_blocks(base, profile, run.packs)
    if not searching:  # before the model: it may refuse
        choice = choose_experts(base, profile, request, keep_n)
    model = load_model(base.path, run.model)
    if searching:
        made, described = profile.description, run.model.describe()
        profiled = {key: made[key] for key in ("base", "blocks_digest", "model", "batch_size")}
        inputs = {"method": request.method, "keep_n": keep_n, "settings": asdict(run.search), "model": described}
        keep, found = search_keep_sets(
            model,
            blocks,
            profile.trace,
            method=request.method,
            keep_n=keep_n,
            settings=run.search,
            journal=Journal(journal_path(out), inputs | {"profile": profiled}),
        )
        found["model"] = described
        choice = Choice(keep, {"alignment": "predicting", "search": found}, _search_options(request, run))
    judged = pre_gate(model, blocks, choice.keep, batch_size=run.search.batch_size) if run.pre_gate else None
    return choice, judged


def _search_options(request: PruneRequest, run: ModelRun) -> dict[str, Any]:
    runs_on = {"device": run.model.device.partition(":")[0], "dtype": run.model.dtype}
    return {"method": request.method, "packs": str(run.packs)} | asdict(run.search) | runs_on
