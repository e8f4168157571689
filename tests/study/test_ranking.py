"""Order and overlap of a sweep's lines, and the figure of as many as 20 of them."""

import io
import json
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

from eaftgate.errors import UserError
from eaftgate.select.keep import KeepSets
from eaftgate.study.cases import Case
from eaftgate.study.lines import MetricScore, SweepLine, add_line, read_lines
from eaftgate.study.plot import write_plot
from eaftgate.study.ranking import DETAILS, ranked, ranked_table

EVERYONE = list(range(8))


def line(
    method: str, keep_n: int, loss: float, *, varied: str = "", keep: KeepSets | None = None, known: bool = True
) -> SweepLine:
    lower, upper = (math.log1p(loss + change) if known else None for change in (-0.01, 0.02))
    ppl = MetricScore(estimate=math.log1p(loss), lower=lower, upper=upper, margin=math.log(1.05), verdict="pass")
    other = MetricScore(estimate=0.001, lower=None, upper=None, margin=None, verdict=None)
    return SweepLine(
        key=f"{method} {keep_n} {varied}",
        case=Case(method, keep_n, rows=9, alignment="predicting", varied=varied),
        chosen_on_tokens=100,
        seconds=1.0,
        scored_on_tokens=100,
        verdict="pass",
        metrics={"ppl": ppl, "mean_p": other, "js2d_corrected": other},
        keep=keep or [EVERYONE[:4]] * 2,
    )


LINES = [
    line("reap", 4, 0.05),
    line("greedy", 4, 0.02, keep=[[0, 1, 2, 3], [2, 3, 4, 5]]),
    line("reap", 6, 0.01, keep=[EVERYONE[:6]] * 2),
    line("greedy", 6, 0.03, varied="rows=9", keep=[EVERYONE[2:]] * 2, known=False),
]


def test_lines_are_read_by_key_and_what_was_cut_off_is_none(tmp_path: Path) -> None:
    out = tmp_path / "sweep.jsonl"
    assert read_lines(out, {"reap 4 "}) == {}
    written = [json.dumps(one.model_dump(mode="json")) for one in LINES]
    out.write_text("\n".join([*written, '{"key": "of another", "case": 5}', written[0][:80]]), encoding="utf-8")
    assert read_lines(out, {"reap 4 ", "greedy 4 ", "nobody"}) == {"reap 4 ": LINES[0], "greedy 4 ": LINES[1]}


def test_a_line_that_is_not_what_its_key_says_is_named(tmp_path: Path) -> None:
    out = tmp_path / "sweep.jsonl"
    told = LINES[1].model_dump(mode="json")
    told["case"]["keep_n"] = "4"
    text = json.dumps(told)
    out.write_text(f"{json.dumps(LINES[0].model_dump(mode='json'))}\n{text}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"sweep\.jsonl, line 2: 'case\.keep_n' is not valid .*; remove that line"):
        read_lines(out, {"greedy 4 "})
    out.write_text("text", encoding="utf-8")
    with pytest.raises(UserError, match="was not written by eaftgate sweep"):
        read_lines(out, {"greedy 4 "})


def test_the_least_loss_is_first_in_its_keep_n() -> None:
    found = [(entry.keep_n, entry.name, round(entry.overlap, 3)) for entry in ranked(LINES)]
    # Jaccard with the best of the same keep_n: 4 of 8; 4 of 4 and 2 of 6.
    assert found == [(6, "reap", 1.0), (6, "greedy rows=9", 0.5), (4, "greedy", 1.0), (4, "reap", round(4 / 6, 3))]


def test_the_table_and_what_it_can_do_without() -> None:
    def text(leave_out: tuple[str, ...] = ()) -> str:
        console = Console(file=io.StringIO(), width=90)
        console.print(ranked_table(LINES, leave_out))
        return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]

    assert re.findall(r"[+-][\d.]+%", text()) == [
        "+1.00%", "+0.00%", "+3.00%", "+3.00%", "+2.00%", "+1.00%", "+4.00%", "+5.00%", "+4.00%", "+7.00%",
    ]  # fmt: skip
    assert "?" in text()  # a bound that is not known
    assert all(name in text() for name in DETAILS)
    assert not any(name in text(DETAILS) for name in DETAILS)
    assert max(map(len, text(DETAILS).splitlines())) <= 62


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_figure_names_every_selection_and_is_the_same_again(tmp_path: Path, suffix: str) -> None:
    many = [
        line("greedy", keep_n, 0.01 * number, varied=f"rows={number}") for keep_n in (6, 4) for number in range(1, 11)
    ]
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    write_plot(many, first)
    write_plot(many, second)
    assert first.read_bytes() == second.read_bytes()
    write_plot(many[:3], second)  # replaced, not refused
    assert first.read_bytes() != second.read_bytes()
    if suffix == ".svg":
        text = first.read_text(encoding="utf-8")
        for said in ("keep 6", "keep 4", *(f"greedy rows={number}" for number in range(1, 11))):
            assert said in text
    else:
        assert first.read_bytes().startswith(b"\x89PNG")


def test_a_selection_without_bounds_is_drawn(tmp_path: Path) -> None:
    write_plot(LINES, tmp_path / "sweep.svg")
    assert "greedy rows=9" in (tmp_path / "sweep.svg").read_text(encoding="utf-8")


def test_a_line_that_has_changed_since_is_named(tmp_path: Path) -> None:
    out = tmp_path / "sweep.jsonl"
    for line in LINES:
        add_line(out, line)
    keys = {line.key for line in LINES}
    assert read_lines(out, keys) == {line.key: line for line in LINES}
    first, *others = out.read_text().splitlines()
    told = json.loads(first)
    told["scored_on_tokens"] += 1
    out.write_text("\n".join([json.dumps(told), *others]) + "\n")
    with pytest.raises(UserError, match=r"sweep\.jsonl, line 1 has changed since it was written; remove that line"):
        read_lines(out, keys)
