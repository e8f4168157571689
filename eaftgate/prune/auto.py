"""`--method auto`: the search where there is time for it, else the scorer; and in one line which, and why.

What comes of it is a request for a method like any other: nothing that is written says `auto`.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.errors import UserError
from eaftgate.made_from import MADE_FROM_FILE, MadeFrom
from eaftgate.packs.pack import read_packs, rows_digest
from eaftgate.profile.profile import Profile, ProfileDescription
from eaftgate.progress import duration
from eaftgate.prune.checkpoint import ModelRun, PruneRequest, asked_keep_n, held_by_search, search_inputs
from eaftgate.prune.methods import AUTO_MINUTES, DEFAULT_SCORER, SEARCH, method_named
from eaftgate.records import read_model
from eaftgate.search.calibration import calibration_blocks
from eaftgate.search.forecast import expected_passes
from eaftgate.search.journal import Journal, journal_path
from eaftgate.select.class_weights import BALANCED, BALANCED_WEIGHTS, ClassWeights
from eaftgate.select.saliency import EaftWeights
from eaftgate.select.scorers import SCORERS
from eaftgate.select.scores import Scores

if TYPE_CHECKING:  # torch; only those who run a model wait for it
    from eaftgate.model.load import ModelSettings


@dataclass(frozen=True)
class Automatic:
    """The request with its method; `said` is the line."""

    request: PruneRequest
    said: str


@dataclass(frozen=True)
class _Search:
    run: ModelRun
    because: str


def chosen_automatically(
    base: Checkpoint,
    source: Profile | Scores,
    request: PruneRequest,
    out: Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
) -> Automatic:
    """A search over the profile's own packs, or over those of `request.run`, if nothing stands against it; without
    class weights in the request, those that suit near-lossless-v3. What was decided before for what is at `out`, or was
    begun there, stays decided. `device` and `dtype` are as asked for.

    Raises UserError for packs that are asked for and are not the profile's, and where a search for `out` was begun and
    the packs are not at hand.
    """
    if request.run is not None and isinstance(source, Scores):
        raise UserError(f"--packs needs --profile, which says what its rows are: run eaftgate profile {base.name}")
    made_by = _made_by(out)
    ranked = made_by is not None and made_by != SEARCH
    found = "" if ranked else _search_or_why_not(base, source, request, out, made_by, device, dtype)
    if isinstance(found, _Search):
        run: ModelRun | None = found.run
        method, because = SEARCH, found.because
    else:
        run = request.run if request.run is not None and request.run.pre_gate else None
        if made_by is not None and ranked:
            method, because = made_by, f"because {out} was made by it"
        else:
            method, because = _scorer(request), f"because {found}"
            if run is None and request.run is not None and isinstance(source, Profile):
                calibration_blocks(base, source, request.run.packs)  # refused here, too, if they are others
    classes, weighed = request.classes, ""
    if classes is None:
        classes = _classes(source, method)
        weighed = f" with --class-weight {BALANCED}" if classes == BALANCED_WEIGHTS else ""
    return Automatic(replace(request, method=method, run=run, classes=classes), f"auto: {method}{weighed}, {because}")


def _scorer(request: PruneRequest) -> str:
    """The default one, unless what is asked for changes nothing in it."""
    if request.weights == EaftWeights() or SCORERS[DEFAULT_SCORER].weighs_tokens:
        return DEFAULT_SCORER
    return next(name for name, scorer in SCORERS.items() if scorer.weighs_tokens)


def _classes(source: Profile | Scores, method: str) -> ClassWeights | None:
    if isinstance(source, Scores):
        return source.classes if source.by_class is None else BALANCED_WEIGHTS
    # A search begins with several weights, and the loss says which.
    return BALANCED_WEIGHTS if source.trace.knows_classes and method != SEARCH else None


def _made_by(out: Path) -> str | None:
    """The method by which what is at `out` was made. None: nothing is there, or it was by one that was named."""
    if not (out / MADE_FROM_FILE).is_file():
        return None
    made = read_model(out / MADE_FROM_FILE, MadeFrom, what="what it was made from", remedy=f"remove {out}").inputs
    method = made.get("method")
    known = made.get("command") == "prune" and (method == SEARCH or method in SCORERS)
    return str(method) if known else None


def _search_or_why_not(
    base: Checkpoint,
    source: Profile | Scores,
    request: PruneRequest,
    out: Path,
    made_by: str | None,
    device: str | None,
    dtype: str | None,
) -> _Search | str:
    """What is known sooner is asked first: torch comes last. `made_by` is a search, or nothing."""
    if isinstance(source, Scores):
        return "--scores have no packs to search on"
    if request.alignment == "token":
        return f"{SEARCH} looks at the positions that predict, not at --alignment token"
    if request.weights != EaftWeights():
        return f"{SEARCH} does not use EAFT's token weights, --w-good and its like"
    profiled = source.description
    packs = Path(profiled.packs_dir or "") if request.run is None else request.run.packs
    pre_gate = request.run is not None and request.run.pre_gate

    def settings() -> "ModelSettings":
        from eaftgate.model.load import default_settings

        return default_settings(device=device, dtype=dtype, dequantize=True)

    def lack_of_packs() -> str:
        return _lack_of_packs(packs, profiled) if request.run is None else ""

    if made_by is not None:
        return _Search(ModelRun(packs, settings(), pre_gate), f"because {out} was made by it")
    if journal_path(out).is_file():
        run = ModelRun(packs, settings(), pre_gate)
        inputs = search_inputs(
            method_named(SEARCH),
            asked_keep_n(base, request),
            request.search,
            request.classes,
            run.model,
            profiled,
        )
        if Journal(journal_path(out), inputs).is_taken_up:
            if lack := lack_of_packs():
                raise UserError(f"a search for {out} was begun, and {lack}: put them back, or choose another --out")
            return _Search(run, f"which was begun for {out}")
    if profiled.speed is None:
        return "the profile does not say how fast it was made (profile again, or say --method)"
    if profiled.speed.streamed:
        return f"the profile was made layer by layer, which does not say how long {SEARCH} takes (it can be named)"
    if lack := lack_of_packs():
        return lack
    blocks = calibration_blocks(base, source, packs)
    seconds = expected_passes(
        blocks, layers=base.num_layers, experts=base.num_experts, top_k=base.top_k, keep_n=asked_keep_n(base, request),
        positions=request.search.max_positions,
    ).seconds(profiled.speed.tokens_per_second)  # fmt: skip
    if seconds > AUTO_MINUTES * 60:
        return f"{SEARCH} would take about {duration(seconds)} by the profile's speed, more than {AUTO_MINUTES} min"

    from eaftgate.model.spread import lack_of_room
    from eaftgate.search.refined import lack_of_blocks

    run = ModelRun(packs, settings(), pre_gate)
    if run.model.hardware != profiled.speed.on:
        return f"the profile was made on {profiled.speed.on}, and its speed says nothing of {run.model.hardware}"
    held = held_by_search(base, profiled, request.search, run.model)
    return (
        lack_of_room(base, run.model, held=held)
        or lack_of_blocks(blocks)
        or _Search(run, f"about {duration(seconds)} by the profile's speed")
    )


def _lack_of_packs(packs: Path, profiled: ProfileDescription) -> str:
    """Why the profile's packs are not at hand, where they are not."""
    if profiled.packs_dir is None or profiled.packs_digest is None:
        return "the profile does not say where its packs are (say it with --packs)"
    is_there = False
    with suppress(OSError):  # a name that is too long
        is_there = packs.exists()
    if not is_there:
        return f"the packs of the profile are not at {packs} any more (say where with --packs)"
    try:
        is_same = rows_digest(read_packs(packs)) == profiled.packs_digest
    except (UserError, OSError) as error:
        return f"the packs of the profile cannot be read: {error}"
    return "" if is_same else f"{packs} holds other rows than when it was profiled"
