"""The table of metrics: one entry says all that is to be known of one."""

import math
from dataclasses import replace

import numpy as np
import pytest
from simulated import simulated_cell

from eaftgate.judge.metrics import METRICS, POINT_METRICS, has_intervals
from eaftgate.packs.blocks import NO_MESSAGE, Roles
from eaftgate.packs.harmony import TokenClass
from eaftgate.parity.estimates import PairedCell
from eaftgate.parity.js2d import Bins
from eaftgate.parity.metrics import base_thresholds
from eaftgate.parity.paired import PairedTokens


def test_names_can_be_part_of_a_test_id() -> None:
    """Which is cut at its last hyphen."""
    for name, metric in (METRICS | POINT_METRICS).items():
        assert name == metric.name
        assert name.isidentifier()


def test_metrics_of_point_estimates_have_no_intervals() -> None:
    assert not has_intervals(POINT_METRICS)
    assert has_intervals(METRICS)
    assert has_intervals(["ppl", "mean_p", "cc_rate"])


@pytest.mark.parametrize("name", METRICS)
def test_two_equal_models_have_what_the_table_calls_unchanged(name: str) -> None:
    scored = of_every_class(simulated_cell(np.random.default_rng(0), 20_000))
    tokens, metric = scored.content(), METRICS[name]
    cell = PairedCell(tokens, scored, base_thresholds(tokens.p_base_T, tokens.h_base_T), Bins(20, 15), swaps=50)
    found = metric.measure(cell)
    assert found is not None
    assert metric.reported(found.estimate.value) == pytest.approx(metric.unchanged, abs=1e-9)
    assert (found.base_events is None) == (metric.events is None)
    if metric.events is not None:
        assert found.base_events


def of_every_class(tokens: PairedTokens) -> PairedTokens:
    """Messages of four tokens: header, content, content, closing token; every fifth one is a call, and so on. Every
    eighth token is a prompt's."""
    number = np.arange(len(tokens))
    kinds = TokenClass.CALL, TokenClass.FINAL, TokenClass.ANALYSIS, TokenClass.COMMENTARY, TokenClass.OTHER
    contents = np.array(kinds, np.uint8)
    kind_T = np.choose(number % 4, [np.full(len(tokens), TokenClass.HEADER), *[contents[number // 4 % 5]] * 2,
                                    np.full(len(tokens), TokenClass.CLOSE)]).astype(np.uint8)  # fmt: skip
    prompt_T = number % 32 < 4
    kind_T[prompt_T] = TokenClass.NONE
    message_T = np.where(prompt_T, NO_MESSAGE, number // 4).astype(np.int32)
    content_T = np.isin(kind_T, contents)
    return replace(tokens, roles=Roles(kind_T, content_T, content_T, message_T))


@pytest.mark.parametrize("name", METRICS)
def test_what_is_estimated_is_what_is_reported_on_another_scale(name: str) -> None:
    metric = METRICS[name]
    assert metric.reported(metric.estimated(1.5)) == pytest.approx(1.5)
    assert metric.estimated(0.0) == (-math.inf if metric.unit == "ratio" else 0.0)
