"""From scores to keep sets (SPEC section 4): core experts first, ties to the lower id, every method its own score."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaftgate.errors import UserError
from eaftgate.packs.harmony import TokenClass
from eaftgate.profile.trace import Trace, TraceShard
from eaftgate.select.class_sums import region_sums
from eaftgate.select.keep import (
    CORE_EXPERTS,
    KeepSets,
    core_experts,
    random_keep_sets,
    ranked_keep_sets,
    select_keep_sets,
    worst_pack_keep_sets,
)
from eaftgate.select.saliency import EaftWeights
from eaftgate.select.scorers import SCORERS

EXPERTS = 8


def best(scores: Sequence[float], among: set[int]) -> int:
    """The highest score; the lowest id among equals."""
    winner = min(among)
    for expert in sorted(among):
        if scores[expert] > scores[winner]:
            winner = expert
    return winner


def slow_keep(scores: Sequence[float], keep_n: int, core_scores: Sequence[float] | None) -> list[int]:
    """Pick one expert after the other."""
    kept: list[int] = []
    while len(kept) < keep_n:
        left = set(range(len(scores))) - set(kept)
        by_core = core_scores is not None and len(kept) < CORE_EXPERTS
        kept.append(best(core_scores if by_core and core_scores else scores, left))
    return sorted(kept)


SCORES = st.lists(
    st.one_of(st.integers(-2, 2).map(float), st.floats(-10, 10)), min_size=EXPERTS, max_size=EXPERTS
)  # fmt: skip


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=3), st.integers(1, EXPERTS), st.booleans())
def test_equals_picking_one_after_the_other(
    layers: list[tuple[list[float], list[float]]], keep_n: int, with_core: bool
) -> None:
    scores, core = ([layer[i] for layer in layers] for i in (0, 1))
    keep = ranked_keep_sets(np.array(scores), keep_n, np.array([core]) if with_core else None)
    expected = [slow_keep(s, keep_n, c if with_core else None) for s, c in layers]
    assert keep == expected
    assert all(type(expert) is int for kept in keep for expert in kept)  # they go into JSON


def test_ties_go_to_the_lower_id() -> None:
    assert ranked_keep_sets(np.array([[1.0, 2.0, 1.0, 2.0, 1.0, 0.0]]), 4) == [[0, 1, 2, 3]]
    assert ranked_keep_sets(np.zeros((2, 6)), 3) == [[0, 1, 2], [0, 1, 2]]
    assert ranked_keep_sets(np.array([[0.0, -0.0, 0.0, -0.0]]), 2) == [[0, 1]]
    core = np.array([[[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]])
    assert ranked_keep_sets(np.arange(8.0)[None], 5, core) == [[0, 1, 2, 6, 7]]


def test_core_experts_stay_however_low_their_score() -> None:
    assert CORE_EXPERTS == 4
    score = np.array([[9.0, 8.0, 7.0, 6.0, -5.0, -6.0, -7.0, -8.0]])
    core = -score[None]
    assert ranked_keep_sets(score, 5, core) == [[0, 4, 5, 6, 7]]
    assert ranked_keep_sets(score, 4, core) == [[4, 5, 6, 7]]
    assert ranked_keep_sets(score, 2, core) == [[6, 7]]


# Methods, on a trace made so that every one of them keeps other experts.


def trace_of(tokens: Sequence[tuple[float, float, Sequence[tuple[int, float, float]]]]) -> Trace:
    """One layer, two selections a token: (p, entropy, [(expert, gate, norm), ...])."""
    number = len(tokens)
    selections = np.array([token[2] for token in tokens])[:, None]
    at = np.arange(number, dtype=np.int32)
    shard = TraceShard(
        expert_XLK=selections[..., 0].astype(np.uint8),
        gate_XLK=selections[..., 1].astype(np.float16),
        norm_XLK=(selections[..., 2] / 16).astype(np.float16),
        p_T=np.array([token[0] for token in tokens], dtype=np.float32),
        entropy_T=np.array([token[1] for token in tokens], dtype=np.float32),
        predicting_T=at,
        own_T=at[::-1].copy(),
        row_T=at,
        pack_T=np.zeros(number, np.uint8),
        token_T=np.arange(number, dtype=np.int32),
        kind_T=np.full(number, TokenClass.FINAL, np.uint8),
        content_T=np.ones(number, bool),
    )
    return Trace((shard,), 1, EXPERTS, 2)


GOOD, CONFLICT, UNCERTAIN = (0.9, 0.1), (0.05, 0.1), (0.5, 0.9)
"""(p, entropy); with quantiles of 0.3, see the trace."""
WEIGHTS = EaftWeights(low_quantile=0.3)
TOKENS = [
    # Four good tokens give experts 0 to 3 the good-token mass that makes the core, a little of it.
    *[(*GOOD, [(i, 0.5, 0.25), (i, 0.5, 0.25)]) for i in range(4)],
    # Expert 4: selected once, with a mass of 8 a hit. Expert 5: a large norm that the gate nearly closes.
    (*UNCERTAIN, [(4, 0.5, 16.0), (5, 0.0625, 100.0)]),
    # Expert 6: four selections of mass 4, all of them confident conflicts.
    *[(*CONFLICT, [(6, 0.5, 8.0), (6, 0.5, 8.0)]) for _ in range(2)],
    # Expert 7: many selections of mass 1.
    *[(*UNCERTAIN, [(7, 0.5, 2.0), (7, 0.5, 2.0)]) for _ in range(6)],
]
BEST_FIRST = {
    "eaft-reap": [4, 7, 5, 0, 1, 2, 3, 6],  # 2, 12/4, 6.25/4, 1/4 x 4, and -2 x 16 for the conflicts
    "reap": [4, 5, 6, 7, 0, 1, 2, 3],  # 8, 6.25, 4, 1, 1/8 a hit
    "reap-mass": [6, 7, 4, 5, 0, 1, 2, 3],  # 16, 12, 8, 6.25
    "ean": [5, 6, 7, 4, 0, 1, 2, 3],  # 100, 32, 24, 16
    "frequency": [7, 6, 0, 1, 2, 3, 4, 5],  # 12, 4, 2 x 4, 1, 1
    "eaft-reap-pack-core": [4, 7, 5, 0, 1, 2, 3, 6],  # one pack: its core is the core
    "worst-pack": [6, 7, 4, 5, 0, 1, 2, 3],  # one pack: reap-mass
}


def test_the_trace_has_the_regions_it_names() -> None:
    """Thresholds at place 0.3 * 12 = 3.6 of 13 tokens: H_lo is 0.1, p_lo is 0.5."""
    sums = region_sums(trace_of(TOKENS), alignment="predicting", low_quantile=WEIGHTS.low_quantile).weighted(WEIGHTS)
    assert sums.good_mass_LE.tolist() == [[0.25] * 4 + [0.0] * 4]
    assert sums.eaft_mass_LE.tolist() == [[0.25, 0.25, 0.25, 0.25, 2.0, 1.5625, -32.0, 3.0]]


@pytest.mark.parametrize("method", BEST_FIRST)
@pytest.mark.parametrize("keep_n", range(1, EXPERTS + 1))
def test_every_method_ranks_by_its_own_score(method: str, keep_n: int) -> None:
    keep = select_keep_sets(
        trace_of(TOKENS), method=method, keep_n=keep_n, alignment="predicting", weights=WEIGHTS
    )  # fmt: skip
    ranking = BEST_FIRST[method]
    if method.startswith("eaft-reap"):  # the core, by good-token mass, is there before the others
        ranking = [0, 1, 2, 3, 7, 4, 5, 6]
    assert keep == [sorted(ranking[:keep_n])]


def test_methods_disagree_here() -> None:
    """Every method's first choice is another expert, so none can stand in for another above; the two that differ by
    pack have tests of their own."""
    trace = trace_of(TOKENS)
    first = [
        select_keep_sets(trace, method=method, keep_n=1, alignment="predicting", weights=WEIGHTS)[0][0]
        for method in list(BEST_FIRST)[:5]
    ]
    assert first == [0, 4, 6, 5, 7]
    assert set(SCORERS) == set(BEST_FIRST)


def test_alignment_chooses_the_positions() -> None:
    """`own_T` of the trace runs backwards: under `token` the good tokens are at the end, where expert 7 is selected."""
    trace = trace_of(TOKENS)
    keep = {
        alignment: select_keep_sets(trace, method="eaft-reap", keep_n=1, alignment=alignment, weights=WEIGHTS)
        for alignment in ("predicting", "token")
    }
    assert keep == {"predicting": [[0]], "token": [[7]]}


def test_weights_default_to_the_specified_ones() -> None:
    trace = trace_of(TOKENS)
    default = select_keep_sets(trace, method="eaft-reap", keep_n=6, alignment="predicting")
    spelled = select_keep_sets(trace, method="eaft-reap", keep_n=6, alignment="predicting", weights=EaftWeights())
    assert default == spelled
    lenient = EaftWeights(conflict=10.0, low_quantile=0.3)
    keep = select_keep_sets(trace, method="eaft-reap", keep_n=5, alignment="predicting", weights=lenient)
    assert keep == [[0, 1, 2, 3, 6]]


@pytest.mark.parametrize("method", ["REAP", "magnitude", "random", "greedy", ""])
def test_a_method_without_scores_is_refused(method: str) -> None:
    with pytest.raises(UserError, match=f"--method is '{method}': it must be one of eaft-reap, reap, "):
        select_keep_sets(trace_of(TOKENS), method=method, keep_n=4, alignment="predicting")


# By pack.


PACK_SCORES = st.lists(
    st.lists(st.lists(st.integers(0, 3).map(float), min_size=6, max_size=6), min_size=2, max_size=2),
    min_size=1,
    max_size=3,
)
"""[pack][layer][expert], with many ties."""


def test_every_pack_has_its_core_in_turns() -> None:
    """Packs agree on expert 7; after that each gets its next best before any gets its third."""
    score = np.array([[[0, 0, 0, 0, 1, 2, 3, 9]], [[4, 3, 2, 0, 0, 0, 0, 9]]], dtype=float)
    assert core_experts(score) == [[7, 6, 0, 5, 1, 4, 2]]
    total = np.arange(8.0)[None]
    assert ranked_keep_sets(total, 4, score) == [[0, 5, 6, 7]]
    assert ranked_keep_sets(total, 8, score) == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert ranked_keep_sets(total[:, ::-1], 7, score) == [[0, 1, 2, 4, 5, 6, 7]]


@given(PACK_SCORES, st.integers(1, 6))
def test_worst_pack_equals_dropping_one_after_the_other(scores: list[list[list[float]]], keep_n: int) -> None:
    keep = worst_pack_keep_sets(np.array(scores), keep_n)
    for layer, kept in enumerate(keep):
        totals = [sum(pack[layer]) or 1.0 for pack in scores]
        left = list(range(6))
        while len(left) > keep_n:
            losses = {}
            for drop in left:
                gone = set(range(6)) - set(left) | {drop}
                losses[drop] = max(
                    sum(pack[layer][e] for e in gone) / total for pack, total in zip(scores, totals, strict=True)
                )
            # The highest id among those that are least, to rounding.
            left.remove(max(drop for drop in left if losses[drop] <= min(losses.values()) + 1e-12))
        worst = [
            max(1 - sum(pack[layer][e] for e in found) / total for pack, total in zip(scores, totals, strict=True))
            for found in (kept, left)
        ]
        assert len(kept) == keep_n
        assert kept == left or worst[0] == pytest.approx(worst[1])


def test_an_expert_of_one_small_pack_survives_only_where_packs_count_alike() -> None:
    """Pack 0 has 99 % of the mass and never uses expert 3; pack 1 uses nothing else."""
    mass = np.array([[[40.0, 30.0, 29.0, 0.0]], [[0.0, 0.0, 0.0, 1.0]]])
    assert ranked_keep_sets(mass.sum(axis=0), 3) == [[0, 1, 2]]
    assert worst_pack_keep_sets(mass, 3) == [[0, 1, 3]]


def test_methods_by_pack_read_the_packs_of_the_trace() -> None:
    trace = trace_of(TOKENS)
    pack_T = np.array([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], dtype=np.uint8)  # experts 4 and 5: pack 1, alone
    trace = replace(trace, shards=(replace(trace.shards[0], pack_T=pack_T),))
    sums = region_sums(trace, alignment="predicting", low_quantile=WEIGHTS.low_quantile).weighted(WEIGHTS)
    assert sums.mass_PLE[1].tolist() == [[0.0, 0.0, 0.0, 0.0, 8.0, 6.25, 0.0, 0.0]]
    keep = {
        method: select_keep_sets(trace, method=method, keep_n=2, alignment="predicting", weights=WEIGHTS)
        for method in ("reap-mass", "worst-pack", "eaft-reap", "eaft-reap-pack-core")
    }
    assert keep["reap-mass"] == [[6, 7]]
    assert keep["worst-pack"] == [[4, 6]]
    assert keep["eaft-reap"] == [[0, 1]]
    assert keep["eaft-reap-pack-core"] == [[0, 1]]  # pack 1 has no good token: expert 0 by number, then pack 0's second


# Random keep sets.


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32), st.data())
def test_random_keep_sets_are_sets_of_experts(layers: int, experts: int, seed: int, data: st.DataObject) -> None:
    keep_n = data.draw(st.integers(1, experts))
    keep: KeepSets = random_keep_sets(layers, experts, keep_n, seed)
    assert len(keep) == layers
    for kept in keep:
        assert kept == sorted(set(kept))
        assert len(kept) == keep_n
        assert 0 <= kept[0] <= kept[-1] < experts
    assert keep == random_keep_sets(layers, experts, keep_n, seed)


def test_random_keep_sets_are_spread_over_experts_and_layers() -> None:
    keep = random_keep_sets(400, 32, 24, seed=1)
    counts = np.bincount(np.concatenate(keep), minlength=32)
    # Binomial(400, 3/4): mean 300, standard deviation 8.7; five of them.
    assert np.abs(counts - 300).max() < 44
    assert keep != random_keep_sets(400, 32, 24, seed=2)
    assert len({tuple(kept) for kept in keep}) > 390


def test_a_pack_without_a_token_that_counts_has_no_core() -> None:
    score_PLE = np.arange(24.0).reshape(1, 2, 12)
    silent_PLE = np.concatenate([score_PLE, np.zeros_like(score_PLE)])
    assert core_experts(silent_PLE) == core_experts(score_PLE) == [[11, 10, 9, 8], [11, 10, 9, 8]]
    assert core_experts(np.zeros_like(score_PLE)) == [[], []]
