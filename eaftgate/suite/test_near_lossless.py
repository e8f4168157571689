"""The release decision: every checkpoint against its base, one case per pack x seq_len x metric."""

from eaftgate.gate.cells import Cell
from eaftgate.suite.conftest import Decide


def test_near_lossless(cell_case: tuple[Cell, str], decide: Decide) -> None:
    decide(*cell_case)
