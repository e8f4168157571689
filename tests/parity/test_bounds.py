"""The confidence sequence holds at every look, and costs less than twice the width."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaftgate.parity.bounds import bounds, fixed_width, sequence_width
from eaftgate.parity.clusters import Estimate, clustered_mean, clusters_by

MANY = 100_000


def test_the_width_is_the_papers_formula() -> None:
    """At n of a budget with rho^2 chosen for a quarter of it, written out."""
    budget, n, alpha = 512, 200, 0.05
    tail = -2 * math.log(2 * alpha)
    rho2 = (tail + math.log(tail) + 1) / (0.25 * budget)
    inside = 2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(1 + math.sqrt(n * rho2 + 1) / (2 * alpha))
    assert sequence_width(alpha, MANY, n / budget) == pytest.approx(math.sqrt(inside * n), rel=1e-4)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
def test_it_is_less_than_twice_as_wide_as_a_single_look(share: float) -> None:
    assert 1.6 < sequence_width(0.05, MANY, share) / fixed_width(0.05, MANY) < 1.9


@pytest.mark.parametrize("degrees_of_freedom", [1, 2, 30])
def test_it_is_widened_for_few_clusters_as_students_is(degrees_of_freedom: int) -> None:
    few, many = (np.array([sequence_width(0.05, df, 0.5), fixed_width(0.05, df)]) for df in (degrees_of_freedom, 10**9))
    assert few[0] / many[0] == pytest.approx(few[1] / many[1], rel=1e-6)
    assert few[0] > many[0]


@given(st.floats(-8, 8), st.floats(0.5, 3), st.integers(10, 500))
def test_bounds_are_where_halls_transform_of_t_is_the_width(skewness: float, width: float, clusters: int) -> None:
    found = bounds(Estimate(0.0, 1.0, clusters - 1, skewness), width)
    root = math.sqrt(clusters)
    for bound, expected in zip(found, (width, -width), strict=True):
        t = -bound
        g = t + skewness / (3 * root) * t**2 + skewness**2 / (27 * clusters) * t**3 + skewness / (6 * root)
        assert g == pytest.approx(expected, abs=1e-3)
    assert found[0] < found[1]


@pytest.mark.parametrize("blocks", [32, 128])
def test_skewed_blocks_are_covered_on_both_sides(blocks: int) -> None:
    """Exponential blocks (skewness 2): Student's upper bound would miss 7 to 10 %. 4,000 cells: 0.05 +- 0.010."""
    rng = np.random.default_rng(6)
    missed = np.zeros(2)
    for _ in range(4000):
        rows = clusters_by(np.arange(blocks))
        estimate = clustered_mean(rng.standard_exponential(blocks) - 1, [rows])
        lower, upper = bounds(estimate, fixed_width(0.05, estimate.degrees_of_freedom))
        missed += [lower > 0, upper < 0]
    assert (missed / 4000 < 0.065).all(), missed
    assert (missed / 4000 > 0.03).all(), missed


def test_unknown_standard_errors_bound_nothing() -> None:
    assert bounds(Estimate(1.0, math.inf, 3), 2.0) == (-math.inf, math.inf)
    assert bounds(Estimate(1.0, 0.0, 3), math.inf) == (-math.inf, math.inf)
    assert bounds(Estimate(1.0, 0.5, 3), 2.0) == (0.0, 2.0)
    assert sequence_width(0.05, 0, 0.5) == math.inf


def missed_at_any_look(width_of: Callable[[float, float], float], *, runs: int) -> float:
    """Share of runs in which an upper bound on a mean of zero is below it at one of 16 looks of 256 skewed blocks."""
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(runs):
        value_T = rng.standard_exponential(256) - 1  # skewed to the right: upper bounds have it hard
        for look in range(1, 17):
            seen = value_T[: 16 * look]
            estimate = clustered_mean(seen, [clusters_by(np.arange(len(seen)))])
            if bounds(estimate, width_of(estimate.degrees_of_freedom, look / 16))[1] < 0:
                missed += 1
                break
    return missed / runs


def test_the_sequence_holds_at_every_look_where_a_single_look_would_not() -> None:
    assert missed_at_any_look(lambda df, share: sequence_width(0.05, df, share), runs=1000) < 0.05
    assert missed_at_any_look(lambda df, _: fixed_width(0.05, df), runs=300) > 0.15
