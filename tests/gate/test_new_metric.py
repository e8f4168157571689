"""A metric is one entry in the table and a rule in the gates file: from there it is judged and shown everywhere."""

import json
import shutil
from pathlib import Path

import pytest
from gate_command import BASE, GATE_PACKS, ROOT, Run
from rich.console import Console

from eaftgate.gate.cases import cases, required_cases
from eaftgate.gate.conclusion import conclude, read_records
from eaftgate.gate.plan import Plan
from eaftgate.gate.planning import make_plan
from eaftgate.gate.request import GateOptions
from eaftgate.gate.results import Parity, read_parity, write_parity
from eaftgate.gate.run import GateRun
from eaftgate.gate.table import remarks, render_cells
from eaftgate.judge.metrics import METRICS, Column, Metric
from eaftgate.judge.policy import DEFAULT_GATES, load_gates
from eaftgate.report.budgets import budget_tables, budgets_of
from eaftgate.report.html import render

MARGIN = {"value": 1e-9, "rationale": "so small that nothing decides against it", "origin": "this test"}


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> Metric:
    metric = Metric(
        name="mean_h",
        unit="share",
        meaning="the mean change of the entropy of a prediction",
        measure=lambda cell: cell.mean(cell.tokens.h_T - cell.tokens.h_base_T),
        text="{:+.3f}H".format,
        side="both",
        columns=(Column("d mean H", "estimate", "{:+.2f}h".format),),
    )
    monkeypatch.setitem(METRICS, metric.name, metric)
    return metric


@pytest.fixture
def plan(entry: Metric, copy_run: Run, base_copy: Path, tmp_path: Path) -> Plan:
    """The run of a copy of the base again, its collections at hand, with a rule for the new metric."""
    gates = json.loads(DEFAULT_GATES.read_text(encoding="utf-8"))
    gates["default"] = "near-lossless-v2"
    gates["policies"][gates["default"]]["rules"][entry.name] = {"role": "decides", "margin": MARGIN}
    (tmp_path / "gates.json").write_text(json.dumps(gates), encoding="utf-8")
    shutil.copytree(copy_run.results, tmp_path / "run")
    options = GateOptions(
        results=tmp_path / "run", base=str(BASE), checkpoints=(str(base_copy),), packs=GATE_PACKS,
        gates=tmp_path / "gates.json", regime="fixture", seq_lens=(64,), num_blocks=48,
    )  # fmt: skip
    return make_plan(options, fixture_packs=GATE_PACKS)


@pytest.fixture
def parity(plan: Plan) -> Parity:
    """What parity.json says after every cell was judged."""
    run = GateRun(plan, session="s", fixture=ROOT / "fixtures")
    for cell in plan.cells:
        run.cell(cell)
    concluded = conclude(plan, read_records(plan, "s"), outcomes=[], missing=[], complete=True)
    write_parity(plan.options.results, concluded)
    return read_parity(plan.options.results)


def test_its_cases_are_planned(plan: Plan) -> None:
    assert "copy-UNION-64-mean_h" in cases(plan, "cell_case")
    assert "base-UNION-64-ulp-mean_h" in cases(plan, "floor_case")
    assert "test_near_lossless::test_near_lossless[copy-UNION-64-mean_h]" in required_cases(plan)


def test_it_is_judged_and_shown_everywhere(plan: Plan, parity: Parity) -> None:
    cell = next(cell for cell in parity.cells if cell.pack == "UNION")
    verdict = cell.metrics["mean_h"]
    assert verdict.estimate == pytest.approx(0, abs=1e-3)
    assert (verdict.margin, verdict.decides) == (1e-9, True)
    assert (verdict.verdict, cell.verdict) == ("pass", "pass")  # a copy puts out the very same numbers
    told = json.loads((plan.options.results / "parity.json").read_text(encoding="utf-8"))
    assert told["cells"][0]["metrics"].keys() == {*plan.policy.metrics}

    table = render_cells(parity.cells, width=140, colour=False)
    assert "JS2D d mean H" in table.splitlines()[0]
    assert "+0.00h" in table

    page = render(parity)
    assert "mean_h is the mean change of the entropy of a prediction" in page
    assert '<td class="pass">+0.000H<br><small>[+0.000H, +0.000H]</small></td>' in page

    rows = budgets_of(plan.options.results, load_gates(plan.options.gates).policy(None)[1], [48])
    console = Console(width=140)
    with console.capture() as captured:
        console.print(budget_tables(rows)[0])
    assert "mean_h" in captured.get()
    assert "+0.000H" in captured.get()

    missed = cell.model_copy(
        update={"metrics": {"mean_h": type(verdict)(0.5, 0.4, 0.6, 0.1, "fail")}, "verdict": "fail"}
    )
    assert remarks([missed]) == ["copy UNION 64: mean_h +0.500H [+0.400H, +0.600H] is outside its margin +0.100H "
                                 f"({cell.tokens} tokens)"]  # fmt: skip
