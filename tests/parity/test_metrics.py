"""Every metric of SPEC section 3: values worked out by hand, a plain-Python oracle, and what must always hold."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_model import slow_quantile

from eaftgate.parity.js2d import FINE, jensen_shannon
from eaftgate.parity.metrics import (
    CellMetrics,
    Thresholds,
    base_thresholds,
    cell_metrics,
    confident_conflict,
    halves_wobble,
    perplexity,
)

LN2 = math.log(2.0)

# By hand.


def test_perplexity_by_hand() -> None:
    """p = 1/2, 1/8, 1/4: the geometric mean is (1/64)^(1/3) = 1/4."""
    assert perplexity(np.log([0.5, 0.125, 0.25])) == pytest.approx(4.0, rel=1e-14)
    assert perplexity(np.zeros(5)) == 1.0


def test_a_perplexity_beyond_all_numbers_is_a_number() -> None:
    """A broken head makes one, which has to be written and judged."""
    assert 1e300 < perplexity(np.full(3, -5000.0)) < math.inf
    assert math.isnan(perplexity(np.array([math.nan])))


def test_perplexity_of_many_float32_tokens_is_summed_in_float64() -> None:
    """In float32 the running sum of a million halves-of-nats would be off in the third digit."""
    logprob = np.full(1_000_000, -0.7, dtype=np.float32)
    assert perplexity(logprob) == pytest.approx(math.exp(float(np.float32(0.7))), rel=1e-12)


def test_thresholds_by_hand() -> None:
    """The 0.15 quantile of n = 11 values lies at place 0.15 * 10 = 1.5, half way from the second to the third."""
    p = np.array([0.9, 0.0, 0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95, 1.0])
    entropy = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    thresholds = base_thresholds(p, entropy)
    assert thresholds.p == pytest.approx((0.1 + 0.3) / 2, rel=1e-14)
    assert thresholds.h == pytest.approx((0.1 + 0.2) / 2, rel=1e-14)


def test_confident_conflict_by_hand() -> None:
    """Both at most their threshold; on the threshold counts."""
    p = np.array([0.2, 0.2, 0.20001, 0.1, 0.0])
    entropy = np.array([0.15, 0.15001, 0.15, 0.1, 0.9])
    conflict = confident_conflict(p, entropy, Thresholds(0.2, 0.15))
    assert conflict.tolist() == [True, False, False, True, False]


def test_confident_conflict_rates_use_the_base_thresholds_for_both() -> None:
    """Base: 20 tokens of p = 0.05, 0.10, ..., 1.00 and H alike; place 0.15 * 19 = 2.85 puts both thresholds at
    0.15 + 0.85 * 0.05 = 0.1925, under which lie three tokens. The candidate's p and H are halved: seven of its tokens
    (0.025 to 0.175) lie there; with thresholds of its own it would be three again."""
    value = np.arange(1, 21) / 20
    metrics = cell_metrics(np.log(value), value, np.log(value / 2), value / 2)
    assert metrics.thresholds.p == pytest.approx(0.1925, rel=1e-12)
    assert metrics.thresholds.h == pytest.approx(0.1925, rel=1e-12)
    assert (metrics.cc_base, metrics.cc) == (3 / 20, 7 / 20)
    assert metrics.delta_cc == pytest.approx(0.2, rel=1e-12)
    assert metrics.mean_p_base == pytest.approx(0.525)
    assert metrics.mean_p == pytest.approx(0.2625)
    assert metrics.delta_mean_p == pytest.approx(-0.2625)
    assert metrics.ppl == pytest.approx(2 * metrics.ppl_base)
    assert metrics.delta_ppl == pytest.approx(metrics.ppl_base)
    assert metrics.tokens == 20


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([4, 0], [0, 9], LN2),
        ([1, 1, 0], [0, 1, 1], LN2 / 2),  # halves that share one bin: the other half of each is told apart
        ([3, 1], [1, 3], 0.75 * math.log(1.5) + 0.25 * math.log(0.5)),
        ([1, 0], [1, 1], 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)),
        ([5, 7], [10, 14], 0.0),  # shares, not counts
    ],
)
def test_jensen_shannon_by_hand(a: list[int], b: list[int], expected: float) -> None:
    assert jensen_shannon(np.array(a), np.array(b)) == pytest.approx(expected, rel=1e-13, abs=1e-15)


def test_js2d_by_hand() -> None:
    """Four tokens; the candidate moves one of them to a bin of its own. Three bins of mass 1/4 agree; of the fourth,
    each side holds 1/4 where the other holds none: JS = 1/2 (1/4 ln 2 + 1/4 ln 2) = ln 2 / 4."""
    p, entropy = np.array([0.9, 0.5, 0.2, 0.7]), np.array([0.1, 0.5, 0.9, 0.3])
    moved = np.array([0.9, 0.5, 0.2, 0.4])
    assert cell_metrics(np.log(p), entropy, np.log(moved), entropy).js2d == pytest.approx(LN2 / 4, rel=1e-13)
    shifted = entropy + np.array([0, 0, 0, 0.05])  # a move along the other axis is seen as well
    assert cell_metrics(np.log(p), entropy, np.log(p), shifted).js2d == pytest.approx(LN2 / 4, rel=1e-13)


def test_bins_by_hand() -> None:
    """160 x 120 equal bins, left edges inclusive, 1.0 in the last."""
    p = np.array([0.0, 1 / 160, 0.5, np.nextafter(1.0, 0.0), 1.0])
    entropy = np.array([1.0, 0.5, np.nextafter(0.5, 0.0), 1 / 120, 0.0])
    assert (FINE.p, FINE.h) == (160, 120)
    bins = [divmod(flat, FINE.h) for flat in FINE.of(p, entropy).tolist()]
    assert bins == [(0, 119), (1, 60), (80, 59), (159, 1), (159, 0)]


def test_halves_by_hand() -> None:
    """Eight tokens in halves of five and three. Thresholds at place 0.15 * 7 = 1.05 of p and of H."""
    p = np.array([0.1, 0.2, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4])
    entropy = np.array([0.2, 0.1, 0.5, 0.5, 0.5, 0.7, 0.7, 0.7])
    first = np.array([True] * 5 + [False] * 3)
    wobble = halves_wobble(np.log(p), entropy, first)
    assert wobble["ppl"] == pytest.approx(abs((0.1 * 0.2 * 0.8**3) ** (-1 / 5) - 2.5))
    assert wobble["mean_p"] == pytest.approx(2.7 / 5 - 0.4)
    assert wobble["cc_rate"] == pytest.approx(2 / 5)  # tokens 0 and 1, both in the first half
    assert wobble["js2d"] == pytest.approx(LN2)
    assert wobble == pytest.approx(halves_wobble(np.log(p), entropy, ~first))
    twice = np.arange(8) % 2 == 0
    same = halves_wobble(np.log(np.full(8, 0.3)), np.full(8, 0.5), twice)
    assert same == pytest.approx(dict.fromkeys(("ppl", "mean_p", "cc_rate", "js2d"), 0.0), abs=1e-12)


# Against plain loops.

Tokens = list[tuple[float, float]]
"""(log-probability, entropy) of every token. Multiples of 1/50 and 1/1000: ties are common, and no p lies within
rounding of a bin's edge except 1."""
TOKEN = st.tuples(st.integers(0, 600).map(lambda k: -k / 50), st.integers(0, 1000).map(lambda k: k / 1000))
PAIRS = st.lists(st.tuples(TOKEN, TOKEN), min_size=1, max_size=40)


def slow_metrics(base: Tokens, candidate: Tokens) -> dict[str, float]:
    """SPEC section 3, one token at a time."""
    p_thr = slow_quantile([math.exp(logprob) for logprob, _ in base], 0.15)
    h_thr = slow_quantile([entropy for _, entropy in base], 0.15)
    found = {"p_thr": p_thr, "h_thr": h_thr}
    shares: list[dict[tuple[int, int], float]] = []
    for name, tokens in (("_base", base), ("", candidate)):
        nll = total_p = conflicts = 0.0
        share: dict[tuple[int, int], float] = {}
        for logprob, entropy in tokens:
            p = math.exp(logprob)
            nll -= logprob
            total_p += p
            conflicts += p <= p_thr and entropy <= h_thr
            place = (min(int(p * 160), 159), min(int(entropy * 120), 119))
            share[place] = share.get(place, 0.0) + 1 / len(tokens)
        found |= {
            f"ppl{name}": math.exp(nll / len(tokens)),
            f"mean_p{name}": total_p / len(tokens),
            f"cc{name}": conflicts / len(tokens),
        }
        shares.append(share)
    a, b = shares
    divergence = 0.0
    for place in a.keys() | b.keys():
        middle = (a.get(place, 0.0) + b.get(place, 0.0)) / 2
        for share in shares:
            if place in share:
                divergence += share[place] * math.log(share[place] / middle) / 2
    return found | {"js2d": divergence}


def columns(tokens: Tokens) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    array = np.array(tokens).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def as_dict(metrics: CellMetrics) -> dict[str, float]:
    names = ("ppl_base", "ppl", "mean_p_base", "mean_p", "cc_base", "cc", "js2d")
    thresholds = {"p_thr": metrics.thresholds.p, "h_thr": metrics.thresholds.h}
    return thresholds | {name: getattr(metrics, name) for name in names}


@given(PAIRS)
def test_equals_the_slow_oracle(pairs: list[tuple[tuple[float, float], tuple[float, float]]]) -> None:
    base, candidate = [a for a, _ in pairs], [b for _, b in pairs]
    metrics = cell_metrics(*columns(base), *columns(candidate))
    assert as_dict(metrics) == pytest.approx(slow_metrics(base, candidate), rel=1e-12, abs=1e-12)
    assert metrics.tokens == len(pairs)


# What always holds.


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_tokens_does_not_matter(pairs, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = pairs[:]
    random.shuffle(shuffled)
    one, other = (
        cell_metrics(*columns([a for a, _ in order]), *columns([b for _, b in order])) for order in (pairs, shuffled)
    )
    assert as_dict(one) == pytest.approx(as_dict(other), rel=1e-12, abs=1e-15)


COUNTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20).filter(
    lambda pairs: any(a for a, _ in pairs) and any(b for _, b in pairs)
)


@given(COUNTS)
def test_jensen_shannon_is_symmetric_and_bounded(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs).T
    divergence = jensen_shannon(a, b)
    assert divergence == pytest.approx(jensen_shannon(b, a), rel=1e-12, abs=1e-15)
    assert 0.0 <= divergence <= LN2 * (1 + 1e-12)
    assert jensen_shannon(a, a) == jensen_shannon(a, 3 * a) == 0.0
    if (a * b.sum() != b * a.sum()).any():
        assert divergence > 0.0


@given(st.lists(TOKEN, min_size=1, max_size=30))
def test_a_model_against_itself_is_exactly_zero(tokens: Tokens) -> None:
    metrics = cell_metrics(*columns(tokens), *columns(tokens))
    assert (metrics.delta_ppl, metrics.delta_mean_p, metrics.delta_cc, metrics.js2d) == (0.0, 0.0, 0.0, 0.0)


@given(st.lists(TOKEN, min_size=1, max_size=10), st.integers(0, 3), st.data())
def test_one_value_that_is_not_finite_is_refused(tokens: Tokens, column: int, data: st.DataObject) -> None:
    arrays = [array.copy() for array in (*columns(tokens), *columns(tokens))]
    place = data.draw(st.integers(0, len(tokens) - 1))
    arrays[column][place] = data.draw(st.sampled_from((np.nan, np.inf, -np.inf)))
    with pytest.raises(ValueError, match=r"^a log-probability or entropy is not finite$"):
        cell_metrics(*arrays)


@pytest.mark.parametrize("lengths", [(3, 3, 2, 3), (3, 3, 2, 2), (1, 3, 3, 3), (0, 0, 0, 0)])
def test_other_lengths_and_no_tokens_are_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^base and candidate must have the same, non-zero number of counted tokens$"):
        cell_metrics(*(np.zeros(length) for length in lengths))


def test_rounding_above_certainty_is_certainty() -> None:
    """A float32 log-probability may come out a little above 0."""
    logprob, entropy = np.array([1e-4, -1.0]), np.array([0.0, 0.5])
    metrics = cell_metrics(logprob, entropy, logprob, entropy)
    assert metrics.mean_p == pytest.approx((1.0 + math.exp(-1)) / 2, rel=1e-12)
    assert metrics.js2d == 0.0
    halves = halves_wobble(np.array([1e-4, 0.0]), np.array([0.5, 0.5]), np.array([True, False]))
    assert (halves["mean_p"], halves["js2d"]) == (0, 0)


def test_float32_input_is_binned_in_float64() -> None:
    """The float32 log of 0.5 has an exp just above or below 0.5; both models must land in the same bin as float64."""
    logprob = np.log(np.arange(1, 160) / 160).astype(np.float32)
    entropy = np.full(159, 0.5, dtype=np.float32)
    metrics = cell_metrics(logprob, entropy, logprob.astype(np.float64), entropy.astype(np.float64))
    assert metrics.js2d == 0.0
