"""How a run's verdict follows from what ran: green only when everything did and passed."""

import pytest

from eaftgate.gate.parity_json import CaseOutcome, run_verdict

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
