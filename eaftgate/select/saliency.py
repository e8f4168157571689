"""Scores of experts cut from a trace: EAFT-REAP and the baselines it is compared with (SPEC section 4).

REAP (arXiv 2510.13999) scores an expert by gate x L2 norm of its output over the tokens routed to it; EAFT-REAP weights
every token by how right and how sure the model was, and ranks by the total mass.

Shapes: T counted tokens, L layers, E experts, K selections.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from eaftgate.profile.trace import Trace

ScoreArray = NDArray[np.float64]


@dataclass(frozen=True)
class EaftWeights:
    """Token weights by region, and the quantiles of p and entropy that bound the regions."""

    good: float = 1.0
    conflict: float = -2.0
    uncertain: float = 0.25
    low_quantile: float = 0.15

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Regions:
    """good: p >= p_lo and H <= h_lo; conflict (sure and wrong): p < p_lo and H <= h_lo; the rest is uncertain."""

    good_T: NDArray[np.bool_]
    conflict_T: NDArray[np.bool_]

    def weight_T(self, weights: EaftWeights) -> NDArray[np.float64]:
        return np.where(self.good_T, weights.good, np.where(self.conflict_T, weights.conflict, weights.uncertain))


def regions(p_T: NDArray[np.float32], entropy_T: NDArray[np.float32], low_quantile: float) -> Regions:
    p_lo, h_lo = np.quantile(p_T, low_quantile), np.quantile(entropy_T, low_quantile)
    sure_T = entropy_T <= h_lo
    return Regions(good_T=sure_T & (p_T >= p_lo), conflict_T=sure_T & (p_T < p_lo))


@dataclass(frozen=True)
class ExpertSums:
    """Per layer and expert, over the tokens routed to it: number of selections, sum of norms, of gate x norm, and of
    gate x norm weighted by region."""

    hits_LE: ScoreArray
    norm_LE: ScoreArray
    mass_LE: ScoreArray
    good_mass_LE: ScoreArray
    eaft_mass_LE: ScoreArray


def expert_sums(trace: Trace, *, alignment: str, weights: EaftWeights) -> ExpertSums:
    """One pass over the trace. Float64 sums, so that they do not depend on the order of shards to 1e-12."""
    region = regions(trace.column("p_T"), trace.column("entropy_T"), weights.low_quantile)
    weight_T, good_T = region.weight_T(weights), region.good_T.astype(np.float64)
    shape = (trace.num_layers, trace.num_experts)
    sums = np.zeros((5, *shape))
    first = 0
    for expert_TLK, gate_TLK, norm_TLK in trace.selections(alignment):
        tokens = slice(first, first + len(expert_TLK))
        first = tokens.stop
        for layer in range(trace.num_layers):
            expert = expert_TLK[:, layer].ravel().astype(np.intp)
            norm = norm_TLK[:, layer].ravel().astype(np.float64)
            mass = gate_TLK[:, layer].ravel() * norm
            repeat = trace.top_k
            for row, value in enumerate(
                (
                    None,
                    norm,
                    mass,
                    mass * np.repeat(good_T[tokens], repeat),
                    mass * np.repeat(weight_T[tokens], repeat),
                )
            ):
                sums[row, layer] += np.bincount(expert, weights=value, minlength=trace.num_experts)
    return ExpertSums(*sums)


def mean_per_hit(total_LE: ScoreArray, hits_LE: ScoreArray) -> ScoreArray:
    """total / hits, 0 for an expert that was never selected."""
    return np.divide(total_LE, hits_LE, out=np.zeros_like(total_LE), where=hits_LE > 0)
