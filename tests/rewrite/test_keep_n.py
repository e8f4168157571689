"""How many experts may be kept."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaftgate.errors import UserError
from eaftgate.rewrite.keep_n import check_keep_sets, resolve_keep_n


@pytest.mark.parametrize(
    ("num_experts", "keep_frac", "expected"),
    [
        (32, 0.75, 24),
        (32, 0.60, 20),
        (32, 0.625, 20),
        (32, 0.626, 24),
        (32, 1.0, 32),
        (32, 0.01, 4),
        (128, 0.60, 80),
        (128, 0.75, 96),
        (40, 0.7, 28),  # 0.7 * 40 is 28.000000000000004 in floating point
        (40, 0.1, 4),
        (120, 0.3, 36),
    ],
)
def test_fraction_rounds_up_to_a_multiple_of_four(num_experts: int, keep_frac: float, expected: int) -> None:
    assert resolve_keep_n(num_experts, 4, keep_frac=keep_frac) == expected


@given(st.integers(1, 64).map(lambda n: 4 * n), st.integers(1, 1000))
def test_fraction_property(num_experts: int, thousandths: int) -> None:
    """The smallest multiple of four that is at least the exact share, in integers."""
    keep_n = resolve_keep_n(num_experts, 1, keep_frac=thousandths / 1000)
    assert keep_n % 4 == 0
    assert 1000 * keep_n >= thousandths * num_experts > 1000 * (keep_n - 4)


def test_number_is_taken_as_it_is() -> None:
    assert resolve_keep_n(32, 4, keep_n=24) == 24
    assert resolve_keep_n(32, 4, 4) == 4
    assert resolve_keep_n(32, 4, keep_n=32) == 32
    assert resolve_keep_n(32, 4, keep_n=21, allow_any=True) == 21


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "exactly one"),
        ({"keep_n": 24, "keep_frac": 0.75}, "exactly one"),
        ({"keep_n": 21, "option": "--any"}, "choose a multiple or give --any"),
        ({"keep_n": 21}, "choose a multiple"),
        ({"keep_n": 0}, "fewer than the 4"),
        ({"keep_n": -4}, "fewer than the 4"),
        ({"keep_n": 3, "allow_any": True}, "fewer than the 4"),
        ({"keep_n": 36}, "more than the 32"),
        ({"keep_frac": 0.0}, "not in (0, 1]"),
        ({"keep_frac": -0.5}, "not in (0, 1]"),
        ({"keep_frac": 1.01}, "not in (0, 1]"),
        ({"keep_frac": float("nan")}, "not in (0, 1]"),
        ({"keep_frac": float("inf")}, "not in (0, 1]"),
    ],
)
def test_refused(options: dict[str, object], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_keep_n(32, 4, **options)  # type: ignore[arg-type]
    assert expected in str(caught.value)


def test_fraction_that_rounds_past_the_end() -> None:
    with pytest.raises(UserError, match="more than the 6"):
        resolve_keep_n(6, 2, keep_frac=1.0)


def test_numpy_ids_become_plain_integers() -> None:
    given: Any = np.array([[0, 1, 2, 5], [0, 3, 6, 7]])
    rows = check_keep_sets(given, num_layers=2, num_experts=8, top_k=4)
    assert rows == [[0, 1, 2, 5], [0, 3, 6, 7]]
    assert all(type(expert) is int for row in rows for expert in row)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ([[0, 1, 2, 3]], "cover 1 layers"),
        ([[0, 1, 2, 3], [3, 2, 1, 0]], "layer 1 must be ascending"),
        ([[0, 1, 1, 3], [0, 1, 2, 3]], "layer 0 must be ascending"),
        ([[0, 1, 2, 8], [0, 1, 2, 3]], "layer 0 must be ascending expert ids below 8"),
        ([[-1, 1, 2, 3], [0, 1, 2, 3]], "layer 0 must be ascending"),
        ([[0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7]], "layer 1 keeps 8 experts and layer 0 keeps 4"),
        ([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]], "not a multiple of 4"),
        ([[], []], "fewer than"),
    ],
)
def test_bad_keep_sets(keep: list[list[int]], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        check_keep_sets(keep, num_layers=2, num_experts=8, top_k=4)
    assert expected in str(caught.value)
