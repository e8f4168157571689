"""EAFT's weights over a small grid: what a ranking scores tokens by, one thing changed at a time and some together.

`reap-mass` is what all are compared with: every region alike, no core experts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from benchmarks.paired_bootstrap import ratio, with_interval
from eaftgate.profile.profile import Profile
from eaftgate.select.class_weights import BALANCED_WEIGHTS, ClassWeights
from eaftgate.select.keep import KeepSets, ranked_keep_sets
from eaftgate.select.saliency import EaftWeights
from eaftgate.select.scores import scores_of

if TYPE_CHECKING:  # torch
    from benchmarks.masked_blocks import Scored

REFERENCE = "reap-mass"


@dataclass(frozen=True)
class Setting:
    """`core`: whose best experts by good mass are kept first: of no one, of all tokens, or of every pack."""

    weights: EaftWeights = field(default_factory=EaftWeights)
    core: str = "all"
    alignment: str = "predicting"
    classes: ClassWeights = field(default_factory=ClassWeights)


ALIKE = Setting(EaftWeights(good=1, conflict=1, uncertain=1), core="none")
CLASSES = {
    "balanced": BALANCED_WEIGHTS,
    "call=4": ClassWeights(call=4),
    "header=1,close=1": ClassWeights(header=1, close=1),
}


def settings() -> dict[str, Setting]:
    """By name, the reference first."""
    eaft = Setting()
    found = {REFERENCE: ALIKE, "eaft-reap": eaft}
    for name, values in {
        "conflict": (-4.0, -1.0, 0.0, 0.25, 1.0),
        "uncertain": (0.0, 0.5, 1.0),
        "good": (0.5, 2.0),
        "low_quantile": (0.05, 0.3),
    }.items():
        for value in values:
            found[f"eaft-reap, {name} {value:g}"] = replace(eaft, weights=replace(eaft.weights, **{name: value}))
    for core in ("none", "pack"):
        found[f"eaft-reap, core {core}"] = replace(eaft, core=core)
    for conflict, uncertain in product((-2.0, -1.0, 0.0, 0.5), (0.5, 1.0)):
        both = replace(eaft.weights, conflict=conflict, uncertain=uncertain)
        found[f"conflict {conflict:g}, uncertain {uncertain:g}, core none"] = Setting(both, core="none")
    found[f"{REFERENCE}, core all"] = replace(ALIKE, core="all")
    for of, setting in {REFERENCE: ALIKE, "eaft-reap": eaft}.items():
        found[f"{of}, alignment token"] = replace(setting, alignment="token")
        for name, classes in CLASSES.items():
            found[f"{of}, {name}"] = replace(setting, classes=classes)
    return found


def sweep_keep_sets(profile: Profile, keep_n: int) -> Iterator[tuple[str, KeepSets]]:
    """Every setting that the profile can give, with its keep sets."""
    scores = {}
    for name, setting in settings().items():
        if setting.classes != ClassWeights() and not profile.trace.knows_classes:
            continue
        at = setting.alignment, setting.weights.low_quantile
        if at not in scores:
            scores[at] = scores_of(profile, alignment=at[0], low_quantile=at[1])
        sums = scores[at].weighed(setting.classes).weighted(setting.weights)
        core = {"none": None, "all": sums.good_mass_LE[None], "pack": sums.good_mass_PLE}[setting.core]
        yield name, ranked_keep_sets(sums.eaft_mass_LE, keep_n, core)


def sweep(profile: Profile, keep_n: int, seen: "Scored", gate: "Scored", *, seed: int) -> dict[str, Any]:
    """Of every setting the mean rise on calibration and on gate rows, and on gate rows its ratio to the reference."""
    keep_sets = dict(sweep_keep_sets(profile, keep_n))
    # Many settings choose the same.
    different = {str(keep): keep for keep in keep_sets.values()}
    rises = {key: (float(seen.rises_T(keep).mean()), gate.rises_D(keep)) for key, keep in different.items()}
    _, reference_D = rises[str(keep_sets[REFERENCE])]
    told = {}
    for name, keep in keep_sets.items():
        calibration, rise_D = rises[str(keep)]
        told[name] = {
            "calibration": calibration,
            "gate": float(rise_D.sum() / gate.content_T.sum()),
            **ratio(rise_D, reference_D, seed=seed),
        }
    blocks = {"calibration": seen.blocks.num_blocks, "gate": gate.blocks.num_blocks}
    return {"blocks": blocks, "different": len(rises), "settings": told}


def sweep_line(found: dict[str, Any]) -> str:
    told = found["settings"]
    best = min(told, key=lambda name: told[name]["calibration"])
    eaft, chosen = (with_interval(told[name], "ratio", ".3f") for name in ("eaft-reap", best))
    return (
        f"  sweep of {len(told)} ({found['different']} different): {REFERENCE} {told[REFERENCE]['gate']:+.4f}, "
        f"eaft-reap {eaft} of it, the best on calibration rows, {best}, {chosen}"
    )
