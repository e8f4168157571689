"""Pruning: a method chooses keep sets, keep sets become a checkpoint.

The checkpoint carries what made it: reap-recipe.yaml, and reap-scores.yaml where a scorer chose the experts.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.checkpoint.unchanged import check_unchanged
from eaftgate.errors import UserError
from eaftgate.files import sha256_json
from eaftgate.outputs import check_directory, claimed, up_to_date
from eaftgate.profile.profile import Profile, ProfileDescription
from eaftgate.progress import progress_bar
from eaftgate.prune.card import model_card
from eaftgate.prune.keep_sets import GivenKeepSets, read_keep_sets
from eaftgate.prune.methods import (
    DEFAULT_SCORER,
    KEEP_SETS,
    NO_OP,
    SEARCH,
    Choice,
    Method,
    Running,
    Settings,
    Sight,
    method_named,
    needing,
)
from eaftgate.prune.recipe import checkpoint_recipe
from eaftgate.recipes.recipe import RECIPE_FILE
from eaftgate.rewrite.keep_n import ALLOW_ANY, resolve_keep_n
from eaftgate.rewrite.plan import MAX_SHARD_BYTES, in_gb, plan_shards
from eaftgate.rewrite.rewrite import companions, rewrite_checkpoint
from eaftgate.search.journal import Journal, journal_path
from eaftgate.search.memory import held_bytes
from eaftgate.search.settings import SearchSettings
from eaftgate.select.class_weights import ClassWeights
from eaftgate.select.saliency import EaftWeights
from eaftgate.select.scores import Scores, scores_files
from eaftgate.visible import sentence

if TYPE_CHECKING:  # torch; only those who run a model wait for it
    from eaftgate.judge.cell import JudgedCell
    from eaftgate.model.load import ModelSettings


LESS_TO_HOLD = (
    "use more GPUs or larger ones, profile fewer rows (--num-rows), lower --batch-size or --max-positions, or rank "
    f"instead (--method {DEFAULT_SCORER})"
)
"""What can be done where a search has not the memory that it takes."""


@dataclass(frozen=True)
class ModelRun:
    """The profile's packs, and how the base runs over them: for searches and the pre-gate."""

    packs: Path
    model: "ModelSettings"
    pre_gate: bool = False


@dataclass(frozen=True)
class PruneRequest:
    """`alignment` None takes the profile's; `classes` None is what the method does by itself. `keep_sets` is a file
    that says which experts are kept; then no method is asked."""

    keep_n: int | None = None
    keep_frac: float | None = None
    method: str = DEFAULT_SCORER
    alignment: str | None = None
    weights: EaftWeights = field(default_factory=EaftWeights)
    search: SearchSettings = field(default_factory=SearchSettings)
    classes: ClassWeights | None = None
    allow_any_keep_n: bool = False
    run: ModelRun | None = None
    keep_sets: Path | None = None
    max_shard_bytes: int = MAX_SHARD_BYTES


def check_request(base: Checkpoint, request: PruneRequest) -> None:
    """Raises UserError for what is known to fail before the base is hashed: how many experts, how large shards, what
    is copied along."""
    given = None
    if request.keep_sets is not None:
        given = read_keep_sets(request.keep_sets, base, allow_any_keep_n=request.allow_any_keep_n)
    keep = [range(asked_keep_n(base, request, given))] * base.num_layers  # whichever they are: they are of one size
    plan_shards(base, keep, max_shard_bytes=request.max_shard_bytes)
    companions(base)


def keeps_all(base: Checkpoint, request: PruneRequest) -> bool:
    """Whether no method is asked, because every expert stays. Raises UserError as check_request does."""
    return request.keep_sets is None and asked_keep_n(base, request) == base.num_experts


def prune_checkpoint(
    base: Checkpoint,
    base_digest: str,
    profile: Profile | None,
    request: PruneRequest,
    out: Path,
    *,
    scores: Scores | None = None,
    begin: Callable[[], None] = lambda: None,
    show: "Callable[[JudgedCell], None] | None" = None,
) -> None:
    """Write the pruned checkpoint to `out`, unless it is there and was made from the same. `begin` is called when
    nothing but the work itself can fail any more; before anything is written, `show` gets the pre-gate's cell if one
    was asked for.

    `scores` (of a checkpoint pruned before) take the place of the profile. Raises UserError; see rewrite_checkpoint
    for what is left behind.
    """
    given = None
    if request.keep_sets is not None:
        if profile is not None or scores is not None or request.run is not None:
            raise UserError("--keep-sets says which experts are kept: leave --profile, --scores and --packs out")
        given = read_keep_sets(request.keep_sets, base, allow_any_keep_n=request.allow_any_keep_n)
    keep_n = asked_keep_n(base, request, given)
    check_directory(out, [] if profile is None else [profile.path])
    if profile is not None and scores is not None:
        raise UserError("--profile and --scores say the same twice: leave one of them out")
    method = method_named(request.method)
    if given is not None:
        method = KEEP_SETS
    elif keep_n == base.num_experts:
        method = NO_OP
        if request.run is not None and not request.run.pre_gate:
            request = replace(request, run=None)  # as a method, whatever packs it is given
    if profile is not None:
        check_profile(base, base_digest, profile)
    if scores is not None and scores.description.base.digest != base_digest:
        raise UserError(f"--scores are of another checkpoint ({scores.description.base.name}) than {base.name}")
    source = profile or scores
    settings = Settings(keep_n, request.weights, request.search, request.classes, request.alignment, given)
    if request.run is None:
        _check_needs(base, method, source)
    else:
        profile = _profile_of_run(base, method, request, request.run, profile)
    made_from = _made_from(base_digest, method, source, settings, request)
    if up_to_date(out, made_from):
        return
    with claimed(out):
        if request.run is None:
            choice = method.choose(Sight(base.num_layers, base.num_experts, source), settings)
            begin()
        else:
            assert profile is not None  # by _profile_of_run
            choice, judged = _chosen_on_model(base, method, profile, settings, request.run, out, begin)
            if judged is not None and show is not None:
                show(judged)
        description = None if source is None else source.description
        recipe = checkpoint_recipe(description, _options(base, method, request, keep_n, choice), choice.notes)
        with progress_bar("rewrite", None, unit="B", out=out) as bar:
            rewrite_checkpoint(
                base,
                choice.keep,
                out,
                provenance={"method": method.name} | _calibration(description) | choice.provenance,
                card=model_card(base, base_digest, keep_n, method.name, description, recipe),
                carried={RECIPE_FILE: recipe.encode()} | ({} if choice.scores is None else scores_files(choice.scores)),
                base_digest=base_digest,
                max_shard_bytes=request.max_shard_bytes,
                allow_any_keep_n=request.allow_any_keep_n,
                made_from=made_from,
                progress=bar.show,
            )
        journal_path(out).unlink(missing_ok=True)


def _made_from(
    base_digest: str, method: Method, source: Profile | Scores | None, settings: Settings, request: PruneRequest
) -> dict[str, Any]:
    """Every input that has a say in what is written, by content."""
    asked = asdict(settings.weights) | asdict(settings.search)
    made: dict[str, Any] = {
        "command": "prune",
        "base": base_digest,
        "keep_n": settings.keep_n,
        "allow_any_keep_n": request.allow_any_keep_n,
        "max_shard_bytes": request.max_shard_bytes,
        "method": method.name,
        **{name: asked[name] for name in sorted(method.uses & asked.keys())},
    }
    if source is not None:
        # Not how the trace lies in files, which is a matter of time, nor what a scores snapshot does not know.
        left_out = {"base", "eaftgate", "packs_dir", "seconds", "speed", "thresholds", "trace"}
        described = source.description.model_dump(mode="json", exclude=left_out)
        made["profile"] = sha256_json(described | {"base": source.description.base.digest})
    if settings.given is not None:
        made["keep_sets"] = settings.given.sha256
    if source is not None and method.needs != "nothing":
        made["class_weights"] = _weights_told(method, settings.classes)
    if "alignment" in method.uses and source is not None:
        made["alignment"] = settings.alignment or (
            source.alignment if isinstance(source, Scores) else source.description.alignment
        )
    if method.needs == "model" and request.run is not None:
        made |= {"batch_size": settings.search.batch_size, "model": request.run.model.describe()}
    return made


def _weights_told(method: Method, classes: ClassWeights | None) -> dict[str, float] | None:
    """None is for a search to choose; for a scorer it is the plain weights."""
    if classes is None and method.needs == "model":
        return None
    return (classes or ClassWeights()).as_dict()


def search_inputs(
    method: Method,
    keep_n: int,
    search: SearchSettings,
    classes: ClassWeights | None,
    model: "ModelSettings",
    profiled: ProfileDescription,
) -> dict[str, Any]:
    """Every input of a search, for its journal."""
    return {
        "method": method.name,
        "keep_n": keep_n,
        "settings": asdict(search),
        "class_weights": _weights_told(method, classes),
        "model": model.describe(),
        "profile": profiled.model_dump(include={"base", "blocks_digest", "model", "batch_size"}),
    }


def asked_keep_n(base: Checkpoint, request: PruneRequest, given: GivenKeepSets | None = None) -> int:
    """How many experts a layer keeps; keep sets that are given must not contradict it. Raises UserError."""
    if given is not None and request.keep_n is None and request.keep_frac is None:
        return given.keep_n
    keep_n = resolve_keep_n(
        base.num_experts,
        base.top_k,
        request.keep_n,
        request.keep_frac,
        allow_any=request.allow_any_keep_n,
        option=ALLOW_ANY,
    )
    if given is not None and given.keep_n != keep_n:
        raise UserError(f"{given.path} keeps {given.keep_n} experts a layer, not {keep_n}: leave --keep-n out")
    return keep_n


def check_profile(base: Checkpoint, base_digest: str, profile: Profile) -> None:
    """Raises UserError when the profile is of another checkpoint."""
    if profile.description.base.digest != base_digest:
        made_from = profile.description.base.name
        raise UserError(f"profile {profile.path} was made from another checkpoint ({made_from}): profile {base.name}")


def _check_needs(base: Checkpoint, method: Method, source: Profile | Scores | None) -> None:
    """Without a model to run."""
    if method.needs != "nothing" and source is None:
        raise UserError(f"--method {method.name} needs --profile: run eaftgate profile {base.name} first")
    if method.needs == "model":
        raise UserError(f"--method {method.name} needs --packs: the calibration packs that the profile was made from")


def _profile_of_run(
    base: Checkpoint, method: Method, request: PruneRequest, run: ModelRun, profile: Profile | None
) -> Profile:
    """The profile, without which the base is not run. Raises UserError, too, for what nothing would come of."""
    searching = method.needs == "model"
    if not (searching or run.pre_gate):
        raise UserError(f"--packs is for --pre-gate and for --method {', '.join(needing('model'))}: leave it out")
    if searching and request.alignment == "token":
        raise UserError(f"--method {method.name} looks at the positions that predict: leave --alignment out")
    if searching and request.weights != EaftWeights():
        raise UserError(f"--method {method.name} does not use EAFT's token weights: leave --w-good and its like out")
    if profile is None:
        raise UserError(f"--packs needs --profile, which says what its rows are: run eaftgate profile {base.name}")
    return profile


def _chosen_on_model(
    base: Checkpoint,
    method: Method,
    profile: Profile,
    settings: Settings,
    run: ModelRun,
    out: Path,
    begin: Callable[[], None],
) -> tuple[Choice, "JudgedCell | None"]:
    """Keep sets by a method that runs the base, or by any method and pre-gated; only the profile's own rows are looked
    at. How far a refinement has come lies beside `out` until that is written."""
    from eaftgate.model.spread import place
    from eaftgate.prune.pre_gate import pre_gate
    from eaftgate.search.calibration import calibration_blocks

    blocks = calibration_blocks(base, profile, run.packs)
    sight = Sight(base.num_layers, base.num_experts, profile)
    choice = None if method.needs == "model" else method.choose(sight, settings)  # before the model: it may refuse
    if choice is None:
        held = held_by_search(base, profile.description, settings.search, run.model)
        placed = place(base, run.model, held=held, advice=LESS_TO_HOLD)
    else:
        placed = place(base, run.model)
    begin()
    if placed.said is not None:
        print(sentence(placed.said), file=sys.stderr)
    doing = "pre-gate" if choice is not None else method.name
    unit = "passes" if method.name == SEARCH else "layers"
    resumes = choice is None and method.name == SEARCH
    inputs = search_inputs(method, settings.keep_n, settings.search, settings.classes, run.model, profile.description)
    if resumes and Journal(journal_path(out), inputs).of_another:
        left = "what an interrupted search left here is damaged, of other inputs, or of another version of the search"
        print(sentence(f"{left}: begun anew"), file=sys.stderr)
    with progress_bar(doing, None, unit=unit, out=out, resumes=resumes) as bar:
        bar.keep()
        model = placed.load()
        check_unchanged(base, profile.description.base.digest)
        if choice is None:
            running = Running(
                model, blocks, run.model.describe(), Journal(journal_path(out), inputs, bar.keep), bar.show
            )
            choice = method.choose(replace(sight, running=running), settings)
        judged = pre_gate(model, blocks, choice.keep, batch_size=settings.search.batch_size) if run.pre_gate else None
    return choice, judged


def held_by_search(
    base: Checkpoint, profiled: ProfileDescription, search: SearchSettings, model: "ModelSettings"
) -> int:
    """Bytes, at most, beside the model's."""
    from eaftgate.model.load import DTYPES

    tokens, item_bytes = profiled.num_blocks * profiled.seq_len, DTYPES[model.dtype].itemsize
    return held_bytes(base, search, tokens=tokens, seq_len=profiled.seq_len, item_bytes=item_bytes)


def _calibration(description: ProfileDescription | None) -> dict[str, Any]:
    """What the manifest says of a profile."""
    if description is None:
        return {}
    described = {
        "packs", "packs_digest", "num_rows", "seq_len", "seed", "num_blocks", "counted_tokens", "blocks_digest", "model"
    }  # fmt: skip
    return {
        "profile": description.model_dump(include=described),
        "calibration_rows": sorted(description.rows),
    }


def _options(base: Checkpoint, method: Method, request: PruneRequest, keep_n: int, choice: Choice) -> dict[str, Any]:
    """Of eaftgate prune, for the recipe."""
    options: dict[str, Any] = {"base": base.name, "keep_n": keep_n}
    if request.allow_any_keep_n:
        options["allow_any_keep_n"] = True
    if request.max_shard_bytes != MAX_SHARD_BYTES:
        options["max_shard_gb"] = in_gb(request.max_shard_bytes)
    if method in (NO_OP, KEEP_SETS):
        return options | choice.options
    options["method"] = method.name
    if method.needs != "model" or request.run is None:
        return options | choice.options
    model = request.run.model
    runs_on = {"device": model.device.partition(":")[0], "dtype": model.dtype}
    return options | {"packs": str(request.run.packs)} | choice.options | runs_on
