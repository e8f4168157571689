"""How a run's verdict follows from what ran: green only when everything did and passed."""

import pytest

from eaftgate.gate.results import CaseOutcome, run_verdict, verdict_of

PASSED = CaseOutcome("a", True, "", {"verdict": "pass"})
FAILED = CaseOutcome("b", False, "no", {"verdict": "fail"})
UNDECIDED = CaseOutcome("c", False, "?", {"verdict": "inconclusive"})
BROKEN = CaseOutcome("d", False, "boom", {})
ADVISORY = CaseOutcome("e", True, "", {"verdict": "fail"})
CELL = {"severity": "primary", "verdict": "pass"}


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
def test_verdict(outcomes: list[CaseOutcome], missing: list[str], complete: bool, verdict: str) -> None:
    assert run_verdict(outcomes, missing, [CELL], complete=complete) == verdict


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
    failed: list[dict[str, str]], not_run: list[str], name: str, verdict: str
) -> None:
    cells = [{**CELL, "name": "keep24"}, {**CELL, "name": "keep24-2", "verdict": "fail"}]
    parity = {"cells": cells, "failed": failed, "not_run": not_run, "complete": True}
    assert verdict_of(parity, name) == verdict
