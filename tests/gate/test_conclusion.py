"""How a run's verdict follows from what ran: green only when everything did and passed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from results import INPUTS, parity_cell, parity_of

from eaftgate.errors import UserError
from eaftgate.gate.cases import required_cases
from eaftgate.gate.conclusion import CaseOutcome, conclude, verdict_of
from eaftgate.gate.planning import make_plan
from eaftgate.gate.profiling_seeds import ProfilingGroup
from eaftgate.gate.request import GateOptions
from eaftgate.gate.results import CellRecord, FailedCase, read_record, write_record
from eaftgate.judge.verdict import MetricVerdict
from eaftgate.parity.metrics import CellMetrics, Thresholds

PASSED = CaseOutcome("a", True, "", {"verdict": "pass"})
FAILED = CaseOutcome("b", False, "no", {"verdict": "fail"})
UNDECIDED = CaseOutcome("c", False, "?", {"verdict": "inconclusive"})
BROKEN = CaseOutcome("d", False, "boom", {})
ADVISORY = CaseOutcome("e", True, "", {"verdict": "fail"})
FIGURES = CellMetrics(1000, Thresholds(0.1, 0.1), 4.0, 4.0, 0.5, 0.5, 0.001, 0.001, 0.0)
RECORD = CellRecord(
    num_blocks=4,
    metrics=FIGURES,
    verdicts={"ppl": MetricVerdict(0.0, -0.1, 0.1, 0.2, "pass")},
    verdict="pass",
    v1_verdict="pass",
    cc_events_base=1,
    details={},
    session="s",
    inputs=INPUTS,
)


@pytest.mark.parametrize(
    ("policy", "deciding"),
    [
        ("near-lossless-v2", {("UNION", 1024): ("ppl",), ("chat", 1024): ()}),
        ("near-lossless-v3", {("UNION", 1024): ("ppl", "rms_dp"), ("chat", 1024): ("ppl",)}),
    ],
)
def test_a_cell_says_which_metrics_are_a_part_of_the_runs_verdict(
    policy: str, deciding: dict[tuple[str, int], tuple[str, ...]], tmp_path: Path
) -> None:
    """v3 has rules for every pack; no length but the regime's decides, and nothing that is underpowered."""
    (tmp_path / "chat.parquet").touch()
    options = GateOptions(results=tmp_path, packs=tmp_path, checkpoints=("a",), seq_lens=(512, 1024), policy=policy)
    plan = make_plan(options, fixture_packs=tmp_path)
    ppl = RECORD.verdicts["ppl"]
    verdicts = {"ppl": ppl, "rms_dp": ppl, "mean_p": replace(ppl, decides=False)}
    records = {cell: replace(RECORD, verdicts=verdicts) for cell in plan.cells}
    found = conclude(plan, records, outcomes=[PASSED], missing=[], complete=True)
    assert {(cell.pack, cell.seq_len): cell.deciding for cell in found.cells} == {
        ("UNION", 512): (), ("chat", 512): (), **deciding
    }  # fmt: skip


@pytest.mark.parametrize(
    ("outcomes", "missing", "complete", "verdict"),
    [
        ([PASSED], [], True, "pass"),
        ([PASSED, ADVISORY], [], True, "pass"),
        ([PASSED], ["x"], True, "incomplete"),
        ([PASSED], [], False, "incomplete"),
        ([PASSED, BROKEN], [], True, "incomplete"),
        ([PASSED, UNDECIDED], [], True, "inconclusive"),
        ([UNDECIDED, BROKEN], [], True, "incomplete"),
        ([PASSED, FAILED], [], True, "fail"),
        ([FAILED, BROKEN], ["x"], False, "fail"),
    ],
)
def test_verdict(outcomes: list[CaseOutcome], missing: list[str], complete: bool, verdict: str, tmp_path: Path) -> None:
    (tmp_path / "chat.parquet").touch()
    options = GateOptions(results=tmp_path, packs=tmp_path, checkpoints=("a",), seq_lens=(1024,))
    plan = make_plan(options, fixture_packs=tmp_path)
    records = {plan.primary_cells[0]: RECORD}
    parity = conclude(plan, records, outcomes=outcomes, missing=missing, complete=complete)
    assert parity.verdict == verdict
    assert [cell.name for cell in parity.cells] == ["a"]
    assert parity.failed == tuple(
        FailedCase(case=o.id, reason=o.reason, verdict=o.properties.get("verdict")) for o in outcomes if not o.passed
    )
    assert parity.v1_verdict == ("incomplete" if missing else "pass")


def test_v1_says_nothing_of_a_run_that_it_has_not_judged_whole(tmp_path: Path) -> None:
    (tmp_path / "chat.parquet").touch()
    options = GateOptions(results=tmp_path, packs=tmp_path, checkpoints=("a",), seq_lens=(1024, 2048))
    plan = make_plan(options, fixture_packs=tmp_path)
    first, second = plan.primary_cells

    def said(*records: CellRecord) -> str:
        judged = dict(zip((first, second), records, strict=False))
        return conclude(plan, judged, outcomes=[], missing=[], complete=True).v1_verdict

    assert said(RECORD, replace(RECORD, v1_verdict="fail")) == "fail"
    assert said(RECORD, replace(RECORD, v1_verdict=None)) == "incomplete"
    assert said() == "incomplete"


V3_CASE = "gates/test_near_lossless.py::test_near_lossless[a-UNION-1024-exact_calls]"
FLOOR = "gates/test_noise_floor.py::test_floor[base-UNION-1024-ulp-{}]"
SEED = "gates/test_stability.py::test_stability[a-UNION-1024-seed1-nll_call]"


@pytest.mark.parametrize(
    ("failed", "v2", "seed_v2", "said"),
    [
        ([], "pass", "pass", "pass"),
        ([], "fail", "pass", "fail"),
        ([], "inconclusive", "pass", "inconclusive"),
        ([], "pass", "fail", "fail"),
        ([], None, "pass", None),
        ([], "pass", None, None),
        ([replace(FAILED, id=V3_CASE)], "pass", "pass", "pass"),
        ([replace(FAILED, id=V3_CASE)], "inconclusive", "pass", "inconclusive"),
        ([replace(FAILED, id="gates/test_must_decide.py::test_must_decide[a-ppl]")], "pass", "pass", "pass"),
        ([replace(FAILED, id=SEED)], "pass", "pass", "pass"),
        ([replace(BROKEN, id=V3_CASE)], "pass", "pass", "incomplete"),  # it could not be judged by either
        ([replace(FAILED, id="gates/test_artifact.py::test_integrity[a]")], "pass", "pass", "fail"),
        ([replace(BROKEN, id=FLOOR.format("exact_calls"))], "pass", "pass", "pass"),  # a metric of v3 alone
        ([replace(BROKEN, id=FLOOR.format("ppl"))], "pass", "pass", "incomplete"),
        ([replace(BROKEN, id="gates/test_noop.py::test_tensors")], "pass", "pass", "incomplete"),
    ],
)
def test_v2_takes_the_place_of_the_cases_that_the_policy_decides(
    failed: list[CaseOutcome], v2: Any, seed_v2: Any, said: str | None, tmp_path: Path
) -> None:
    (tmp_path / "chat.parquet").touch()
    given: dict[str, Any] = {"packs": tmp_path, "checkpoints": ("a",), "seq_lens": (1024,), "seeds": (1,)}
    plan = make_plan(GateOptions(results=tmp_path, policy="near-lossless-v3", **given), fixture_packs=tmp_path)
    (cells,) = plan.seed_cells
    records = {cell: replace(RECORD, v2_verdict=found) for cell, found in zip(cells, (v2, seed_v2), strict=True)}
    assert conclude(plan, records, outcomes=failed, missing=[], complete=True).v2_verdict == said
    late = conclude(plan, records, outcomes=failed, missing=["x"], complete=True).v2_verdict
    assert late == (said if said in (None, "fail") else "incomplete")
    none = replace(plan, v2=None)
    assert conclude(none, records, outcomes=failed, missing=[], complete=True).v2_verdict is None
    assert conclude(plan, {}, outcomes=failed, missing=[], complete=True).v2_verdict is None


def test_profiling_seeds_agree_by_the_verdicts_of_v2(tmp_path: Path) -> None:
    (tmp_path / "chat.parquet").touch()
    options = GateOptions(results=tmp_path, packs=tmp_path, checkpoints=("a", "b"), seq_lens=(1024,))
    group = ProfilingGroup(("a", "b"), (1, 2), ((1.0,),), 1.0)
    plan = replace(make_plan(options, fixture_packs=tmp_path), profiling_groups=(group,))
    case = "gates/test_stability.py::test_profiling_seeds[a+b-UNION-1024]"

    def said(*verdicts: Any) -> str | None:
        records = {
            cell: replace(RECORD, v2_verdict=verdict)
            for cell, verdict in zip(plan.primary_cells, verdicts, strict=True)
        }
        outcomes = [replace(FAILED, id=case)]
        return conclude(plan, records, outcomes=outcomes, missing=[], complete=True).v2_verdict

    assert said("pass", "pass") == "pass"
    assert said("pass", "fail") == "fail"


def test_a_cell_is_read_back_in_its_session_only(tmp_path: Path) -> None:
    write_record(tmp_path, "cell.json", RECORD)
    assert read_record(tmp_path, "cell.json", CellRecord, session="s") == RECORD
    assert read_record(tmp_path, "cell.json", CellRecord, session="another") is None
    assert read_record(tmp_path, "other.json", CellRecord, session="s") is None


def test_a_cell_of_an_earlier_version_is_none_and_a_damaged_one_of_this_session_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "cells" / "cell.json"
    write_record(tmp_path, path.name, RECORD)
    told = json.loads(path.read_text())
    del told["metrics"]["ppl"]
    path.write_text(json.dumps(told))
    assert read_record(tmp_path, path.name, CellRecord, session="another") is None
    with pytest.raises(UserError, match=r"cell result .*cell\.json: 'metrics\.ppl' is not valid \(Field required\)"):
        read_record(tmp_path, path.name, CellRecord, session="s")


FAILS = "gates/test_near_lossless.py::test_near_lossless[keep24-2-UNION-64-ppl]"


@pytest.mark.parametrize(
    ("failed", "not_run", "name", "verdict"),
    [
        ([], [], "keep24", "pass"),
        ([{"case": FAILS, "reason": "", "verdict": "fail"}], [], "keep24", "pass"),
        ([{"case": FAILS, "reason": "", "verdict": "fail"}], [], "keep24-2", "fail"),
        (
            [
                {
                    "case": "test_stability::test_profiling_seeds[keep24-2+keep24-3-UNION-64]",
                    "reason": "",
                    "verdict": "fail",
                }
            ],
            [],
            "keep24",
            "fail",
        ),
        ([{"case": "gates/test_noop.py::test_tensors", "reason": "", "verdict": "fail"}], [], "keep24", "fail"),
        ([{"case": "test_artifact::test_engine[keep24]", "reason": "", "verdict": None}], [], "keep24", "incomplete"),
        ([{"case": "test_artifact::test_engine[keep24]", "reason": "", "verdict": None}], [], "keep24-2", "fail"),
        ([], ["test_near_lossless::test_near_lossless[keep24-UNION-64-ppl]"], "keep24", "incomplete"),
        ([], ["test_near_lossless::test_near_lossless[keep24-UNION-64-ppl]"], "keep24-2", "fail"),
    ],
)
def test_the_verdict_of_one_of_several_checkpoints(
    failed: list[dict[str, Any]], not_run: list[str], name: str, verdict: str
) -> None:
    cells = (parity_cell(name="keep24"), parity_cell(name="keep24-2", verdict="fail"))
    cases = tuple(FailedCase(**case) for case in failed)
    assert verdict_of(parity_of(*cells, failed=cases, not_run=tuple(not_run)), name) == verdict


@pytest.mark.parametrize("name", ["a", "a\x1b[1m\n\\b"])
def test_rows_that_were_calibrated_on_are_found_whatever_the_checkpoint_is_called(name: str, tmp_path: Path) -> None:
    (tmp_path / "chat.parquet").touch()
    plan = make_plan(GateOptions(results=tmp_path, packs=tmp_path, checkpoints=(name,)), fixture_packs=tmp_path)
    (case,) = (case for case in required_cases(plan) if "test_disjoint" in case)
    assert case.isprintable()
    module, _, function = case.partition("::")
    outcome = CaseOutcome(f"gates/{module}.py::{function}", False, "no", {"overlap_chat": 7})
    found = conclude(plan, dict.fromkeys(plan.cells, RECORD), outcomes=[outcome], missing=[], complete=True)
    assert {cell.pack: cell.calibrated_rows for cell in found.cells} == {"UNION": 0, "chat": 7}
