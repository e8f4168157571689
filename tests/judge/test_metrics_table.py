"""The table of metrics: one entry says all that is to be known of one."""

import math

import numpy as np
import pytest
from simulated import simulated_cell

from eaftgate.judge.metrics import METRICS, POINT_METRICS
from eaftgate.parity.estimates import PairedCell
from eaftgate.parity.js2d import Bins
from eaftgate.parity.metrics import base_thresholds


def test_names_can_be_part_of_a_test_id() -> None:
    """Which is cut at its last hyphen."""
    for name, metric in (METRICS | POINT_METRICS).items():
        assert name == metric.name
        assert name.isidentifier()


@pytest.mark.parametrize("name", METRICS)
def test_two_equal_models_have_what_the_table_calls_unchanged(name: str) -> None:
    tokens = simulated_cell(np.random.default_rng(0), 20_000)
    metric = METRICS[name]
    cell = PairedCell(tokens, base_thresholds(tokens.p_base_T, tokens.h_base_T), Bins(20, 15), swaps=50)
    found = metric.measure(cell)
    assert metric.reported(found.estimate.value) == pytest.approx(metric.unchanged, abs=1e-9)
    assert (found.base_events is None) == (metric.events is None)
    if metric.events is not None:
        assert found.base_events == metric.events.count(cell.base) > 0


@pytest.mark.parametrize("name", METRICS)
def test_what_is_estimated_is_what_is_reported_on_another_scale(name: str) -> None:
    metric = METRICS[name]
    assert metric.reported(metric.estimated(1.5)) == pytest.approx(1.5)
    assert metric.estimated(0.0) == (-math.inf if metric.unit == "ratio" else 0.0)
