"""Spread and agreement over seeds, and what a run says of them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eaftgate.gate.plan import Plan
from eaftgate.gate.planning import make_plan
from eaftgate.gate.profiling_seeds import ProfilingGroup
from eaftgate.gate.request import GateOptions
from eaftgate.gate.stability import (
    Spread,
    agreement,
    describe_stability,
    disagreement,
    overlap_line,
    spread_of,
    spreads,
    stability_lines,
    stability_note,
)
from eaftgate.judge.cell import JudgedCell
from eaftgate.judge.verdict import MetricVerdict, Verdict
from eaftgate.parity.metrics import CellMetrics, Thresholds

GROUP = ProfilingGroup(("a", "b"), (1, 2), ((0.5, 1.0),), 0.25)


def plan_of(tmp_path: Path, **options: Any) -> Plan:
    packs = tmp_path / "packs"
    packs.mkdir(exist_ok=True)
    (packs / "chat.parquet").touch()
    given = {"results": tmp_path / "run", "packs": packs, "seq_lens": (1024,), **options}
    return make_plan(GateOptions(**given), fixture_packs=packs)


def with_group(plan: Plan) -> Plan:
    return replace(plan, profiling_groups=(GROUP,))


FIGURES = CellMetrics(1000, Thresholds(0.1, 0.1), 4.0, 4.0, 0.5, 0.5, 0.001, 0.001, 0.0)


def judged(ppl: float | None, verdict: Verdict = "pass") -> JudgedCell:
    return JudgedCell(4, FIGURES, {"ppl": MetricVerdict(ppl, None, None, None, verdict)}, verdict, None, 1, {})


def test_spread_of_known_values() -> None:
    assert spread_of([1.0, 3.0, 2.0]) == Spread(count=3, min=1.0, max=3.0, std=1.0)
    assert spread_of([2.0, 4.0, None]) == Spread(count=2, min=2.0, max=4.0, std=math.sqrt(2))
    assert spread_of([2.0, None]) == Spread(count=1, min=2.0, max=2.0, std=None)
    assert spread_of([None, None]) == Spread(count=0, min=None, max=None, std=None)


def test_spreads_are_by_metric() -> None:
    found = spreads([{"ppl": 1.0, "mean_p": 0.0}, {"ppl": 2.0, "mean_p": 0.0}])
    assert (found["ppl"].max, found["mean_p"].max) == (2.0, 0.0)


@pytest.mark.parametrize(
    ("verdicts", "stable"),
    [
        (["pass", "pass"], "pass"),
        (["fail", "fail"], "pass"),
        (["pass", "fail"], "fail"),
        (["pass", "inconclusive"], "inconclusive"),
        (["fail", "inconclusive"], "inconclusive"),
        (["inconclusive", "inconclusive"], "inconclusive"),
        (["fail", "inconclusive", "pass"], "fail"),
    ],
)
def test_only_equal_decided_verdicts_agree(verdicts: list[Verdict], stable: Verdict) -> None:
    assert agreement(verdicts) == stable


def test_a_disagreement_names_seeds_and_checkpoints() -> None:
    assert disagreement(GROUP, ["pass", "fail"]) == (
        "the verdict depends on the profiling seed: seed 1 (a) pass, seed 2 (b) fail"
    )
    assert disagreement(GROUP, ["pass", "inconclusive"]) == (
        "whether the verdict depends on the profiling seed is not decided: seed 1 (a) pass, seed 2 (b) inconclusive"
    )


def test_the_note_says_what_was_not_planned(tmp_path: Path) -> None:
    base = plan_of(tmp_path, base="base", seeds=(1,))
    plain = plan_of(tmp_path, checkpoints=("a", "b"))
    seeds = plan_of(tmp_path, checkpoints=("a", "b"), seeds=(1, 2))
    assert stability_note(base) == "stability was not planned: there is no checkpoint to judge"
    assert stability_note(plain).startswith("stability was not planned: ")
    assert stability_note(seeds) == (
        "stability: over evaluation seeds file order, 1, 2; not planned over profiling seeds (no two checkpoints "
        "differ only in theirs)"
    )
    assert stability_note(with_group(plain)) == (
        "stability: not planned over evaluation seeds (--seeds=A,B); over profiling seeds of a+b (seeds 1, 2)"
    )
    assert "not planned" not in stability_note(with_group(seeds))
    planned = [plan.plans_stability for plan in (base, plain, seeds, with_group(plain))]
    assert planned == [False, False, True, True]


def test_nothing_planned_is_one_line(tmp_path: Path) -> None:
    said = describe_stability(plan_of(tmp_path, checkpoints=("a",)), {})
    assert (said.planned, said.spread, said.profiling_groups) == (False, (), ())
    assert stability_lines(said, interval=True) == [said.note]


def test_the_spread_is_over_the_main_row_order_and_the_further_ones(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, checkpoints=("x/a",), seeds=(1, 2))
    ((main, first, second),) = plan.seed_cells
    said = describe_stability(plan, {main: judged(0.01), first: judged(0.03), second: judged(0.02, "inconclusive")})
    assert said.evaluation_seeds == (None, 1, 2)
    assert said.model_dump(mode="json")["spread"] == [
        {
            "checkpoint": "x/a",
            "name": "a",
            "seeds": [None, 1, 2],
            "pack": "UNION",
            "seq_len": 1024,
            "verdicts": ["pass", "pass", "inconclusive"],
            "metrics": {"ppl": {"count": 3, "min": 0.01, "max": 0.03, "std": pytest.approx(0.01)}},
        }
    ]
    assert stability_lines(said, interval=True)[1] == (
        "a UNION 1024: pass, pass, inconclusive; ppl +1.01% .. +3.05%, sd 1.01%"
    )
    partly = describe_stability(plan, {main: judged(0.01), second: judged(None)})
    assert (partly.spread[0].seeds, partly.spread[0].metrics["ppl"].count) == ((None, 2), 1)
    assert stability_lines(partly, interval=True)[1] == "a UNION 1024: pass, pass; ppl +1.01% .. +1.01%, sd ?"
    unknown = describe_stability(plan, {main: judged(None), second: judged(None)})
    assert stability_lines(unknown, interval=True)[1] == "a UNION 1024: pass, pass; ppl -, sd ?"
    assert describe_stability(plan, {}).spread == ()


def test_a_group_is_compared_when_all_of_it_was_judged(tmp_path: Path) -> None:
    plan = with_group(plan_of(tmp_path, checkpoints=("a", "b", "c")))
    a, b = next(cells for cells in plan.group_cells(GROUP))
    (found,) = describe_stability(plan, {a: judged(0.01), b: judged(0.2, "fail")}).profiling_groups
    assert (found.name, found.checkpoints, found.seeds) == ("a+b", ("a", "b"), (1, 2))
    (cell,) = found.cells
    assert (cell.verdicts, cell.verdict, cell.metrics["ppl"].max) == (("pass", "fail"), "fail", 0.2)
    assert [(layer.mean, layer.min) for layer in found.keep_jaccard] == [(0.5, 0.5), (1.0, 1.0)]
    assert overlap_line(found) == (
        "a+b: keep sets overlap by 0.75 (Jaccard, mean of layers), least in layer 0, by 0.50; calibration rows by 0.25"
    )
    (partly,) = describe_stability(plan, {a: judged(0.01)}).profiling_groups
    assert partly.cells == ()
