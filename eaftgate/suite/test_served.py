"""Models that nobody has but a server: it gives what a gate is made of, for the tokens that are made here."""

from collections.abc import Callable
from typing import Any

from eaftgate.gate.candidates import UNVERIFIED
from eaftgate.gate.run import GateRun


def test_served(served_case: str, run: GateRun, record_property: Callable[[str, Any], None]) -> None:
    """Which weights the server has is its own word."""
    identity = run.identity(served_case)
    record_property(UNVERIFIED, True)
    for name, value in identity.as_properties().items():
        record_property(name, value)
