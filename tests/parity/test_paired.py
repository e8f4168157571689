"""Per-token divergence over the common top 20, and what pairing refuses."""

import math
from dataclasses import replace

import numpy as np
import pytest
from content import content_roles
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr

from eaftgate.collect.collection import TOP_K, Collection, TokenStats
from eaftgate.parity.paired import concatenate_pairs, pair, top_jsd

VOCABULARY = 40


def stats_of(logits_TV: np.ndarray) -> TokenStats:
    logprobs_TV = log_softmax(logits_TV, axis=1)
    ids_TK = np.argsort(-logprobs_TV, axis=1, kind="stable")[:, :TOP_K]
    top_TK = np.take_along_axis(logprobs_TV, ids_TK, axis=1).astype(np.float32)
    tokens = len(logits_TV)
    entropy = np.full(tokens, 0.5, np.float32)
    return TokenStats(logprobs_TV[:, 0].astype(np.float32), entropy, ids_TK.astype(np.int32), top_TK)


def slow_top_jsd(base: TokenStats, candidate: TokenStats, token: int) -> float:
    p, q = (
        dict(zip(s.top_ids_TK[token].tolist(), np.exp(s.top_logprobs_TK[token].astype(float)).tolist(), strict=True))
        for s in (base, candidate)
    )
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
    found = top_jsd(base, candidate)
    assert found.dtype == np.float32
    assert found == pytest.approx([slow_top_jsd(base, candidate, token) for token in range(6)], rel=1e-3, abs=1e-6)
    p, q = (np.exp(log_softmax(logits, axis=1)) for logits in (logits_TV, moved_TV))
    whole = (rel_entr(p, (p + q) / 2) + rel_entr(q, (p + q) / 2)).sum(axis=1) / 2
    assert (found <= whole + 1e-6).all()


def test_equal_numbers_have_no_divergence_at_all() -> None:
    stats = stats_of(np.random.default_rng(0).normal(0, 9, (20_000, VOCABULARY)))
    assert not top_jsd(stats, stats).any()


def test_disjoint_tops_are_one_bucket_each_way() -> None:
    logits = np.zeros((1, VOCABULARY))
    low, high = logits.copy(), logits.copy()
    low[:, :20], high[:, 20:] = 60, 60
    # Nothing in common: all mass of either model is in its rest bucket, so the bound says nothing.
    assert top_jsd(stats_of(low), stats_of(high))[0] == pytest.approx(0, abs=1e-6)


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
