"""Scopes: a collection is its own, the metrics of a cell go together."""

import pytest

from eaftgate.gate.schedule import scope_of


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("gates/test_near_lossless.py::test_near_lossless[a-b-UNION-256-ppl]",
         "gates/test_near_lossless.py::test_near_lossless[a-b-UNION-256-js2d]", True),
        ("gates/test_near_lossless.py::test_near_lossless[a-UNION-256-ppl]",
         "gates/test_near_lossless.py::test_near_lossless[a-UNION-512-ppl]", False),
        ("gates/test_collection.py::test_collection[a-UNION-256]",
         "gates/test_collection.py::test_collection[a-UNION-512]", False),
        ("gates/test_noise_floor.py::test_rerun[base-UNION-256-ppl]",
         "gates/test_noop.py::test_metrics[base-UNION-256-ppl]", False),
    ],
)  # fmt: skip
def test_scopes(first: str, second: str, together: bool) -> None:
    assert (scope_of(first) == scope_of(second)) is together
