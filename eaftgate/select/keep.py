"""From scores to keep sets: core experts first, then the best of the rest (SPEC section 4).

Shapes: P packs, L layers, E experts.
"""

import numpy as np

from eaftgate.errors import UserError
from eaftgate.profile.trace import Trace
from eaftgate.select.class_sums import region_sums
from eaftgate.select.class_weights import ClassWeights
from eaftgate.select.saliency import EaftWeights, RegionSums, ScoreArray
from eaftgate.select.scorers import SCORERS

KeepSets = list[list[int]]
"""Per layer, the kept expert ids in ascending order; as many in every layer."""

CORE_EXPERTS = 4


def ranked_keep_sets(score_LE: ScoreArray, keep_n: int, core_score_PLE: ScoreArray | None = None) -> KeepSets:
    """The `keep_n` best experts of every layer; with `core_score_PLE`, the core experts of every pack are among them.

    Ties go to the lower expert id.
    """
    core: KeepSets = [[] for _ in score_LE] if core_score_PLE is None else core_experts(core_score_PLE)
    keep: KeepSets = []
    for score_E, first in zip(score_LE, core, strict=True):
        rest = [expert for expert in _ranking(score_E) if expert not in first]
        keep.append(sorted([*first, *rest][:keep_n]))
    return keep


def core_experts(score_PLE: ScoreArray) -> KeepSets:
    """Per layer, the CORE_EXPERTS best of every pack: all packs' first, then all packs' second, and so on. A pack
    without a token that counts has none."""
    counting_PLE = score_PLE[score_PLE.any(axis=(1, 2))]
    return [
        list(dict.fromkeys(np.transpose([_ranking(score_E)[:CORE_EXPERTS] for score_E in score_PE]).ravel().tolist()))
        for score_PE in counting_PLE.transpose(1, 0, 2)
    ]


def worst_pack_keep_sets(score_PLE: ScoreArray, keep_n: int) -> KeepSets:
    """Drop one expert after the other: the one after which the pack that has lost the largest share of its score has
    lost least. Scores are >= 0; ties go to keeping the lower id."""
    share_PLE = score_PLE / np.maximum(score_PLE.sum(axis=2, keepdims=True), np.finfo(np.float64).tiny)
    keep: KeepSets = []
    for share_PE in share_PLE.transpose(1, 0, 2):
        kept = list(range(share_PE.shape[1]))
        lost_P = np.zeros(len(share_PE))
        while len(kept) > keep_n:
            worst = (lost_P[:, None] + share_PE[:, kept]).max(axis=0)
            dropped = kept.pop(len(kept) - 1 - int(worst[::-1].argmin()))
            lost_P += share_PE[:, dropped]
        keep.append(kept)
    return keep


def _ranking(score_E: ScoreArray) -> list[int]:
    ranking: list[int] = np.argsort(-score_E, kind="stable").tolist()
    return ranking


def random_keep_sets(num_layers: int, num_experts: int, keep_n: int, seed: int) -> KeepSets:
    generator = np.random.default_rng(seed)
    return [sorted(generator.permutation(num_experts)[:keep_n].tolist()) for _ in range(num_layers)]


def replaced(keep: KeepSets, layer: int, kept: list[int]) -> KeepSets:
    """`keep` with `kept` in `layer`; the layers' lists are shared."""
    return [*keep[:layer], kept, *keep[layer + 1 :]]


def select_keep_sets(
    trace: Trace,
    *,
    method: str,
    keep_n: int,
    alignment: str,
    weights: EaftWeights | None = None,
    classes: ClassWeights | None = None,
) -> KeepSets:
    """The keep sets of a scoring method. Raises UserError for a method that is none."""
    weights = weights or EaftWeights()
    sums = region_sums(trace, alignment=alignment, low_quantile=weights.low_quantile, classes=classes)
    return scored_keep_sets(sums, method=method, keep_n=keep_n, weights=weights)


def scored_keep_sets(sums: RegionSums, *, method: str, keep_n: int, weights: EaftWeights) -> KeepSets:
    """The same from sums over the trace, whose regions must be those of `weights.low_quantile`."""
    if method not in SCORERS:
        raise UserError(f"--method is {method!r}: it must be one of {', '.join(SCORERS)}")
    scorer, expert_sums = SCORERS[method], sums.weighted(weights)
    score = scorer.score(expert_sums)
    if score.ndim == 3:
        return worst_pack_keep_sets(score, keep_n)
    return ranked_keep_sets(score, keep_n, None if scorer.core is None else scorer.core(expert_sums))
