"""The kinds of collectors are found in their folder, and a gate knows none of them by name."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gate_command import BASE, GATE_PACKS, ROOT

from eaftgate.collect import collectors
from eaftgate.collect.collector import Needs
from eaftgate.collect.collectors import collector_kinds, options_of
from eaftgate.errors import UserError
from eaftgate.gate.options import gate_options, option_names
from eaftgate.gate.planning import make_plan
from eaftgate.gate.request import GateOptions
from eaftgate.gate.run import GateRun

THIRD = Path(__file__).parent.parent / "third_collector"


@pytest.fixture
def third(monkeypatch: pytest.MonkeyPatch) -> None:
    """One file more, in a place that is searched; a gate with it: tests/gate/test_third_collector.py."""
    monkeypatch.setattr(collectors, "__path__", [*collectors.__path__, str(THIRD)])


def test_the_kinds_that_are_there() -> None:
    kinds = collector_kinds()
    assert list(kinds) == ["transformers", "sglang", "vllm"]
    assert {name: options_of(kind) for name, kind in kinds.items()} == {
        "transformers": ["--dequantize"],
        "sglang": ["--endpoint", "--base-endpoint", "--tokenizer", "--tp", "--dp"],
        "vllm": ["--endpoint", "--base-endpoint", "--tokenizer"],
    }


def test_what_kinds_there_are_is_asked_of_no_library() -> None:
    asked = "import json, sys; from eaftgate.gate.options import option_names; option_names(); " \
        "print(json.dumps(sorted(sys.modules)))"  # fmt: skip
    loaded = json.loads(subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True).stdout)
    assert not {"numpy", "torch", "transformers", "sglang", "pyarrow", "pydantic"} & set(loaded)


def test_a_gate_names_no_collector() -> None:
    """Their names are in their own files: in the gate's they stand in prose alone."""
    names = {*collector_kinds(), *(option for kind in collector_kinds().values() for option in options_of(kind))}
    for room in ("gate", "suite", "commands"):
        for path in (ROOT / "eaftgate" / room).glob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            imported = {
                node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module is not None
            }
            assert not names & said, path
            assert not {name for name in imported if name.startswith("eaftgate.collect.sglang")}, path
            assert "eaftgate.collect.transformers" not in imported, path


@pytest.mark.usefixtures("third")
def test_a_third_kind_brings_its_own_options() -> None:
    assert list(collector_kinds()) == ["transformers", "lengths", "sglang", "vllm"]
    assert {"--slope", "--tp"} <= set(option_names())
    assert option_names().count("--tp") == 1  # sglang's and its own are one option
    choices: dict[str, Any] = {}
    gate_options(lambda name, **settings: choices.update({name: settings.get("choices")}))
    assert choices["--collector"] == ["transformers", "lengths", "sglang", "vllm"]


@pytest.mark.usefixtures("third")
def test_options_are_for_the_collectors_that_have_them(tmp_path: Path) -> None:
    def needs(collector: str, **of_collector: Any) -> Needs:
        given = GateOptions(
            results=tmp_path / "run", base="b", packs=GATE_PACKS, collector=collector, of_collector=of_collector
        )
        return make_plan(given, fixture_packs=GATE_PACKS).needs

    assert needs("lengths", slope=0.5, tp=3) == Needs(gpus=3, lowered_by=("--tp",), scores_copies=False)
    assert needs("sglang", tp=2).gpus == 2
    for collector, given, said in (
        ("transformers", {"tp": 2}, "--tp is for --collector=lengths or sglang"),
        ("sglang", {"slope": 1.0}, "--slope is for --collector=lengths"),
        ("lengths", {"slope": -1.0}, "--slope is -1.0: it must be 0 or more"),
        ("tgi", {}, "--collector is 'tgi': it must be one of transformers, lengths, sglang, vllm"),
    ):
        with pytest.raises(UserError, match=said):
            needs(collector, **given)


@pytest.mark.usefixtures("third")
def test_a_run_opens_its_collector_once_and_closes_it(tmp_path: Path) -> None:
    options = GateOptions(
        results=tmp_path / "run", base=str(BASE), packs=GATE_PACKS, collector="lengths", of_collector={"slope": 0.0},
        regime="fixture", seq_lens=(64,), num_blocks=2,
    )  # fmt: skip
    run = GateRun(make_plan(options, fixture_packs=GATE_PACKS), session="s", fixture=BASE.parent)
    run.close()  # nothing was opened
    collection = run.collection("base", run.plan.cells[0])
    assert collection.meta["settings"] == {"collector": "lengths", "slope": 0.0, "batch_size": 8, "others": False}
    assert run.collection("base", run.plan.cells[0], other_batches=True).meta["settings"]["others"]
    scorer: Any = run._scorer
    assert not scorer.closed
    run.close()
    assert scorer.closed
