"""The scorers, one entry each: what an expert is scored by, from the sums over a trace.

Imports nothing that is slow: the command line lists the names.

Shapes: P packs, L layers, E experts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # NumPy
    from eaftgate.select.saliency import ExpertSums, ScoreArray


@dataclass(frozen=True)
class Scorer:
    """`score` is [L, E]: the best are kept; or [P, L, E], scores of every pack, none of which may lose much more than
    the others do. With `core`, [P, L, E], every pack's best by that are kept first. `weighs_tokens`: whether EAFT's
    token weights change anything."""

    score: "Callable[[ExpertSums], ScoreArray]"
    core: "Callable[[ExpertSums], ScoreArray] | None" = None
    weighs_tokens: bool = False
    meaning: str = ""
    """What it ranks by, for --help."""


SCORERS = {
    "eaft-reap": Scorer(
        lambda sums: sums.eaft_mass_LE,
        lambda sums: sums.good_mass_LE[None],
        weighs_tokens=True,
        meaning="REAP's mass with tokens weighted by how sure and how right the base is",
    ),
    "reap": Scorer(
        lambda sums: sums.mass_per_hit_LE,
        meaning="router weight times output norm, mean of the tokens that use the expert",
    ),
    "reap-mass": Scorer(lambda sums: sums.mass_LE, meaning="the same, as a sum over them"),
    "ean": Scorer(lambda sums: sums.norm_LE, meaning="the norm of the output alone, as a sum"),
    "frequency": Scorer(lambda sums: sums.hits_LE, meaning="how many tokens use the expert"),
    "eaft-reap-pack-core": Scorer(
        lambda sums: sums.eaft_mass_LE,
        lambda sums: sums.good_mass_PLE,
        weighs_tokens=True,
        meaning="eaft-reap, with every pack's best experts kept first",
    ),
    "worst-pack": Scorer(
        lambda sums: sums.mass_PLE, meaning="reap-mass of every pack, so that none loses much more than the others"
    ),
}
