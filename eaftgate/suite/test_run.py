"""The run itself, as two cases that stand last.

They are judged where the run ends, in the process that the user started, and nothing deselects them.
"""

import pytest

from eaftgate.gate.conclusion import reason_of
from eaftgate.gate.results import Parity


def test_complete(parity: Parity, cut_short: str) -> None:
    """Everything that was planned ran, and pytest ended by itself; `cut_short` says what it did instead."""
    reasons = [cut_short] if cut_short else []
    if parity.not_run:
        count = len(parity.not_run)
        reasons.append(f"{count} planned {'case' if count == 1 else 'cases'} did not run")
    if reasons:
        pytest.fail("\n".join([" and ".join(reasons), *parity.not_run]), pytrace=False)


def test_verdict(parity: Parity) -> None:
    """The verdict is pass."""
    if parity.verdict != "pass":
        pytest.fail(f"verdict {parity.verdict}: {reason_of(parity)}", pytrace=False)
