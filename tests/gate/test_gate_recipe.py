"""The section `gate` of a recipe: every option of the gate, under the command line and over the defaults."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from gate_command import BASE, GATE_PACKS, pytest_command
from hypothesis import given
from hypothesis import strategies as st

from eaftgate.errors import UserError
from eaftgate.gate.hooks import options_of
from eaftgate.gate.options import gate_options
from eaftgate.gate.recipe import gate_settings
from eaftgate.gate.request import GateOptions

SAID: dict[str, tuple[Any, Any]] = {
    "base": ("b", "b"), "checkpoint": (["x", "y"], ["x", "y"]), "packs": ("p", Path("p")), "gates": ("g", Path("g")),
    "policy": ("near-lossless-v1", "near-lossless-v1"), "regime": ("fixture", "fixture"),
    "seq_lens": ([64, 128], (64, 128)), "num_blocks": (8, 8), "batch_size": (2, 2), "seed": (5, 5),
    "seeds": ("1,2", (1, 2)), "collector": ("sglang", "sglang"), "endpoint": ("http://x", ["http://x"]),
    "base_endpoint": ("http://b", "http://b"), "tokenizer": ("t", "t"),
    "tp": (2, 2), "dp": (3, 3), "device": ("cpu", "cpu"), "dtype": ("float32", "float32"),
    "dequantize": (True, True), "results": ("r", Path("r")), "sequential": (True, True),
    "strict_cells": (False, False), "allow_overlap": (True, True), "best_of": (4, 4),
    "candidate_kind": ("other", "other"), "whole_text": (True, True), "generate": (5, 5), "generate_tokens": (64, 64),
    "tasks": (["t", "u"], ("t", "u")), "tasks_path": ("d", Path("d")), "tasks_chat_template": (True, True),
}  # fmt: skip
"""What a recipe says of every option, and what that is on pytest's command line."""
GIVEN = {
    "base": "other", "checkpoint": ["z"], "packs": Path("q"), "gates": Path("h"), "policy": "v", "regime": "bigblocks",
    "seq_lens": (512,), "num_blocks": 9, "batch_size": 3, "seed": 0, "seeds": (0,), "collector": "transformers",
    "endpoint": ["http://y"], "base_endpoint": "http://c", "tokenizer": "u", "tp": 1, "dp": 1, "device": "cuda",
    "dtype": "bfloat16", "dequantize": True,
    "results": Path("s"), "sequential": True, "strict_cells": True, "allow_overlap": True, "best_of": 2,
    "candidate_kind": "pruned", "whole_text": True, "generate": 0, "generate_tokens": 9,
    "tasks": ("v",), "tasks_path": Path("e"), "tasks_chat_template": True,
}  # fmt: skip
OF_COLLECTORS = ("endpoint", "base_endpoint", "tokenizer", "tp", "dp", "dequantize")
FLAGS = ("dequantize", "sequential", "strict_cells", "allow_overlap", "whole_text", "tasks_chat_template")


def written(path: Path, section: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"gate": section}))
    return path


def test_every_option_can_be_said(tmp_path: Path) -> None:
    names: list[str] = []
    gate_options(lambda option, **_: names.append(option.removeprefix("--").replace("-", "_")))
    assert set(names) == {*SAID, "recipe"}
    recipe = written(tmp_path / "r.yaml", {name: said for name, (said, _) in SAID.items()})
    assert gate_settings(recipe, gate_options) == {name: meant for name, (_, meant) in SAID.items()}
    assert gate_settings(written(tmp_path / "none.yaml", {"checkpoint": []}), gate_options) == {}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipe")


@given(st.sets(st.sampled_from(sorted(SAID))), st.sets(st.sampled_from(sorted(GIVEN))))
def test_the_command_line_wins_and_defaults_lose(place: Path, said: set[str], given: set[str]) -> None:
    recipe = written(place / "r.yaml", {name: SAID[name][0] for name in said})
    options = {**dict.fromkeys(SAID), **dict.fromkeys(FLAGS, False), **{name: GIVEN[name] for name in given}}
    config: Any = SimpleNamespace(getoption={**options, "recipe": recipe}.get)
    expected = {name: SAID[name][1] for name in said} | {name: GIVEN[name] for name in given}
    of_collector = {name: expected.pop(name) for name in OF_COLLECTORS if name in expected}
    results = expected.pop("results", Path("results")).absolute()
    checkpoints = tuple(expected.pop("checkpoint", ()))
    asked = GateOptions(results=results, checkpoints=checkpoints, of_collector=of_collector, **expected)
    assert options_of(config) == asked


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"regim": "x"}, "gate has no option 'regim': it has base, checkpoint"),
        ({"recipe": "x"}, "gate has no option 'recipe'"),
        ({"seq_lens": [64, "a"]}, "--seq-lens: '64,a' must be whole numbers with commas between"),
        ({"tp": 1.5}, "--tp: '1.5' must be a whole number"),
        ({"num_blocks": [1, 2]}, "--num-blocks: '1,2' must be a whole number"),
        ({"collector": "sgland"}, "must be one of transformers, sglang, vllm; did you mean 'sglang'?"),
        ({"sequential": "perhaps"}, "--sequential: 'perhaps' must be true or false"),
    ],
)
def test_what_the_gate_does_not_know_is_one_sentence(tmp_path: Path, section: dict[str, Any], said: str) -> None:
    recipe = written(tmp_path / "r.yaml", section)
    with pytest.raises(UserError) as refusal:
        gate_settings(recipe, gate_options)
    assert str(refusal.value).startswith(f"{recipe}:")
    assert said in str(refusal.value)


def test_pytest_takes_a_recipe(tmp_path: Path) -> None:
    """A mistake in it is a usage error; without one it plans what the options would, also in parallel processes."""
    section = {"base": str(BASE), "packs": str(GATE_PACKS), "regime": "fixture", "seq-lens": [64], "num-blocks": 8}
    recipe = written(tmp_path / "r.yaml", section)
    options = [f"--{name}={value[0] if isinstance(value, list) else value}" for name, value in section.items()]
    listing = ("gates/", "--collect-only", "-q", f"--results={tmp_path / 'run'}")
    runs = [pytest_command(*listing, *given, results=tmp_path / "run") for given in ([f"--recipe={recipe}"], options)]
    cases = [[line for line in run.output.splitlines() if "::" in line] for run in runs]
    assert [run.code for run in runs] == [0, 0], runs[0].output
    assert cases[0] == cases[1]
    assert any("UNION-64" in case for case in cases[0])
    for wrong, said in ((written(tmp_path / "w.yaml", {"regime": "x"}), "--regime is 'x'"), ("no.yaml", "no.yaml")):
        run = pytest_command(*listing, f"--recipe={wrong}", results=tmp_path / "run")
        assert run.code == pytest.ExitCode.USAGE_ERROR
        assert said in run.output
    elsewhere = pytest_command("tests/recipes", f"--recipe={recipe}", results=tmp_path / "run")
    assert elsewhere.code == pytest.ExitCode.USAGE_ERROR
    assert "--recipe is an option of eaftgate's gate" in elsewhere.output
