"""Scopes: a collection is its own, the metrics of a cell go together. A process stays with its model."""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gate_command import GATE_PACKS
from xdist.remote import Producer

from eaftgate.collect.collection import Collection
from eaftgate.errors import UserError
from eaftgate.gate.cases import models_of, order_of
from eaftgate.gate.cells import NOOP, ULP
from eaftgate.gate.plan import Plan
from eaftgate.gate.planning import make_plan
from eaftgate.gate.request import GateOptions
from eaftgate.gate.run import GateRun
from eaftgate.gate.schedule import GateScheduling, next_scope, scope_of


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Plan]:
    """A plan of candidates, keep24 if none is named, on the fixture's packs."""

    def plan(*checkpoints: str, **options: Any) -> Plan:
        defaults: dict[str, Any] = {"checkpoints": checkpoints or ("keep24",), "policy": "near-lossless-v2"}
        given = GateOptions(results=tmp_path, packs=GATE_PACKS, **{**defaults, **options})
        return make_plan(given, fixture_packs=GATE_PACKS)

    return plan


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("gates/test_near_lossless.py::test_near_lossless[a-b-UNION-256-ppl]",
         "gates/test_near_lossless.py::test_near_lossless[a-b-UNION-256-js2d]", True),
        ("gates/test_near_lossless.py::test_near_lossless[a-UNION-256-ppl]",
         "gates/test_near_lossless.py::test_near_lossless[a-UNION-512-ppl]", False),
        ("gates/test_collection.py::test_collection[a-UNION-256]",
         "gates/test_collection.py::test_collection[a-UNION-512]", False),
        ("gates/test_noise_floor.py::test_floor[base-UNION-256-ulp-ppl]",
         "gates/test_noop.py::test_metrics[noop-UNION-256-ppl]", False),
    ],
)  # fmt: skip
def test_scopes(first: str, second: str, together: bool) -> None:
    assert (scope_of(first) == scope_of(second)) is together


def test_a_copys_cases_go_together() -> None:
    one, other = (f"gates/test_noise_floor.py::test_floor[base-UNION-{n}-ulp-ppl]" for n in (256, 512))
    assert scope_of(one, "ulp") == scope_of(other, "ulp") != scope_of(one, "base")


@pytest.mark.parametrize(
    ("own", "taken", "chosen"),
    [
        ("base", [], "base-2048"),  # stays, and passes over what comes first
        (None, [], "keep24-1024"),
        (None, ["keep24"], "base-2048"),
        ("noop", ["base", "keep24"], "ulp-1024"),
        ("noop", ["base", "keep24", "ulp"], "keep24-1024"),  # shares a model when there is nothing else
    ],
)
def test_a_process_stays_with_its_model(own: str | None, taken: list[str], chosen: str) -> None:
    queue = [("verdict", None), ("keep24-1024", "keep24"), ("keep24-2048", "keep24"), ("base-2048", "base")]
    assert next_scope([*queue, ("ulp-1024", "ulp")], own, taken) == chosen


def test_what_scores_no_model_comes_last() -> None:
    assert next_scope([("a", None), ("b", None)], None, [None]) == "a"
    assert next_scope([("a", None), ("b", "base")], None, ["base"]) == "b"


class Node:
    """A worker of pytest-xdist as its scheduler sees it."""

    shutting_down = False
    gateway = SimpleNamespace(id="gw")

    def __init__(self) -> None:
        self.sent: list[int] = []

    def send_runtest_some(self, indexes: list[int]) -> None:
        self.sent += indexes

    def shutdown(self) -> None:
        self.shutting_down = True


def loads(plan: Plan, workers: int) -> list[list[str]]:
    """The models that every worker loads one after the other, when to load one takes 20 times as long as a case."""
    models, key = models_of(plan), order_of(plan)
    modules = {"test_collection": "test_collection", "test_engine": "test_artifact", "test_floor": "test_noise_floor",
               "test_metrics": "test_noop"}  # fmt: skip
    names = sorted(models, key=lambda name: key(modules[name.partition("[")[0]], name))
    ids = [f"gates/x.py::{name}" for name in names]
    config = SimpleNamespace(option=SimpleNamespace(loadscopereorder=True), getvalue=lambda _: ["popen"] * workers)
    scheduling = GateScheduling(config, Producer("test"), models=models, in_order=plan.options.sequential)
    nodes: list[Any] = [Node() for _ in range(workers)]
    for node in nodes:
        scheduling.add_node(node)
        scheduling.add_node_collection(node, ids)
    scheduling.schedule()
    done, free_at = [0] * workers, [0.0] * workers
    while waiting := [i for i, node in enumerate(nodes) if done[i] < len(node.sent)]:
        i = min(waiting, key=free_at.__getitem__)
        sent, now = nodes[i].sent, done[i]
        reloads = now == 0 or models[names[sent[now]]] != models[names[sent[now - 1]]]
        free_at[i] += 20 if reloads else 1
        done[i] += 1
        scheduling.mark_test_complete(nodes[i], sent[now])
    return [[model for model, _ in groupby(models[names[index]] for index in node.sent)] for node in nodes]


def test_every_model_is_loaded_once(plan: Callable[..., Plan]) -> None:
    assert loads(plan(), 1) == [["keep24", "base", "ulp", "noop"]]
    assert loads(plan(), 2) == [["keep24", "ulp"], ["base", "noop"]]


def test_checkpoints_whose_names_begin_alike_are_told_apart(plan: Callable[..., Plan]) -> None:
    assert loads(plan("a-seed1", "a-seed2"), 2) == [["a-seed1", "base"], ["a-seed2", "ulp", "noop"]]
    assert loads(plan("a-seed1", "a-seed2"), 3) == [["a-seed1", "ulp"], ["a-seed2", "noop"], ["base"]]


def test_in_sequence_the_base_comes_first_and_candidates_are_shared_out(plan: Callable[..., Plan]) -> None:
    first, second, third = loads(plan("x", "y", sequential=True), 3)
    assert first[0] == second[0] == third[0] == "base"
    assert sorted(first[1:] + second[1:] + third[1:]) == ["noop", "ulp", "x", "y"]


def test_a_copy_is_scored_before_the_base_is_asked_for(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a process that is given a copy would load the base first, which another one has loaded."""
    asked: list[str] = []

    def collection(_: GateRun, model: str, *__: Any, **___: Any) -> Collection:
        asked.append(model)
        raise UserError("not now")

    monkeypatch.setattr(GateRun, "collection", collection)
    planned = plan()
    run = GateRun(planned, session="test", fixture=tmp_path)
    (cell,) = planned.base_cells(NOOP)[:1]
    with pytest.raises(UserError):
        run.floor(cell, ULP)
    with pytest.raises(UserError):
        run.cell(cell)
    assert asked == [ULP, NOOP]
