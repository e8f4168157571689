"""A table fits its terminal: first it does without what can be spared, then it folds names, the least needed first."""

import pytest

from eaftgate.gate.table import rendered
from eaftgate.tables import fitted_table

HEAD = ("name", "number", "task", "result")
ROW = ("n" * 20, "1", "t" * 20, "9" * 10)


def lines(width: int) -> list[str]:
    table = fitted_table(
        HEAD, [ROW], width=width, spare=(("number",),), folded={"name": 5, "task": 8}, collapse_padding=True
    )
    return rendered(table, width=width, colour=False).splitlines()


@pytest.mark.parametrize(
    ("width", "whole"),
    [
        (200, {0, 1, 2, 3}),
        (59, {0, 1, 2, 3}),
        (58, {0, 2, 3}),
        (52, {0, 2, 3}),
        (51, {2, 3}),
        (37, {2, 3}),
        (36, {3}),
        (28, {3}),
    ],
)
def test_what_is_whole(width: int, whole: set[int]) -> None:
    found = lines(width)
    assert max(map(len, found)) <= width
    row = next(line for line in found if "9" in line).split()
    assert {place for place, cell in enumerate(ROW) if cell in row} == whole
    assert ("number" in " ".join(found)) == (1 in whole)
