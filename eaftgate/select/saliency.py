"""What scorers rank by: EAFT-REAP and the baselines it is compared with (SPEC section 4).

REAP (arXiv 2510.13999) scores an expert by gate x L2 norm of its output over the tokens routed to it; EAFT-REAP weights
every token by how right and how sure the model was, and ranks by the total mass.

Shapes: T counted tokens, P packs, R regions (good, conflict, uncertain), L layers, E experts, K selections.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from eaftgate.errors import UserError

ScoreArray = NDArray[np.float64]


@dataclass(frozen=True)
class EaftWeights:
    """Token weights by region, and the quantiles of p and entropy that bound the regions."""

    good: float = 1.0
    conflict: float = -2.0
    uncertain: float = 0.25
    low_quantile: float = 0.15

    def __post_init__(self) -> None:
        for name, value in self.as_dict().items():
            if not math.isfinite(value):
                raise UserError(f"the weight {name} is {value}: it must be a finite number")

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Regions:
    """good: p >= p_lo and H <= h_lo; conflict (sure and wrong): p < p_lo and H <= h_lo; the rest is uncertain."""

    good_T: NDArray[np.bool_]
    conflict_T: NDArray[np.bool_]

    def weight_T(self, weights: EaftWeights) -> NDArray[np.float64]:
        return np.where(self.good_T, weights.good, np.where(self.conflict_T, weights.conflict, weights.uncertain))


def regions(
    p_T: NDArray[np.float32],
    entropy_T: NDArray[np.float32],
    low_quantile: float,
    *,
    content_T: NDArray[np.bool_] | None = None,
) -> Regions:
    """By the quantiles of content tokens; all are, where `content_T` does not say."""
    of = slice(None) if content_T is None or not content_T.any() else content_T
    p_lo, h_lo = np.quantile(p_T[of], low_quantile), np.quantile(entropy_T[of], low_quantile)
    sure_T = entropy_T <= h_lo
    return Regions(good_T=sure_T & (p_T >= p_lo), conflict_T=sure_T & (p_T < p_lo))


@dataclass(frozen=True)
class ExpertSums:
    """Per pack, layer and expert, over the tokens routed to it: number of selections, sum of norms, of gate x norm, and
    of gate x norm weighted by region. The same over all packs under names in _LE."""

    hits_PLE: ScoreArray
    norm_PLE: ScoreArray
    mass_PLE: ScoreArray
    good_mass_PLE: ScoreArray
    eaft_mass_PLE: ScoreArray

    @property
    def hits_LE(self) -> ScoreArray:
        return _over_packs(self.hits_PLE)

    @property
    def norm_LE(self) -> ScoreArray:
        return _over_packs(self.norm_PLE)

    @property
    def mass_LE(self) -> ScoreArray:
        return _over_packs(self.mass_PLE)

    @property
    def good_mass_LE(self) -> ScoreArray:
        return _over_packs(self.good_mass_PLE)

    @property
    def eaft_mass_LE(self) -> ScoreArray:
        return _over_packs(self.eaft_mass_PLE)

    @property
    def mass_per_hit_LE(self) -> ScoreArray:
        return mean_per_hit(self.mass_LE, self.hits_LE)


def _over_packs(sum_PLE: ScoreArray) -> ScoreArray:
    total_LE: ScoreArray = sum_PLE.sum(axis=0)
    return total_LE


@dataclass(frozen=True)
class RegionSums:
    """All that any scorer needs of a trace: ExpertSums before the regions are weighted. Float64."""

    hits_PLE: ScoreArray
    norm_PLE: ScoreArray
    mass_PRLE: ScoreArray

    def weighted(self, weights: EaftWeights) -> ExpertSums:
        region_weights = np.array([weights.good, weights.conflict, weights.uncertain])
        return ExpertSums(
            hits_PLE=self.hits_PLE,
            norm_PLE=self.norm_PLE,
            mass_PLE=self.mass_PRLE.sum(axis=1),
            good_mass_PLE=self.mass_PRLE[:, 0],
            eaft_mass_PLE=np.einsum("prle,r->ple", self.mass_PRLE, region_weights),
        )


def mean_per_hit(total_LE: ScoreArray, hits_LE: ScoreArray) -> ScoreArray:
    """total / hits, 0 for an expert that was never selected."""
    return np.divide(total_LE, hits_LE, out=np.zeros_like(total_LE), where=hits_LE > 0)
