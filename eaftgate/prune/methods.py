"""The methods of choosing experts, one entry each: what a method must see, which settings matter to it, how it chooses.

Pruning, sweeps and the command line read this table and know no method by name. Imports nothing that is slow: the
command line lists the names, and only who chooses waits for NumPy or torch.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from eaftgate.choices import listed
from eaftgate.errors import UserError
from eaftgate.search.settings import SearchSettings
from eaftgate.select.scorers import SCORERS, Scorer

if TYPE_CHECKING:
    from eaftgate.families.model import MoeModel
    from eaftgate.packs.blocks import Blocks
    from eaftgate.profile.profile import Profile
    from eaftgate.prune.keep_sets import GivenKeepSets
    from eaftgate.search.journal import Journal
    from eaftgate.search.search import Found, Progress
    from eaftgate.select.class_weights import ClassWeights
    from eaftgate.select.keep import KeepSets
    from eaftgate.select.saliency import EaftWeights
    from eaftgate.select.scores import Scores

AUTO = "auto"
"""What --method calls no method, but a choice between two (eaftgate.prune.auto)."""
DEFAULT_SCORER = "reap-mass"
"""What ranks the experts where nothing else is asked for."""
SEARCH = "refined"
"""What chooses them where it takes AUTO_MINUTES at most, by its estimate."""
AUTO_MINUTES = 20

Needs = Literal["nothing", "trace", "model"]
"""`trace`: a profile, or the scores that were cut from one. `model`: besides a profile the base itself, loaded, and the
profile's blocks to run it over."""


@dataclass(frozen=True)
class Settings:
    """What is asked for. A method takes from it what its `uses` name; `alignment` None takes the profile's, `classes`
    None is what the method does by itself: a scorer counts content alone, every token alike."""

    keep_n: int
    weights: "EaftWeights"
    search: SearchSettings
    classes: "ClassWeights | None" = None
    alignment: str | None = None
    given: "GivenKeepSets | None" = None


@dataclass(frozen=True)
class Running:
    """The base, loaded, and the profile's blocks. `described` says how it runs, for the manifest."""

    model: "MoeModel"
    blocks: "Blocks"
    described: Mapping[str, Any]
    journal: "Journal"
    progress: "Progress | None" = None


@dataclass(frozen=True)
class Sight:
    """What a method may look at: as much as its `needs` say is there."""

    num_layers: int
    num_experts: int
    source: "Profile | Scores | None" = None
    running: Running | None = None


@dataclass(frozen=True)
class Choice:
    """Keep sets and how they came about: `provenance` for the manifest, `options` of eaftgate prune for the recipe.

    `scores` is what a scorer chose by; None for all other methods. `notes` are lines for the recipe's comment.
    """

    keep: "KeepSets"
    provenance: dict[str, Any]
    options: dict[str, Any]
    scores: "Scores | None" = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """`uses` names the settings that make a difference to it, as a sweep varies them (eaftgate.study.cases).
    `suffices` says whether blocks are enough for it to choose on; None: any are. `choose` raises UserError when it
    cannot."""

    name: str
    needs: Needs
    choose: Callable[[Sight, Settings], Choice]
    uses: frozenset[str] = frozenset()
    suffices: "Callable[[Blocks], bool] | None" = None
    meaning: str = ""
    """How it chooses, for --help."""


def _scoring(name: str, scorer: Scorer) -> Method:
    def choose(sight: Sight, settings: Settings) -> Choice:
        from eaftgate.select.class_weights import ClassWeights
        from eaftgate.select.keep import scored_keep_sets

        weights, scores = settings.weights, _scores(sight, settings)
        plain = ClassWeights()
        classes = settings.classes or plain
        weighed = None if classes == plain else classes
        sums = scores.weighed(classes)
        keep = scored_keep_sets(sums, method=name, keep_n=settings.keep_n, weights=weights)
        shown = {"w_good": weights.good, "w_conflict": weights.conflict, "w_uncertain": weights.uncertain}
        return Choice(
            keep,
            {"alignment": scores.alignment, "weights": weights.as_dict()} | _weighed(weighed),
            {"alignment": scores.alignment} | shown | _weighed(weighed, option=True),
            scores,
        )

    weighed = {"good", "conflict", "uncertain", "low_quantile"} if scorer.weighs_tokens else set()
    return Method(name, "trace", choose, frozenset({"alignment", "rows"} | weighed), meaning=scorer.meaning)


def _weighed(classes: "ClassWeights | None", *, option: bool = False) -> dict[str, Any]:
    """What is remembered of the classes' weights, if there are any; as an option, as it is given."""
    if classes is None:
        return {}
    return {"class_weight": classes.as_option()} if option else {"class_weights": classes.as_dict()}


def _scores(sight: Sight, settings: Settings) -> "Scores":
    """Those that were given, or cut from the profile. Raises UserError when they are for other settings."""
    from eaftgate.profile.profile import Profile
    from eaftgate.select.scores import scores_of

    source, quantile = sight.source, settings.weights.low_quantile
    assert source is not None  # by what the method needs
    if isinstance(source, Profile):
        alignment = settings.alignment or source.description.alignment
        return scores_of(source, alignment=alignment, low_quantile=quantile, classes=settings.classes)
    if (settings.alignment or source.alignment, quantile) != (source.alignment, source.low_quantile):
        raise UserError(
            f"--scores are for --alignment {source.alignment} and quantile {source.low_quantile}: give --profile"
        )
    return source


def _searching(
    name: str,
    search: "Callable[[Profile, Running, Settings], Found]",
    *,
    uses: Collection[str] = (),
    suffices: "Callable[[Blocks], bool] | None" = None,
    meaning: str,
) -> Method:
    def choose(sight: Sight, settings: Settings) -> Choice:
        from eaftgate.profile.profile import Profile

        assert sight.running is not None  # by what the method needs
        assert isinstance(sight.source, Profile)
        keep, found = search(sight.source, sight.running, settings)
        provenance = {"alignment": "predicting", "search": found | {"model": dict(sight.running.described)}}
        classes = settings.classes
        return Choice(keep, provenance | _weighed(classes), asdict(settings.search) | _weighed(classes, option=True))

    return Method(name, "model", choose, frozenset({"rows", "max_positions", "seed", *uses}), suffices, meaning)


def _greedy(profile: "Profile", on: Running, settings: Settings) -> "Found":
    from eaftgate.search.search import greedy_search

    return greedy_search(
        on.model, on.blocks, profile.trace, keep_n=settings.keep_n, settings=settings.search, classes=settings.classes,
        progress=on.progress,
    )  # fmt: skip


def _refined(profile: "Profile", on: Running, settings: Settings) -> "Found":
    from eaftgate.search.search import refined_search

    return refined_search(
        on.model, on.blocks, profile.trace, keep_n=settings.keep_n, settings=settings.search, classes=settings.classes,
        progress=on.progress, journal=on.journal,
    )  # fmt: skip


def _can_refine(blocks: "Blocks") -> bool:
    from eaftgate.search.refined import lack_of_blocks

    return not lack_of_blocks(blocks)


def _random(sight: Sight, settings: Settings) -> Choice:
    from eaftgate.select.keep import random_keep_sets

    seed = settings.search.seed
    keep = random_keep_sets(sight.num_layers, sight.num_experts, settings.keep_n, seed)
    return Choice(keep, {"seed": seed}, {"seed": seed})


def _all_of_them(sight: Sight, _: Settings) -> Choice:
    return Choice([list(range(sight.num_experts))] * sight.num_layers, {}, {})


def _given(_: Sight, settings: Settings) -> Choice:
    given = settings.given
    assert given is not None  # without a file this method is not asked
    said = {"file": str(given.path), "sha256": given.sha256}
    note = f"The sha256 of {given.path} is {given.sha256}."
    return Choice(given.keep, {"keep_sets": said}, {"keep_sets": str(given.path)}, notes=(note,))


METHODS = {
    method.name: method
    for method in (
        *(_scoring(name, scorer) for name, scorer in SCORERS.items()),
        _searching("greedy", _greedy, meaning="one expert after the other goes that a layer's output misses least"),
        _searching(
            "refined",
            _refined,
            suffices=_can_refine,
            meaning="greedy, then experts are swapped as long as the whole model loses less of what a gate judges",
        ),
        Method("random", "nothing", _random, frozenset({"seed"}), meaning="by --seed, to compare with"),
    )
}
"""By what --method calls them. A scorer has its entry in eaftgate.select.scorers."""
NO_OP = Method("no-op", "nothing", _all_of_them)
"""Whatever --method says, when all experts are kept."""
KEEP_SETS = Method("keep-sets", "nothing", _given)
"""Where a file says which experts are kept: --keep-sets, and no --method."""


def method_named(name: str) -> Method:
    """Raises UserError when there is none."""
    if name not in METHODS:
        raise UserError(f"--method is {name!r}: it must be one of {listed(METHODS, meant=name)}")
    return METHODS[name]


def needing(needs: Needs) -> list[str]:
    """The names of the methods that need just that."""
    return [name for name, method in METHODS.items() if method.needs == needs]


def using(setting: str) -> list[str]:
    """The names of the methods that `setting` makes a difference to."""
    return [name for name, method in METHODS.items() if setting in method.uses]
