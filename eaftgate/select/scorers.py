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


SCORERS = {
    "eaft-reap": Scorer(lambda sums: sums.eaft_mass_LE, lambda sums: sums.good_mass_LE[None], weighs_tokens=True),
    "reap": Scorer(lambda sums: sums.mass_per_hit_LE),
    "reap-mass": Scorer(lambda sums: sums.mass_LE),
    "ean": Scorer(lambda sums: sums.norm_LE),
    "frequency": Scorer(lambda sums: sums.hits_LE),
    "eaft-reap-pack-core": Scorer(lambda sums: sums.eaft_mass_LE, lambda sums: sums.good_mass_PLE, weighs_tokens=True),
    "worst-pack": Scorer(lambda sums: sums.mass_PLE),
}
