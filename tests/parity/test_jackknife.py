"""What near-lossless-v3 estimates with, held to plain loops: documents left out one by one, classes, first choices."""

import math
from dataclasses import replace

import numpy as np
import pytest
from content import content_roles
from hypothesis import given
from hypothesis import strategies as st
from simulated import paired, simulated_cell

from eaftgate.collect.collection import Collection, TokenStats
from eaftgate.packs.blocks import Roles
from eaftgate.packs.harmony import TokenClass
from eaftgate.parity import estimates
from eaftgate.parity.bounds import bounds, farther_bounds
from eaftgate.parity.clusters import Clusters, Estimate, clusters_by, evidence_of, jackknifed
from eaftgate.parity.estimates import PairedCell
from eaftgate.parity.js2d import Bins
from eaftgate.parity.metrics import Thresholds
from eaftgate.parity.paired import CLOSE, PairedTokens, concatenate_pairs, first_choice, pair

SMALL = st.integers(-3, 3)
TOKENS = st.lists(st.tuples(SMALL, st.integers(0, 2), st.integers(0, 4)), min_size=2, max_size=25)


def sums_by(numerator: list[float], weight: list[float], label: list[int]) -> list[tuple[float, float]]:
    """Of every cluster that has something."""
    sums = dict.fromkeys(label, (0.0, 0.0))
    for value, counted, c in zip(numerator, weight, label, strict=True):
        sums[c] = (sums[c][0] + value, sums[c][1] + counted)
    return [both for both in sums.values() if both != (0.0, 0.0)]


def moved_by(numerator: list[float], weight: list[float], label: list[int]) -> list[float]:
    """What leaving out each cluster changes."""
    total, whole = sum(numerator), sum(weight)
    return [total / whole - (total - value) / (whole - counted) for value, counted in sums_by(numerator, weight, label)]


def slow_jackknife(numerator: list[float], weight: list[float], label: list[int], rare: bool) -> Estimate:
    """One clustering of which no cluster holds everything."""
    whole, there, moved = sum(weight), sums_by(numerator, weight, label), moved_by(numerator, weight, label)
    if rare:
        events = [abs(value) for value, _ in there if value]
        one = max(1.0, sum(events) / len(events) if events else 1.0) / whole
        moved += [one, -one]
    else:
        moved += [max(moved, key=abs)] * 2
    squares, count = sum(x**2 for x in moved), len(there)
    skewness = math.sqrt(count) * sum(x**3 for x in moved) / squares**1.5 if squares else 0.0
    effective = whole**2 / sum(counted**2 for _, counted in there)
    error = math.sqrt((count - 1) / count * squares)
    return Estimate(sum(numerator) / whole, error, min(effective, count) - 1, skewness, count)


def as_far_up_as_down(numerator: list[float], weight: list[float], label: list[int]) -> bool:
    moved = moved_by(numerator, weight, label)
    return math.isclose(max(moved), -min(moved), rel_tol=1e-9, abs_tol=1e-12)


def holds_all(weight: list[float], label: list[int]) -> bool:
    return any(sum(w for w, c in zip(weight, label, strict=True) if c != one) == 0 for one in label)


@given(TOKENS, st.booleans())
def test_equals_leaving_out_one_by_one(tokens: list[tuple[int, int, int]], rare: bool) -> None:
    numerator, weight, label = (
        [float(x) for x, _, _ in tokens],
        [float(x) for _, x, _ in tokens],
        [c for *_, c in tokens],
    )
    if not sum(weight):
        return
    found = jackknifed(np.array(numerator), [clusters_by(np.array(label))], denominator_T=np.array(weight), rare=rare)
    if holds_all(weight, label):
        value = sum(numerator) / sum(weight)
        there = {c for x, w, c in tokens if any((x, w)) and _something(tokens, c)}
        assert found == Estimate(value, math.inf, 0, 0.0, len(there))
        return
    expected = slow_jackknife(numerator, weight, label, rare)
    assert found.clusters == expected.clusters
    names = ["value", "standard_error", "degrees_of_freedom"]
    # Of two that deviate equally far, up and down, rounding says which is the farthest.
    names += ["skewness"] if rare or not as_far_up_as_down(numerator, weight, label) else []
    for name in names:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-7), name


def _something(tokens: list[tuple[int, int, int]], cluster: int) -> bool:
    own = [(x, w) for x, w, c in tokens if c == cluster]
    return bool(sum(x for x, _ in own) or sum(w for _, w in own))


def test_the_larger_of_two_standard_errors_counts_wherever_it_stands() -> None:
    value_T = np.repeat([0.0, 1.0, 0.0, 1.0], 4)
    fine, coarse = clusters_by(np.arange(16)), clusters_by(np.arange(16) // 4)
    both: list[list[Clusters]] = [[fine, coarse], [coarse, fine]]
    assert [jackknifed(value_T, order) for order in both] == [jackknifed(value_T, [coarse])] * 2
    alone = clusters_by(np.zeros(16, int))
    for order in ([alone, fine], [fine, alone]):
        assert jackknifed(value_T, order) == Estimate(0.5, math.inf, 0, 0.0, 1)


def test_sums_are_taken_in_double_precision() -> None:
    value_T = np.full(1_000_003, 0.1, np.float32)
    found = jackknifed(value_T, [clusters_by(np.arange(len(value_T)) % 7)])
    assert found.value == pytest.approx(float(np.float32(0.1)), rel=1e-12)


@given(st.floats(-2, 2), st.floats(0.01, 1), st.floats(-4, 4), st.floats(0.5, 4))
def test_the_farther_bounds_are_either_way_of_both(value: float, error: float, skewness: float, width: float) -> None:
    estimate = Estimate(value, error, 40, skewness, 60)
    lower, upper = farther_bounds(estimate, width)
    hall = bounds(estimate, width)
    assert lower == min(hall[0], value - error * width)
    assert upper == max(hall[1], value + error * width)
    assert farther_bounds(replace(estimate, standard_error=math.inf), width) == (-math.inf, math.inf)


# The statistics of classes and of exact messages


def with_roles(tokens: PairedTokens, kind_T: np.ndarray, recipient_T: np.ndarray) -> PairedTokens:
    content_T = (kind_T == TokenClass.CALL) | (kind_T == TokenClass.FINAL)
    return replace(tokens, roles=Roles(kind_T.astype(np.uint8), content_T, recipient_T, tokens.roles.message))


def cell_of(tokens: PairedTokens) -> PairedCell:
    return PairedCell(tokens.content(), tokens, Thresholds(0.5, 0.5), Bins(4, 3), 60, jackknife=True)


def test_a_class_is_judged_by_its_own_tokens_wherever_they_are() -> None:
    rng = np.random.default_rng(3)
    tokens = simulated_cell(rng, 3000, shift=0.1, noise=0.2)
    kind_T = rng.choice([TokenClass.NONE, TokenClass.HEADER, TokenClass.CALL, TokenClass.FINAL, TokenClass.CLOSE], 3000)
    tokens = with_roles(tokens, kind_T, kind_T == TokenClass.HEADER)
    cell = cell_of(tokens)
    for measure, chosen_T in (
        (estimates.nll_delta_of(TokenClass.HEADER), kind_T == TokenClass.HEADER),
        (estimates.nll_delta_of(TokenClass.CALL), kind_T == TokenClass.CALL),
        (estimates.nll_delta_of_recipients, kind_T == TokenClass.HEADER),
        (estimates.nll_delta_of_everything, np.ones(3000, bool)),
    ):
        found = measure(cell)
        assert found is not None
        delta_T = tokens.nll_delta_T[chosen_T]
        clusterings = clusters_by(tokens.row_T[chosen_T]), clusters_by(tokens.block_T[chosen_T])
        expected = jackknifed(delta_T, clusterings)
        assert found.estimate == replace(expected, value=float(delta_T.mean()))
        assert found.evidence == evidence_of(np.ones(len(delta_T)), clusterings[0])


def test_what_does_not_occur_has_no_statistic() -> None:
    tokens = simulated_cell(np.random.default_rng(3), 300)
    kind_T = np.full(300, TokenClass.FINAL)
    cell = cell_of(with_roles(tokens, kind_T, np.zeros(300, bool)))
    assert estimates.nll_delta_of(TokenClass.CALL)(cell) is None
    assert estimates.nll_delta_of_recipients(cell) is None
    assert estimates.nll_delta_of_everything(cell) is None  # no prompt was scored: it would be the others again


def test_a_rare_event_is_given_the_width_of_rare_events() -> None:
    tokens = simulated_cell(np.random.default_rng(4), 2000, shift=0.2)
    cell = cell_of(tokens)
    event_T = (np.arange(2000) == 7).astype(float)
    plain, rare = (cell.estimate(0.5, event_T, rare=rare) for rare in (False, True))
    assert plain == replace(jackknifed(event_T, cell.clusterings), value=0.5)
    assert rare == replace(jackknifed(event_T, cell.clusterings, rare=True), value=0.5)
    assert abs(rare.skewness) < abs(plain.skewness)


def test_a_message_lost_is_a_rare_event_and_its_kind_is_all_that_counts() -> None:
    """Nothing lost does not mean that nothing will be: the standard error of no event is not 0."""
    nothing = np.zeros(40)
    number_T = (np.arange(40) // 4).astype(np.int32)
    tokens = paired(nothing, nothing, nothing, nothing, number_T, number_T // 2)
    kind_T = np.where(np.arange(40) % 4 == 0, TokenClass.HEADER, TokenClass.CALL).astype(np.uint8)
    tokens = replace(tokens, roles=Roles(kind_T, kind_T == TokenClass.CALL, np.zeros(40, bool), number_T))
    found = estimates.exact_loss(TokenClass.CALL)(cell_of(tokens))
    assert found is not None
    assert (found.base_events, found.lost, found.gained) == (10, 0, 0)
    assert found.estimate.standard_error == pytest.approx(math.sqrt(9 / 10 * 2) / 10)
    assert found.evidence.documents == 10
    none = estimates.exact_loss(TokenClass.CALL)(cell_of(replace(tokens, first_base_T=np.zeros(40, bool))))
    assert none is not None
    assert (none.base_events, none.evidence.documents, none.estimate.standard_error) == (0, 10, math.inf)


# First choices


def stats(reference: list[float], first: list[float], second: list[float]) -> TokenStats:
    top_TK = np.full((len(first), 20), -20, np.float32)
    top_TK[:, 0], top_TK[:, 1], top_TK[:, 2] = first, second, -9
    ids_TK = np.tile(np.arange(20, dtype=np.int32), (len(first), 1))
    return TokenStats(np.array(reference, np.float32), np.full(len(first), 0.5, np.float32), ids_TK, top_TK)


def test_the_reference_is_the_first_choice_when_nothing_is_more_probable() -> None:
    """A tie counts for it; the second choice is not the first."""
    found = first_choice(stats([-0.5, -0.5, -1.0, -3.0], [-0.5, -0.5, -0.5, -0.5], [-0.5, -1.0, -1.0, -1.0]))
    assert found.tolist() == [True, True, False, False]


def test_choices_are_close_when_they_are_so_under_either_model() -> None:
    number = np.arange(4, dtype=np.int32)
    content = np.ones(4, bool)
    apart, near = [-1.0] * 4, -1.0 - 0.5 * CLOSE
    base, candidate = (
        Collection(
            stats(apart, apart, second), number, number, number, content_roles(content), ~content, ("x",) * 4, {}
        )
        for second in ([near, near, -2.0, -2.0], [near, -2.0, near, -2.0])
    )
    assert pair(base, candidate).close_T.tolist() == [True, True, True, False]


def test_roles_go_with_their_tokens() -> None:
    tokens = simulated_cell(np.random.default_rng(5), 60)
    kind_T = np.arange(60) % 5
    number_T = np.arange(60, dtype=np.int32)
    tokens = replace(tokens, roles=Roles(kind_T.astype(np.uint8), kind_T == 2, kind_T == 1, number_T))
    chosen_T = kind_T != 3
    picked = tokens.select(chosen_T)
    for column, whole in zip(picked.roles.columns, tokens.roles.columns, strict=True):
        assert column.tolist() == whole[chosen_T].tolist()
    joined = concatenate_pairs([tokens.select(~chosen_T), picked])
    assert joined.roles.message.tolist() == [*number_T[~chosen_T].tolist(), *number_T[chosen_T].tolist()]
    assert len(tokens.content()) == (kind_T == 2).sum()
