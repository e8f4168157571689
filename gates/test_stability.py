"""The verdict holds when other rows are drawn: the primary cells again, in the row order of further seeds."""

from eaftgate.gate.plan import Cell


def test_stability(stability_case: tuple[Cell, str], decide) -> None:
    decide(*stability_case)
