"""Every paired statistic of a cell: its value counted token by token, its standard error by leaving out clusters."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from simulated import paired, simulated_cell

from eaftgate.parity import estimates
from eaftgate.parity.clusters import Estimate, clusters_by
from eaftgate.parity.estimates import PairedCell
from eaftgate.parity.js2d import Bins, corrected_js2d
from eaftgate.parity.metrics import Thresholds
from eaftgate.parity.paired import PairedTokens

HALF = Thresholds(0.5, 0.5)
COARSE = Bins(4, 3)


def cell_of(tokens: PairedTokens, **options: Any) -> PairedCell:
    return PairedCell(tokens, tokens, HALF, COARSE, swaps=60, **options)


def estimated(statistic: str, tokens: PairedTokens) -> Estimate:
    found: Estimate = getattr(estimates, statistic)(cell_of(tokens)).estimate
    return found


def cell(p_base: list[float], p: list[float], h_base: list[float], h: list[float], row: list[int]) -> PairedTokens:
    """Blocks of two tokens; the top 20 of every third token differ."""
    number = np.arange(len(p))
    tokens = paired(
        np.log(p_base),
        np.log(p),
        np.array(h_base),
        np.array(h),
        np.array(row, np.int32),
        (number // 2).astype(np.int32),
    )
    jsd_T, kld_T = ((number / size).astype(np.float32) for size in (64, 32))
    return replace(tokens, top_jsd_T=jsd_T, top_kld_T=kld_T, same_top1_T=number % 3 != 0)


def conflicts(tokens: PairedTokens) -> tuple[int, int]:
    """Of base and candidate."""
    sides = ((tokens.p_base_T, tokens.h_base_T), (tokens.p_T, tokens.h_T))
    base, candidate = (sum(p <= 0.5 and h <= 0.5 for p, h in zip(*side, strict=True)) for side in sides)
    return base, candidate


SHARE = st.integers(1, 20).map(lambda k: k / 20)


@given(st.lists(st.tuples(SHARE, SHARE, SHARE, SHARE, st.integers(0, 3)), min_size=1, max_size=20))
def test_values_are_those_of_counting_token_by_token(rows: list[tuple[float, float, float, float, int]]) -> None:
    p_base, p, h_base, h, row = (list(column) for column in zip(*rows, strict=True))
    tokens = cell(p_base, p, h_base, h, row)
    number = len(p)
    events_base, events = conflicts(tokens)
    moved = [b - a for a, b in zip(p_base, p, strict=True)]
    expected = {
        "nll_delta": sum(math.log(a / b) for a, b in zip(p_base, p, strict=True)) / number,
        "mean_p_delta": sum(moved) / number,
        "cc_rate_delta": (events - events_base) / number,
        "cc_log_ratio": math.log(events / events_base) if events and events_base else math.nan,
        "top20_jsd": (number - 1) / 2 / 64,
        "top20_kld": (number - 1) / 2 / 32,
        "same_top1": sum(i % 3 != 0 for i in range(number)) / number,
        "rms_dp": math.sqrt(sum(d * d for d in moved) / number),
    }
    values = {statistic: estimated(statistic, tokens).value for statistic in expected}
    assert values == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)
    assert estimates.cc_log_ratio(cell_of(tokens)).base_events == events_base


STATISTICS: dict[str, Callable[[PairedTokens], float]] = {
    "nll_delta": lambda tokens: float(np.mean(tokens.logprob_base_T - tokens.logprob_T)),
    "mean_p_delta": lambda tokens: float(np.mean(tokens.p_T) - np.mean(tokens.p_base_T)),
    "cc_rate_delta": lambda tokens: (conflicts(tokens)[1] - conflicts(tokens)[0]) / len(tokens),
    "cc_log_ratio": lambda tokens: math.log(conflicts(tokens)[1] / conflicts(tokens)[0]),
    "top20_jsd": lambda tokens: float(np.mean(tokens.top_jsd_T)),
    "top20_kld": lambda tokens: float(np.mean(tokens.top_kld_T)),
    "same_top1": lambda tokens: float(np.mean(tokens.same_top1_T)),
    "rms_dp": lambda tokens: math.sqrt(np.mean((tokens.p_T - tokens.p_base_T) ** 2)),
}


def jackknife(statistic: Callable[[PairedTokens], float], tokens: PairedTokens, label_T: NDArray[np.int32]) -> float:
    """The standard error of a statistic from its values without one cluster after the other."""
    names = np.unique(label_T)
    without = np.array([statistic(tokens.select(label_T != name)) for name in names])
    return math.sqrt((len(names) - 1) / len(names) * float(((without - without.mean()) ** 2).sum()))


def alike(label_T: NDArray[np.int32], other_T: NDArray[np.int32]) -> PairedTokens:
    """Tokens of a `label_T` have much in common, tokens of an `other_T` do not, both models some."""
    rng = np.random.default_rng(0)

    def draw(low: float, high: float) -> NDArray[np.float64]:
        shared = rng.random(int(label_T.max()) + 1)[label_T]
        return low + (high - low) * (shared + rng.random(len(label_T))) / 2

    p_base_T, h_base_T = draw(0.2, 0.9), draw(0.1, 0.9)
    p_T, h_T = (p_base_T + draw(0.0, 0.9)) / 2, (h_base_T + draw(0.2, 1.0)) / 2
    tokens = paired(np.log(p_base_T), np.log(p_T), h_base_T, h_T, label_T, other_T)
    jsd_T, kld_T = (draw(0, 0.6).astype(np.float32) for _ in range(2))
    return replace(tokens, top_jsd_T=jsd_T, top_kld_T=kld_T, same_top1_T=draw(0, 1) > 0.4)


def test_a_divergence_comes_with_what_llama_cpp_says_of_it() -> None:
    """Percentiles between the two nearest values, the deviation of the mean by n - 1, as its source has them."""
    kld_T = np.random.default_rng(0).exponential(0.1, 1000).astype(np.float32)
    tokens = alike(*(np.repeat(np.arange(100, dtype=np.int32), 10) for _ in range(2)))
    said = estimates.top20_kld(cell_of(replace(tokens, top_kld_T=kld_T, unshared_T=kld_T / np.float32(10)))).details
    ordered = sorted(kld_T.tolist())
    assert said["maximum"] == ordered[-1]
    assert said["median"] == pytest.approx((ordered[499] + ordered[500]) / 2)
    assert said["p99"] == pytest.approx(0.99 * ordered[989] + 0.01 * ordered[990], rel=1e-3)
    mean = sum(ordered) / 1000
    assert said["iid_standard_error"] == pytest.approx(math.sqrt((sum(x * x for x in ordered) / 1000 - mean**2) / 999))
    change_T = tokens.nll_delta_T
    assert said["ppl_iid_standard_error"] == pytest.approx(math.sqrt(float(np.var(change_T)) / 999))
    assert said["unshared"] == pytest.approx(mean / 10)


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("shared_by", ["documents", "blocks"])
def test_standard_errors_are_those_of_leaving_out_the_clusters_that_matter(statistic: str, shared_by: str) -> None:
    """100 clusters of 6 to 12 tokens, and 100 others that mix them."""
    rng = np.random.default_rng(1)
    label_T = np.repeat(np.arange(100, dtype=np.int32), rng.integers(6, 13, 100))
    mixed_T = rng.permutation(label_T)
    tokens = alike(label_T, mixed_T)
    if shared_by == "blocks":
        tokens = replace(tokens, row_T=tokens.block_T, block_T=tokens.row_T)
    expected, other = (
        jackknife(STATISTICS[statistic], tokens, clusters) for clusters in (label_T, rng.permutation(label_T))
    )
    estimate = estimated(statistic, tokens)
    assert estimate.standard_error == pytest.approx(expected, rel=0.05)
    assert expected > 1.3 * other
    assert estimate.degrees_of_freedom == 99


def test_a_model_against_itself_differs_by_nothing_but_what_rare_events_leave_open() -> None:
    tokens = simulated_cell(np.random.default_rng(2), 500)
    for statistic in STATISTICS:
        estimate = estimated(statistic, tokens)
        assert estimate.value == (statistic == "same_top1")
        if statistic.startswith("cc_"):
            assert 0 < estimate.standard_error < math.inf
        else:
            assert estimate.standard_error == 0


@pytest.mark.parametrize(("p_base", "p"), [(0.9, 0.1), (0.1, 0.9), (0.9, 0.9)])
def test_without_an_event_on_either_side_a_ratio_is_not_known(p_base: float, p: float) -> None:
    tokens = cell([p_base] * 8, [p] * 8, [0.1] * 8, [0.1] * 8, [0, 0, 1, 1, 2, 2, 3, 3])
    ratio = estimated("cc_log_ratio", tokens)
    assert math.isnan(ratio.value)
    assert (ratio.standard_error, ratio.degrees_of_freedom) == (math.inf, 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_js2d_is_corrected_by_swapping_documents(seed: int) -> None:
    tokens = simulated_cell(np.random.default_rng(3), 2_000, shift=0.3, noise=0.3)
    rows, blocks = clusters_by(tokens.row_T), clusters_by(tokens.block_T)
    expected = corrected_js2d(tokens, (rows, blocks), rows, COARSE, swaps=60, seed=seed)
    found = estimates.js2d_corrected(cell_of(tokens, seed=seed))
    assert {"estimate": found.estimate, **found.details} == asdict(expected) | {"estimate": expected.estimate}
    assert found.base_events is None
    assert (estimates.js2d_corrected(cell_of(tokens)) == found) == (seed == 0)
