"""Fixtures of the gate cases."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from eaftgate.gate.verdict import MetricVerdict

RecordVerdict = Callable[[MetricVerdict, int], None]


@pytest.fixture
def record_verdict(record_property: Callable[[str, Any], None]) -> RecordVerdict:
    """Put an estimate, its interval, margin, number of tokens and verdict into JUnit."""

    def record(verdict: MetricVerdict, tokens: int) -> None:
        for name, value in asdict(verdict).items():
            record_property(name, value)
        record_property("tokens", tokens)

    return record
