"""What the report measures candidates by: the loss of a run's yardstick, over UNION."""

from typing import Any

import pytest
from results import parity_cell, parity_of

from eaftgate.gate.candidates import Candidate
from eaftgate.gate.results import ParityCell
from eaftgate.judge.verdict import MetricVerdict
from eaftgate.report.html import render
from eaftgate.report.yardstick import yardstick_lines

NAMES = ("keep24", "keep20", "rtn4")
CANDIDATES = tuple(
    Candidate(name=name, kind="other", rows_known=True, yardstick_bits=4 if name == "rtn4" else None) for name in NAMES
)


def cell(name: str, loss: float, *, lower: float | None = None, **changes: Any) -> ParityCell:
    ppl = MetricVerdict(loss, lower, None, 0.05, "pass")
    return parity_cell(name=name, ppl_base=5.0, ppl=5 * (1 + loss), metrics={"ppl": ppl}, **changes)


def test_each_other_candidate_in_one_line_a_length() -> None:
    cells = [cell("keep24", 0.006), cell("keep20", 0.021), cell("rtn4", 0.01), cell("keep24", 0.5, pack="chat")]
    longer = [cell("rtn4", 0.02, lower=0.01, seq_len=2048), cell("keep24", -0.001, seq_len=2048)]
    parity = parity_of(*cells, *longer, candidates=CANDIDATES)
    assert yardstick_lines(parity) == [
        "UNION 1024: keep24 loses 0.6 times, keep20 loses 2.1 times what rounding the experts to 4 bits costs (+1.00%)",
        "UNION 2048: keep24 loses next to nothing of what rounding the experts to 4 bits costs (+2.00%)",
    ]
    assert yardstick_lines(parity)[0] in render(parity)


@pytest.mark.parametrize("stick", [cell("rtn4", -0.001), cell("rtn4", 0.0), cell("rtn4", 0.0002, lower=-0.0001)])
def test_a_loss_that_may_be_none_measures_nothing(stick: ParityCell) -> None:
    (line,) = yardstick_lines(parity_of(cell("keep24", 0.01), stick, candidates=CANDIDATES))
    assert "cannot be told from nothing" in line
    assert "times" not in line


def test_without_a_yardstick_or_without_another_candidate_there_is_no_line() -> None:
    assert yardstick_lines(parity_of(cell("rtn4", 0.01), candidates=CANDIDATES)) == []
    assert yardstick_lines(parity_of(cell("keep24", 0.01), cell("keep20", 0.01), candidates=CANDIDATES)) == []
    assert yardstick_lines(parity_of(cell("keep24", 0.01), cell("rtn4", 0.01))) == []
