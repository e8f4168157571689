"""Scores of experts cut from a trace: EAFT-REAP and the baselines it is compared with (SPEC section 4).

REAP (arXiv 2510.13999) scores an expert by gate x L2 norm of its output over the tokens routed to it; EAFT-REAP weights
every token by how right and how sure the model was, and ranks by the total mass.

Shapes: T counted tokens, P packs, R regions (good, conflict, uncertain), L layers, E experts, K selections.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from eaftgate.errors import UserError
from eaftgate.profile.trace import Trace
from eaftgate.select.class_weights import ClassWeights

ScoreArray = NDArray[np.float64]
_CHUNK = 1 << 14
"""Tokens at a time: their selections and bins stay in the caches."""


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


def region_sums(
    trace: Trace, *, alignment: str, low_quantile: float, classes: ClassWeights | None = None
) -> RegionSums:
    """One pass over the trace, every token by its weight (of content alone, and alike, unless `classes` say otherwise).
    Float64 sums, so that they do not depend on the order of shards to 1e-12."""
    token_weights = (classes or ClassWeights()).token_weights(trace)
    trace = trace.select(token_weights.of_trace(trace) > 0)
    weight_T = token_weights.of_trace(trace)
    region = regions(trace.column("p_T"), trace.column("entropy_T"), low_quantile, content_T=trace.column("content_T"))
    region_T = np.where(region.good_T, 0, np.where(region.conflict_T, 1, 2))
    pack_T = trace.column("pack_T").astype(np.intp)
    cells = trace.num_layers * trace.num_experts
    packs = int(pack_T.max()) + 1
    # Everything is summed by pack and region; weights come after, so that they cost nothing.
    cell_L = np.arange(trace.num_layers)[:, None] * trace.num_experts
    group_T = (pack_T * 3 + region_T) * cells
    sums = np.zeros((3, packs * 3 * cells))
    first = 0
    for expert_TLK, gate_TLK, norm_TLK in trace.selections(alignment):
        for start in range(0, len(expert_TLK), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            norm = norm_TLK[chunk].astype(np.float64)
            here = slice(first + start, first + start + len(norm))
            group, weight = group_T[here], weight_T[here, None, None]
            bin_N = (group[:, None, None] + cell_L + expert_TLK[chunk]).ravel()
            values: tuple[ScoreArray, ...] = (np.ones(norm.shape), norm, gate_TLK[chunk].astype(np.float64) * norm)
            for row, value in enumerate(values):
                sums[row] += np.bincount(bin_N, weights=(weight * value).ravel(), minlength=sums.shape[1])
        first += len(expert_TLK)
    hits, norms, mass = sums.reshape(3, packs, 3, trace.num_layers, trace.num_experts)
    return RegionSums(hits_PLE=hits.sum(axis=1), norm_PLE=norms.sum(axis=1), mass_PRLE=mass)


def mean_per_hit(total_LE: ScoreArray, hits_LE: ScoreArray) -> ScoreArray:
    """total / hits, 0 for an expert that was never selected."""
    return np.divide(total_LE, hits_LE, out=np.zeros_like(total_LE), where=hits_LE > 0)
