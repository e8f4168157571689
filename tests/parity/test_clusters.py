"""Clustered standard errors: plain loops, closed forms, and coverage where the truth is known."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t
from simulated import clustered_normal, documents

from eaftgate.parity.bounds import bounds, fixed_width
from eaftgate.parity.clusters import clustered, clustered_mean, clusters_by, evidence_of, jackknifed

CELL = st.lists(st.tuples(st.integers(0, 5), st.floats(-10, 10)), min_size=2, max_size=40)


def slow_standard_error(value: list[float], label: list[int]) -> float:
    mean = sum(value) / len(value)
    names = sorted(set(label))
    squares = sum(sum(v - mean for v, name in zip(value, label, strict=True) if name == c) ** 2 for c in names)
    return math.sqrt(len(names) / (len(names) - 1) * squares) / len(value)


@given(CELL)
def test_standard_error_is_that_of_plain_loops(cell: list[tuple[int, float]]) -> None:
    label, value = (list(column) for column in zip(*cell, strict=True))
    estimate = clustered_mean(np.array(value), [clusters_by(np.array(label))])
    assert estimate.value == pytest.approx(sum(value) / len(value), abs=1e-12)
    if len(set(label)) == 1:
        assert (estimate.standard_error, estimate.degrees_of_freedom) == (math.inf, 0)
        assert bounds(estimate, fixed_width(0.05, estimate.degrees_of_freedom)) == (-math.inf, math.inf)
    else:
        assert estimate.standard_error == pytest.approx(slow_standard_error(value, label), rel=1e-9, abs=1e-12)
        assert estimate.degrees_of_freedom == len(set(label)) - 1


def test_many_float32_values_are_summed_in_float64() -> None:
    value = np.full(100_000, 0.7, np.float32)
    estimate = clustered_mean(value, [clusters_by(np.arange(100_000) // 1000)])
    assert estimate.value == pytest.approx(float(np.float32(0.7)), rel=1e-13)
    assert estimate.standard_error < 1e-13


@pytest.mark.parametrize("scale", [1e-150, 1e-110, 1e-5, 1.0, 1e100])
def test_skewness_does_not_depend_on_the_scale(scale: float) -> None:
    value = np.random.default_rng(0).standard_exponential(40)
    clusters = [clusters_by(np.arange(40))]
    moved = clustered_mean(value * scale, clusters).skewness
    assert moved == pytest.approx(clustered_mean(value, clusters).skewness, rel=1e-6)
    assert clustered_mean(np.full(40, 5e-324), clusters).skewness == 0


def test_every_token_its_own_cluster_is_the_ordinary_standard_error() -> None:
    value = np.random.default_rng(0).normal(size=100)
    estimate = clustered_mean(value, [clusters_by(np.arange(100))])
    assert estimate.standard_error == pytest.approx(value.std(ddof=1) / 10)


def test_the_larger_of_two_clusterings_counts() -> None:
    value = np.repeat([1.0, -1.0, 1.0, -1.0], 25)
    rows, blocks = clusters_by(np.arange(100) // 25), clusters_by(np.arange(100) % 25)
    both = clustered_mean(value, [blocks, rows])
    assert both == clustered_mean(value, [rows])
    assert both.standard_error > 10 * clustered_mean(value, [blocks]).standard_error


def test_an_influence_is_centred() -> None:
    value = np.random.default_rng(0).normal(size=60)
    rows = [clusters_by(np.arange(60) // 7)]
    moved = clustered(3.0, value + 5, rows).standard_error
    assert clustered(3.0, value, rows).standard_error == pytest.approx(moved, rel=1e-12)


@pytest.mark.parametrize("shared", [0.0, 0.1, 0.5])
def test_one_sided_bounds_cover_the_truth_as_often_as_they_say(shared: float) -> None:
    """2,000 cells of 60 documents. 0.95 less three standard errors of the simulation, and a little for df: 0.93."""
    rng = np.random.default_rng(1)
    below = above = 0
    for _ in range(2000):
        row_T = documents(rng, 3000, mean_length=50)
        estimate = clustered_mean(clustered_normal(rng, row_T, shared), [clusters_by(row_T)])
        lower, upper = bounds(estimate, fixed_width(0.05, estimate.degrees_of_freedom))
        below, above = below + (lower <= 0), above + (upper >= 0)
    assert below / 2000 > 0.93
    assert above / 2000 > 0.93
    assert min(below, above) / 2000 < 0.97, "the bounds are wider than they need be"


def rare_events(rng: np.random.Generator, tokens: int, base_rate: float, rise: float) -> tuple[np.ndarray, ...]:
    """Events of two models: a third of the base's vanish, as many and `rise` come up; both cluster by document."""
    row_T = documents(rng, tokens, mean_length=60)
    base_T = rng.random(tokens) < base_rate * rng.gamma(2.0, 0.5, row_T.max() + 1)[row_T]
    arising_T = rng.random(tokens) < (base_rate / 3 + rise) * rng.gamma(1.0, 1.0, row_T.max() + 1)[row_T]
    return base_T, np.where(base_T, rng.random(tokens) > 1 / 3, arising_T), row_T


@pytest.mark.parametrize("tokens", [700, 3000, 20000])
@pytest.mark.parametrize("base_rate", [0.0, 0.002])
def test_a_rise_of_rare_events_at_the_margin_is_not_passed_too_often(tokens: int, base_rate: float) -> None:
    """Without the made-up clusters 28 % of the smallest cells would pass, most of them on no event at all."""
    rng = np.random.default_rng(2)
    passed = plain = 0
    for _ in range(1000):
        base_T, event_T, row_T = rare_events(rng, tokens, base_rate, 0.002)
        difference_T, rows = event_T.astype(float) - base_T, [clusters_by(row_T)]
        for rare in (True, False):
            estimate = clustered_mean(difference_T, rows, rare=rare)
            below = bounds(estimate, fixed_width(0.05, estimate.degrees_of_freedom))[1] < 0.002
            passed, plain = passed + (rare and below), plain + (not rare and below)
    assert passed / 1000 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)
    if tokens == 700:
        assert plain / 1000 > 0.1


@pytest.mark.parametrize(
    ("events", "weight"),
    [([0, 0, 0, 0], 1), ([0.5, 0, 0, 0], 1), ([2, -4, 0, 0], 3), ([5, 5, 5, 5], 5)],
)
def test_rare_events_count_as_if_two_more_clusters_had_them(events: list[float], weight: float) -> None:
    """One up and one down by what a cluster with any event holds, one event at least: each adds its square."""
    value_T = np.repeat(np.array(events) / 10, 10)
    rows, weight_of_two = [clusters_by(np.arange(40) // 10)], 2 * weight**2
    plain, rare = (clustered_mean(value_T, rows, rare=rare) for rare in (False, True))
    assert rare.standard_error**2 - plain.standard_error**2 == pytest.approx(4 / 3 * weight_of_two / 40**2, rel=1e-12)
    assert rare.value == plain.value
    assert rare.degrees_of_freedom == plain.degrees_of_freedom == 3


def test_width_is_students() -> None:
    for degrees_of_freedom in (1, 9):
        assert fixed_width(0.05, degrees_of_freedom) == pytest.approx(t.ppf(0.95, degrees_of_freedom))
    assert fixed_width(0.05, 0) == math.inf


# Jackknife


def slow_jackknife(numerator: list[float], denominator: list[float], label: list[int]) -> tuple[float, float]:
    """(value, standard error): every cluster left out in turn, that which moves the value most counting three times."""
    value = sum(numerator) / sum(denominator)
    there = [
        c
        for c in sorted(set(label))
        if any(k == c and (a or b) for a, b, k in zip(numerator, denominator, label, strict=True))
    ]
    squares = []
    for cluster in there:
        left = [(a, b) for a, b, c in zip(numerator, denominator, label, strict=True) if c != cluster]
        squares.append((sum(a for a, _ in left) / sum(b for _, b in left) - value) ** 2)
    return value, math.sqrt((len(there) - 1) / len(there) * (sum(squares) + 2 * max(squares)))


@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 4), st.integers(0, 3)), min_size=2, max_size=20).filter(
        lambda rows: len({label for *_, label in rows}) > 1
    )
)
def test_the_jackknife_leaves_out_every_cluster_in_turn(rows: list[tuple[int, int, int]]) -> None:
    numerator, denominator, label = (list(map(float, column)) for column in zip(*rows, strict=True))
    labels = [int(value) for value in label]
    found = jackknifed(np.array(numerator), [clusters_by(np.array(labels))], denominator_T=np.array(denominator))
    value, error = slow_jackknife(numerator, denominator, labels)
    assert (found.value, found.standard_error) == pytest.approx((value, error), rel=1e-9, abs=1e-12)
    share = [sum(b for b, c in zip(denominator, labels, strict=True) if c == k) / sum(denominator) for k in set(labels)]
    assert found.degrees_of_freedom == pytest.approx(1 / sum(s * s for s in share) - 1)


def test_clusters_of_equal_size_are_worth_as_much_as_they_are() -> None:
    found = jackknifed(np.arange(12.0) % 5, [clusters_by(np.arange(12) // 3)])
    assert found.degrees_of_freedom == pytest.approx(3)
    assert found.num_clusters == 4


def test_one_cluster_that_dominates_leaves_next_to_no_degree_of_freedom() -> None:
    label = np.array([0] * 97 + [1, 2, 3])
    found = jackknifed(np.linspace(0, 1, 100), [clusters_by(label)])
    assert found.degrees_of_freedom < 0.1
    plain = clustered_mean(np.linspace(0, 1, 100), [clusters_by(label)])
    assert found.standard_error > 10 * plain.standard_error


def test_two_made_up_events_keep_a_count_of_none_from_being_certain() -> None:
    none = np.zeros(50)
    label = clusters_by(np.arange(50))
    assert jackknifed(none, [label]).standard_error == 0
    assert jackknifed(none, [label], rare=True).standard_error == pytest.approx(math.sqrt(49 / 50 * 2) / 50)


def test_the_evidence_counts_documents_and_what_they_are_worth() -> None:
    documents = clusters_by(np.array([0, 0, 0, 1, 2, 2]))
    weight = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    assert asdict(evidence_of(weight, documents)) == pytest.approx({"documents": 2, "effective": 1.6, "largest": 0.75})
