"""Per-token divergence over the common top 20, and what pairing refuses."""

import math
from dataclasses import replace

import numpy as np
import pytest
from content import content_roles
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, rel_entr

from eaftgate.collect.collection import TOP_K, Collection, TokenStats
from eaftgate.parity.paired import concatenate_pairs, pair, top_divergences

VOCABULARY = 40
FIRST = np.zeros(6, np.int32)
"""The reference of six tokens: id 0, whose log-probability `stats_of` takes."""


def stats_of(logits_TV: np.ndarray) -> TokenStats:
    logprobs_TV = log_softmax(logits_TV, axis=1)
    ids_TK = np.argsort(-logprobs_TV, axis=1, kind="stable")[:, :TOP_K]
    top_TK = np.take_along_axis(logprobs_TV, ids_TK, axis=1).astype(np.float32)
    tokens = len(logits_TV)
    entropy = np.full(tokens, 0.5, np.float32)
    return TokenStats(logprobs_TV[:, 0].astype(np.float32), entropy, ids_TK.astype(np.int32), top_TK)


def top_of(stats: TokenStats, token: int) -> dict[int, float]:
    """Probability by id."""
    probabilities = np.exp(stats.top_logprobs_TK[token].astype(float)).tolist()
    return dict(zip(stats.top_ids_TK[token].tolist(), probabilities, strict=True))


def slow_top_jsd(base: TokenStats, candidate: TokenStats, token: int) -> float:
    p, q = (top_of(stats, token) for stats in (base, candidate))
    common = sorted(p.keys() & q.keys())
    pairs: list[tuple[float, float]] = [(p[i], q[i]) for i in common]
    pairs.append((1 - sum(a for a, _ in pairs), 1 - sum(b for _, b in pairs)))
    return sum(a * math.log(2 * a / (a + b)) + b * math.log(2 * b / (a + b)) for a, b in pairs) / 2


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.3, 3.0]))
def test_top_jsd_is_that_of_plain_loops_and_below_the_whole_divergence(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    logits_TV = rng.normal(0, 3, (6, VOCABULARY))
    moved_TV = logits_TV + rng.normal(0, noise, logits_TV.shape)
    base, candidate = stats_of(logits_TV), stats_of(moved_TV)
    found, _, _ = top_divergences(base, candidate, FIRST)
    assert found.dtype == np.float32
    assert found == pytest.approx([slow_top_jsd(base, candidate, token) for token in range(6)], rel=1e-3, abs=1e-6)
    p, q = (np.exp(log_softmax(logits, axis=1)) for logits in (logits_TV, moved_TV))
    whole = (rel_entr(p, (p + q) / 2) + rel_entr(q, (p + q) / 2)).sum(axis=1) / 2
    assert (found <= whole + 1e-6).all()


def test_equal_numbers_have_no_divergence_at_all() -> None:
    stats = stats_of(np.random.default_rng(0).normal(0, 9, (20_000, VOCABULARY)))
    jsd_T, kld_T, unshared_T = top_divergences(stats, stats, np.zeros(len(stats), np.int32))
    assert not jsd_T.any()
    assert not kld_T.any()
    assert unshared_T == pytest.approx(1 - np.exp(stats.top_logprobs_TK).sum(axis=1), abs=1e-6)


def test_disjoint_tops_are_one_bucket_each_way() -> None:
    logits = np.zeros((1, VOCABULARY))
    low, high = logits.copy(), logits.copy()
    low[:, :20], high[:, 20:] = 60, 60
    # Nothing in common: all mass of either model is in its rest bucket, so the bound says nothing.
    jsd_T, kld_T, unshared_T = top_divergences(stats_of(low), stats_of(high), FIRST[:1])
    assert jsd_T[0] == pytest.approx(0, abs=1e-6)
    # But of KL it is known that next to nothing of the candidate's is left for all that the base has, and how little
    # it has for the reference, one of 20 that are equally probable.
    assert kld_T[0] == pytest.approx(0.05 * 60 + 0.95 * math.log(0.95e6), rel=1e-3)
    assert unshared_T[0] == 1


def slow_top_kld(base: TokenStats, candidate: TokenStats, token: int) -> float:
    """Over all that the candidate may have given to the base's ids that are not among its own."""
    p, q = (top_of(stats, token) for stats in (base, candidate))
    outside = 1 - sum(q.values())
    least = min(q.values())
    if 0 in p and 0 not in q:
        q[0] = math.exp(float(candidate.logprob_T[token]))
        outside -= q[0]
    common = p.keys() & q.keys()
    known = sum(p[i] * math.log(p[i] / q[i]) for i in common)
    rest_p, rest_q = 1 - sum(p[i] for i in common), 1 - sum(q[i] for i in common)
    left_out = sum(p[i] for i in p.keys() - common)
    most = min(least * len(p.keys() - common), outside)
    if not left_out:
        return known + rest_p * math.log(rest_p / rest_q)

    def told_apart(given: float) -> float:
        rest: float = (rest_p - left_out) * math.log((rest_p - left_out) / (rest_q - given))
        return left_out * math.log(left_out / given) + rest

    found = minimize_scalar(told_apart, bounds=(1e-15, most), method="bounded", options={"xatol": 1e-12})
    return known + min(float(found.fun), told_apart(most))


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.3, 3.0]))
def test_top_kld_is_the_least_that_the_tops_allow_and_below_the_whole_divergence(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    logits_TV = rng.normal(0, 3, (6, VOCABULARY))
    moved_TV = logits_TV + rng.normal(0, noise, logits_TV.shape)
    base, candidate = stats_of(logits_TV), stats_of(moved_TV)
    _, found, _ = top_divergences(base, candidate, FIRST)
    outside_T = 1 - np.exp(candidate.top_logprobs_TK.astype(float)).sum(axis=1)
    for token in np.flatnonzero(outside_T > 1e-4).tolist():  # elsewhere it is a difference of rounded sums
        assert found[token] == pytest.approx(slow_top_kld(base, candidate, token), rel=2e-3, abs=2e-6)
    p, q = (np.exp(log_softmax(logits, axis=1)) for logits in (logits_TV, moved_TV))
    whole_T = rel_entr(p, q).sum(axis=1)
    assert (found <= whole_T + 2e-6).all()


def test_where_the_top_is_all_there_is_kld_is_whole() -> None:
    rng = np.random.default_rng(3)
    logits_TV = rng.normal(0, 2, (50, TOP_K))
    moved_TV = logits_TV + rng.normal(0, 1, logits_TV.shape)
    _, found, unshared_T = top_divergences(stats_of(logits_TV), stats_of(moved_TV), np.zeros(50, np.int32))
    p, q = (np.exp(log_softmax(logits, axis=1)) for logits in (logits_TV, moved_TV))
    assert found == pytest.approx(rel_entr(p, q).sum(axis=1), abs=1e-5)
    assert unshared_T == pytest.approx(0, abs=1e-6)


def collection(tokens: int = 50) -> Collection:
    stats = stats_of(np.random.default_rng(1).normal(0, 2, (tokens, VOCABULARY)))
    row = (np.arange(tokens) // 10).astype(np.int32)
    number = np.arange(tokens, dtype=np.int32)
    content = np.ones(tokens, bool)
    return Collection(stats, number, row, number // 20, content_roles(content), ~content, ("x",) * 5, {})


def test_a_pair_keeps_order_and_can_be_cut_and_joined() -> None:
    base = collection()
    tokens = pair(base, base)
    assert (tokens.nll_delta_T == 0).all()
    assert tokens.same_top1_T.all()
    first = tokens.block_T == 0
    joined = concatenate_pairs([tokens.select(first), tokens.select(~first)])
    assert np.array_equal(joined.p_T, tokens.p_T)
    assert len(joined) == 50


def test_other_rows_or_numbers_that_are_not_finite_are_refused() -> None:
    base = collection()
    for other in (collection(40), replace(base, row_T=base.row_T + 1), replace(base, block_T=base.block_T + 1)):
        with pytest.raises(ValueError, match=r"^base and candidate are not of the same tokens: their rows or blocks"):
            pair(base, other)
    broken = replace(base.stats, logprob_T=np.full(50, np.nan, np.float32))
    with pytest.raises(ValueError, match=r"^a log-probability or entropy is not finite$"):
        pair(base, replace(base, stats=broken))


def test_rounding_above_certainty_is_certainty() -> None:
    """A float32 log-probability may come out a little above 0; the perplexity takes it as it is, p does not."""
    base, candidate = (
        replace(collection(), stats=replace(collection().stats, logprob_T=np.full(50, above, np.float32)))
        for above in (1e-4, 2e-4)
    )
    tokens = pair(base, candidate)
    assert (tokens.p_base_T == 1).all()
    assert (tokens.p_T == 1).all()
    assert tokens.nll_delta_T == pytest.approx(np.full(50, -1e-4), rel=1e-5)
