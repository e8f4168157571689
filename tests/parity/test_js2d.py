"""The corrected JS2D: no bias, honest bounds, and a null that is what it says."""

import math

import numpy as np
import pytest
from simulated import paired, simulated_cell, true_js2d

from eaftgate.parity.bounds import fixed_width
from eaftgate.parity.clusters import clusters_by
from eaftgate.parity.js2d import Bins, CorrectedJs2d, corrected_js2d, jensen_shannon, plug_in
from eaftgate.parity.paired import PairedTokens

COARSE = Bins(20, 15)
DAMAGE = [(0.0, 0.02), (0.0, 0.2), (0.35, 0.2)]
"""shift and noise of a candidate: none but rounding, none but noise, and a real shift."""


def corrected(tokens: PairedTokens, seed: int = 0, swaps: int = 100) -> CorrectedJs2d:
    rows, blocks = clusters_by(tokens.row_T), clusters_by(tokens.block_T)
    return corrected_js2d(tokens, (rows, blocks), rows, COARSE, swaps=swaps, seed=seed)


def test_the_models_law_is_the_one_simulated() -> None:
    tokens = simulated_cell(np.random.default_rng(0), 2_000_000, shift=0.4, noise=0.1)
    found = plug_in(tokens.p_base_T, tokens.h_base_T, tokens.p_T, tokens.h_T, COARSE)
    assert found == pytest.approx(true_js2d(0.4, COARSE), rel=0.05)
    assert true_js2d(0.0, COARSE) == 0


@pytest.mark.parametrize(("shift", "noise"), DAMAGE)
@pytest.mark.parametrize("tokens", [3_000, 30_000])
def test_the_corrected_value_has_no_bias_and_its_upper_bound_covers(tokens: int, shift: float, noise: float) -> None:
    """60 cells each. The mean is within 3 standard errors of the truth; of 60 bounds at 95 %, fewer than 52 cover with
    probability 0.003."""
    truth = true_js2d(shift, COARSE)
    rng = np.random.default_rng(3)
    found = [corrected(simulated_cell(rng, tokens, shift=shift, noise=noise), seed) for seed in range(60)]
    values = np.array([c.estimate.value for c in found])
    assert abs(values.mean() - truth) < 3 * values.std() / np.sqrt(60) + 2e-6
    upper = [
        c.estimate.value + fixed_width(0.05, c.estimate.degrees_of_freedom) * c.estimate.standard_error for c in found
    ]
    assert np.mean(np.array(upper) >= truth) >= 52 / 60
    plain = np.mean([c.plug_in for c in found])
    assert plain - truth > 5 * abs(values.mean() - truth) or plain - truth > 4e-4


def test_the_plug_in_value_measures_the_number_of_tokens() -> None:
    """The rule that v1 decides by: no damage at all reads above its limit of 0.02 at 30,000 tokens."""
    rng = np.random.default_rng(4)
    values = {}
    for tokens in (30_000, 300_000):
        cell = simulated_cell(rng, tokens, noise=0.02)
        values[tokens] = plug_in(cell.p_base_T, cell.h_base_T, cell.p_T, cell.h_T)
    assert values[30_000] > 0.02
    assert values[300_000] < values[30_000] / 5


def slow_null(tokens: PairedTokens, bins: Bins, swaps: int) -> list[float]:
    """With a loop over swaps."""
    base_T, candidate_T = bins.of(tokens.p_base_T, tokens.h_base_T), bins.of(tokens.p_T, tokens.h_T)
    rng = np.random.default_rng(6)
    null = []
    for _ in range(swaps):
        swapped_T = (rng.random(tokens.row_T.max() + 1) < 0.5)[tokens.row_T]
        sides = (np.where(swapped_T, candidate_T, base_T), np.where(swapped_T, base_T, candidate_T))
        null.append(jensen_shannon(*(np.bincount(side, minlength=len(bins)) for side in sides)))
    return null


def test_the_null_is_that_of_swapping_documents_one_by_one() -> None:
    """Mean and spread agree within the error of 400 swaps."""
    tokens = simulated_cell(np.random.default_rng(5), 2_000, shift=0.3, noise=0.3)
    found = corrected(tokens, swaps=400)
    null = slow_null(tokens, COARSE, 400)
    assert found.bias == pytest.approx(np.mean(null), abs=5 * np.std(null) * np.sqrt(2 / 400))
    assert found.plug_in == plug_in(tokens.p_base_T, tokens.h_base_T, tokens.p_T, tokens.h_T, COARSE)
    assert found.estimate.value == found.plug_in - found.bias


def test_the_standard_error_of_damage_is_that_of_leaving_out_documents() -> None:
    """A jackknife of the plug-in value: of few and full bins, which have little bias and a narrow null."""
    tokens, bins = simulated_cell(np.random.default_rng(7), 20_000, shift=1.0, noise=0.3), Bins(4, 3)
    documents = clusters_by(tokens.row_T)
    names = np.unique(tokens.row_T)
    parts = (tokens.select(tokens.row_T != name) for name in names)
    without = np.array([plug_in(p.p_base_T, p.h_base_T, p.p_T, p.h_T, bins) for p in parts])
    jackknife = math.sqrt((len(names) - 1) / len(names) * float(((without - without.mean()) ** 2).sum()))
    found = corrected_js2d(tokens, (documents,), documents, bins, swaps=50, seed=0).estimate
    assert found.standard_error == pytest.approx(jackknife, rel=0.05)


def test_the_standard_error_of_two_equal_histograms_is_the_spread_of_the_null() -> None:
    """Twenty documents of nine tokens each: half of them move from one bin to another, the others back."""
    there, row = np.repeat([0.1, 0.9], 90), np.repeat(np.arange(20, dtype=np.int32), 9)
    tokens = paired(np.log(there), np.log(there[::-1]), np.full(180, 0.5), np.full(180, 0.5), row, row)
    found = corrected(tokens, swaps=400)
    null = slow_null(tokens, COARSE, 400)
    assert found.plug_in == 0
    assert found.estimate.standard_error == pytest.approx(np.std(null), rel=0.2)
    assert np.std(null) > 0


def test_bins_and_tokens_that_moved_by_hand() -> None:
    """Six tokens in three documents; all bins but the lowest are empty, and one token moves from a bin to its own."""
    p_base, p = np.array([0.01, 0.01, 0.06, 0.06, 0.01, 0.01]), np.array([0.01, 0.11, 0.06, 0.06, 0.01, 0.01])
    row = np.array([0, 0, 1, 1, 2, 2], np.int32)
    found = corrected(paired(np.log(p_base), np.log(p), np.zeros(6), np.zeros(6), row, row))
    assert (found.occupied_bins, found.moved_share) == (3, 1 / 6)
    # Bins of 4, 2, 0 and of 3, 2, 1 tokens of 6; exchanging the models moves the same token.
    assert found.plug_in == pytest.approx((4 * math.log(8 / 7) + 3 * math.log(6 / 7) + math.log(2)) / 12, rel=1e-12)
    assert found.bias == pytest.approx(found.plug_in, rel=1e-12)
    assert found.p_value == 1


def test_nothing_moved_is_exactly_nothing() -> None:
    found = corrected(simulated_cell(np.random.default_rng(7), 1_000))
    assert (found.plug_in, found.bias, found.moved_share, found.p_value) == (0, 0, 0, 1)
    assert found.estimate.value == found.estimate.standard_error == 0


def test_damage_has_a_small_p_value_and_none_a_large_one() -> None:
    rng = np.random.default_rng(8)
    assert corrected(simulated_cell(rng, 20_000, shift=0.5, noise=0.1)).p_value < 0.02
    assert np.mean([corrected(simulated_cell(rng, 3_000, noise=0.1), seed).p_value for seed in range(30)]) > 0.3
