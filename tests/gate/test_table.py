"""The table fits the terminal, and says the verdict in words."""

import re
from dataclasses import replace
from typing import Any

import pytest
from results import parity_cell

from eaftgate.gate.results import ParityCell
from eaftgate.gate.table import remarks, render_cells
from eaftgate.judge.verdict import MetricVerdict

CELL = parity_cell(name="keep24-with-a-rather-long-name", pack="tool_agentic", seq_len=2048, tokens=1234567)
PPL = MetricVerdict(0.03, 0.01, 0.06, 0.0488, "inconclusive", blocks_needed=1234)
CORRECTED = replace(PPL, estimate=0.0012, verdict="pass")


def changed(**changes: Any) -> ParityCell:
    return CELL.model_copy(update=changes)


JUDGED = changed(metrics={"ppl": PPL, "js2d_corrected": CORRECTED})


@pytest.mark.parametrize("width", [60, 80, 109, 110, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    text = render_cells([CELL, changed(severity="advisory", verdict="fail")], width=width, colour=False)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "+2.00%" in text
    assert "PASS" in text
    assert "(fail)" in text


@pytest.mark.parametrize("width", [60, 80, 109, 110, 200])
def test_with_intervals_the_upper_bound_and_the_corrected_js2d_are_shown(width: int) -> None:
    text = render_cells([JUDGED.model_copy(update={"verdict": "inconclusive"})], width=width, colour=False)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "+6.18%" in text
    assert "0.0012" in text


@pytest.mark.parametrize("name", ["keep24", "gpt-oss-20b-keep24-reap"])
@pytest.mark.parametrize("estimate", [0.03, 1.2])
@pytest.mark.parametrize("width", [80, 100, 110, 120])
def test_no_name_is_folded_where_leaving_out_a_figure_is_enough(name: str, estimate: float, width: int) -> None:
    metrics = {
        "ppl": replace(PPL, estimate=estimate, upper=1.5 * estimate),
        "mean_p": replace(PPL, estimate=-0.0123),
        "cc_rate": replace(PPL, estimate=-0.00123),
        "js2d_corrected": CORRECTED,
    }
    cell = changed(name=name, metrics=metrics, verdict="inconclusive")
    head, row = render_cells([cell], width=width, colour=False).splitlines()
    assert len(row) <= width
    assert row.split()[:3] == [name, "tool_agentic", "2048"]
    assert row.split()[-1] == "INCONCLUSIVE"
    for shown in ("dPPL", "at most", "JS2D"):
        assert shown in head
    if (name, estimate, width) == ("keep24", 0.03, 80):
        assert "at most d mean p dCC pp   JS2D verdict" in head


def test_where_a_name_has_to_be_folded_it_is_the_checkpoints() -> None:
    text = render_cells([JUDGED, changed(pack="chat", metrics=JUDGED.metrics)], width=60, colour=False)
    assert max(len(line) for line in text.splitlines()) <= 60
    assert " tool_agentic " in text
    assert "keep24-with-a-rather-long-name" not in text


def test_remarks_say_what_keeps_a_cell_from_passing() -> None:
    (line,) = remarks([JUDGED])
    assert line == (
        "keep24-with-a-rather-long-name tool_agentic 2048: ppl +3.05% [+1.01%, +6.18%] does not decide against its "
        "margin +5.00% in 1234567 tokens; about 1,234 blocks would"
    )
    assert remarks([JUDGED.model_copy(update={"severity": "advisory"})]) == []
    weak = replace(PPL, estimate=None, lower=None, upper=None, underpowered=True, decides=False)
    (line,) = remarks([changed(metrics={"cc_ratio": weak, "js2d_corrected": CORRECTED})])
    assert "cc_ratio is underpowered" in line
    elsewhere = changed(pack="chat", metrics={"cc_ratio": replace(PPL, verdict="pass")})
    assert remarks([changed(metrics={"cc_ratio": weak, "js2d_corrected": CORRECTED}), elsewhere]) == []
    assert "1,234 blocks would have enough" in line


def test_an_advisory_cell_in_which_a_rule_for_every_pack_decides_is_shown_as_deciding() -> None:
    failing = replace(PPL, estimate=0.06, lower=0.055, verdict="fail")
    judged = {"ppl": failing, "js2d_corrected": replace(PPL, estimate=0.1), "cc_rate": replace(PPL, underpowered=True)}
    pack = changed(severity="advisory", verdict="fail", metrics=judged, deciding=("ppl",))
    assert re.search(r" partly +FAIL$", render_cells([pack], width=200, colour=False), re.M)
    (line,) = remarks([pack])
    assert "ppl +6.18% [+5.65%, +6.18%] is outside" in line
    silent = pack.model_copy(update={"deciding": ()})
    assert re.search(r" advisory \(fail\)$", render_cells([silent], width=200, colour=False), re.M)
    assert remarks([silent]) == []


def test_remarks_begin_with_what_fails() -> None:
    failing = replace(PPL, verdict="fail")
    weak = replace(PPL, underpowered=True, decides=False)
    first = changed(metrics={"cc_ratio": weak, "ppl": PPL}, pack="a")
    second = changed(
        metrics={"ppl": failing, "js2d_corrected": CORRECTED}, pack="b", severity="advisory", deciding=("ppl",)
    )
    said = [line.split(": ")[1].split()[0] + line.split()[1] for line in remarks([first, second])]
    assert said == ["pplb", "ppla", "cc_ratioa"]


def test_colour_only_when_asked() -> None:
    assert "\x1b[" in render_cells([CELL], width=120, colour=True)
    assert "\x1b[" not in render_cells([CELL], width=120, colour=False)


@pytest.mark.parametrize("colour", [False, True])
def test_names_are_shown_as_they_are_whatever_is_in_them(colour: bool) -> None:
    """No markup, no escape sequence, no line break."""
    text = render_cells([changed(name="[red]a[/]", pack="b\x1b[31m\n[b]\\c")], width=200, colour=colour)
    assert re.search(r"^\[red\]a\[/\] +b\\x1b\[31m\\n\[b\]\\\\c +2048 ", text, re.M)
    assert text.count("\n") == 1


def test_a_cell_that_was_decided_before_the_first_look_at_js2d_has_none() -> None:
    undecided = replace(CORRECTED, estimate=None, lower=None, upper=None, verdict="inconclusive")
    cell = changed(verdict="fail", metrics={"ppl": PPL, "js2d_corrected": undecided})
    assert render_cells([cell], width=80, colour=False).count("?") == 1


def test_rows_that_were_calibrated_on_are_remarked_on_also_in_advisory_cells() -> None:
    (line,) = remarks([changed(severity="advisory", flags=("overlap",), calibrated_rows=40)])
    assert line == "keep24-with-a-rather-long-name tool_agentic 2048: 40 of its rows were calibrated on"
