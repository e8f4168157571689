"""Fixtures of the gate cases. They lie here, next to the cases, so that no other conftest.py overrides them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import pytest

from eaftgate.gate.cells import Cell
from eaftgate.gate.hooks import open_run
from eaftgate.gate.plugin import is_case
from eaftgate.gate.run import GateRun
from eaftgate.gate.stability import Spread, spreads
from eaftgate.judge.behaviour import JudgedTurns
from eaftgate.judge.cell import JudgedCell
from eaftgate.judge.metrics import has_intervals
from eaftgate.judge.policy import IntervalPolicy
from eaftgate.judge.verdict import MetricVerdict
from eaftgate.judge.wording import describe, figures_shown

RecordFloor = Callable[[JudgedCell, str], MetricVerdict]
RecordTurns = Callable[[JudgedTurns, str], MetricVerdict]
RecordSpread = Callable[[Sequence[JudgedCell]], dict[str, Spread]]


class RecordVerdict(Protocol):
    def __call__(self, judged: JudgedCell, metric: str, *, decides: bool) -> MetricVerdict: ...


Decide = Callable[[Cell, str], None]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = not config.pluginmanager.hasplugin("eaftgate.gate.plugin")
    if missing and any(is_case(item.function) for item in items if isinstance(item, pytest.Function)):
        reason = "the suite needs its plugin, which pytest was told not to load: give it -p eaftgate.gate.plugin"
        pytest.exit(reason, returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config) -> Iterator[GateRun]:
    """The gate run of this process."""
    with open_run(pytestconfig) as gate_run:
        yield gate_run


@pytest.fixture
def record_property(request: pytest.FixtureRequest) -> Callable[[str, Any], None]:
    """pytest's own, but that it does not warn of xunit2 in every case: what is recorded is for parity.json, too."""

    def record(name: str, value: Any) -> None:
        request.node.user_properties.append((name, value))

    return record


@pytest.fixture
def record_verdict(record_property: Callable[[str, Any], None]) -> RecordVerdict:
    """Put a metric's estimate, interval, margin and verdict, and the number of tokens, into JUnit; return it.

    `decides` is the case's, not the cell's: whether it may turn the run red; `severity` says the same in a word.
    Figures are in `unit`; `shown` has them as messages and tables do.
    """

    def record(judged: JudgedCell, metric: str, *, decides: bool) -> MetricVerdict:
        verdict = judged.verdicts[metric]
        said = asdict(verdict) | {"decides": decides and verdict.decides}
        for name, value in said.items():
            record_property(name, value)
        record_property("severity", "primary" if said["decides"] else "advisory")
        record_property("shown", figures_shown(metric, verdict, interval=has_intervals(judged.verdicts)))
        record_property("tokens", judged.metrics.tokens)
        record_property("num_blocks", judged.num_blocks)
        return verdict

    return record


@pytest.fixture
def record_turns(record_property: Callable[[str, Any], None]) -> RecordTurns:
    """The same for what was written: its `turns`, and `turns_needed` where more would decide."""

    def record(judged: JudgedTurns, metric: str) -> MetricVerdict:
        verdict = judged.verdicts[metric]
        for name, value in asdict(verdict).items():
            record_property("turns_needed" if name == "blocks_needed" else name, value)
        record_property("severity", "primary" if verdict.decides else "advisory")
        record_property("shown", figures_shown(metric, verdict, interval=True))
        record_property("turns", judged.turns)
        for name, value in judged.details.get(metric, {}).items():
            record_property(f"details_{name}", value)
        return verdict

    return record


@pytest.fixture
def record_floor(record_property: Callable[[str, Any], None]) -> RecordFloor:
    """The same for the base against itself, whose verdict by the policy is not what is asked."""

    def record(judged: JudgedCell, metric: str) -> MetricVerdict:
        verdict = judged.verdicts[metric]
        record_property("estimate", verdict.estimate)
        record_property("margin", verdict.margin)
        record_property("unit", verdict.unit)
        record_property("tokens", judged.metrics.tokens)
        return verdict

    return record


@pytest.fixture
def record_spread(record_property: Callable[[str, Any], None]) -> RecordSpread:
    """Put the verdicts of cells that differ in a seed, and every metric's spread over them, into JUnit; return it."""

    def record(judged: Sequence[JudgedCell]) -> dict[str, Spread]:
        record_property("verdicts", ", ".join(cell.verdict for cell in judged))
        found = spreads([{metric: verdict.estimate for metric, verdict in c.verdicts.items()} for c in judged])
        for metric, spread in found.items():
            for name, value in asdict(spread).items():
                record_property(f"{metric}_{name}", value)
        return found

    return record


@pytest.fixture
def decide(run: GateRun, record_verdict: RecordVerdict) -> Decide:
    """Fail unless the metric of a candidate's cell passes. An advisory case is shown with its verdict and passes."""

    def decide(cell: Cell, metric: str) -> None:
        judged = run.cell(cell)
        decides = run.plan.decides(cell, metric)
        verdict = record_verdict(judged, metric, decides=decides)
        if decides and verdict.decides and verdict.verdict != "pass":
            interval = isinstance(run.plan.policy, IntervalPolicy)
            pytest.fail(describe(metric, verdict, judged.metrics.tokens, interval=interval), pytrace=False)

    return decide
