"""From scores to keep sets: core experts first, then the best of the rest (SPEC section 4).

Shapes: L layers, E experts.
"""

from collections.abc import Callable

import numpy as np

from eaftgate.errors import UserError
from eaftgate.profile.trace import Trace
from eaftgate.select.saliency import EaftWeights, ExpertSums, ScoreArray, expert_sums, mean_per_hit

KeepSets = list[list[int]]
"""Per layer, the kept expert ids in ascending order; as many in every layer."""

CORE_EXPERTS = 4

_SCORES: dict[str, Callable[[ExpertSums], ScoreArray]] = {
    "eaft-reap": lambda sums: sums.eaft_mass_LE,
    "reap": lambda sums: mean_per_hit(sums.mass_LE, sums.hits_LE),
    "reap-mass": lambda sums: sums.mass_LE,
    "ean": lambda sums: sums.norm_LE,
    "frequency": lambda sums: sums.hits_LE,
}
METHODS = (*_SCORES, "random")


def ranked_keep_sets(score_LE: ScoreArray, keep_n: int, core_score_LE: ScoreArray | None = None) -> KeepSets:
    """The `keep_n` best experts of every layer; with `core_score_LE`, its best CORE_EXPERTS are among them.

    Ties go to the lower expert id.
    """
    keep: KeepSets = []
    for layer, score_E in enumerate(score_LE):
        core = [] if core_score_LE is None else _ranking(core_score_LE[layer])[: min(CORE_EXPERTS, keep_n)]
        rest = [expert for expert in _ranking(score_E) if expert not in core]
        keep.append(sorted(core + rest[: keep_n - len(core)]))
    return keep


def _ranking(score_E: ScoreArray) -> list[int]:
    ranking: list[int] = np.argsort(-score_E, kind="stable").tolist()
    return ranking


def random_keep_sets(num_layers: int, num_experts: int, keep_n: int, seed: int) -> KeepSets:
    generator = np.random.default_rng(seed)
    return [sorted(generator.permutation(num_experts)[:keep_n].tolist()) for _ in range(num_layers)]


def select_keep_sets(
    trace: Trace, *, method: str, keep_n: int, alignment: str, weights: EaftWeights | None = None
) -> KeepSets:
    """The keep sets of a scoring method. Raises UserError for a method that is none."""
    if method not in _SCORES:
        raise UserError(f"--method is {method!r}: it must be one of {', '.join(METHODS)}")
    sums = expert_sums(trace, alignment=alignment, weights=weights or EaftWeights())
    core = sums.good_mass_LE if method == "eaft-reap" else None
    return ranked_keep_sets(_SCORES[method](sums), keep_n, core)
