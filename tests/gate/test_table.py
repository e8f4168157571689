"""The table fits the terminal, and says the verdict in words."""

import pytest

from eaftgate.gate.table import render_cells

CELL = {
    "name": "keep24-with-a-rather-long-name", "pack": "tool_agentic", "seq_len": 2048, "tokens": 1234567,
    "ppl_base": 5.0, "ppl": 5.1, "delta_ppl": 0.1, "delta_mean_p": -0.01, "delta_cc": 0.0002, "js2d": 0.004,
    "severity": "primary", "verdict": "pass",
}  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 109, 110, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    text = render_cells([CELL, {**CELL, "severity": "advisory", "verdict": "fail"}], width=width, colour=False)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "+2.00%" in text
    assert "PASS" in text
    assert "(fail)" in text


def test_colour_only_when_asked() -> None:
    assert "\x1b[" in render_cells([CELL], width=120, colour=True)
    assert "\x1b[" not in render_cells([CELL], width=120, colour=False)
