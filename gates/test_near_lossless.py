"""The release decision: every checkpoint against its base, one case per pack x seq_len x metric."""

from eaftgate.gate.plan import Cell


def test_near_lossless(cell_case: tuple[Cell, str], decide) -> None:
    decide(*cell_case)
