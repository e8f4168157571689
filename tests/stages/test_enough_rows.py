"""A run asks whether its rows are enough to decide on before anything is profiled, and says what would be."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_data import texts_of
from cli_command import Command
from gate_command import BASE

from eaftgate.judge.policy import DEFAULT_GATES
from eaftgate.stages import run as running
from eaftgate.stages.stage import Stage

Noted = list[str]
SHORT = {"regime": "fixture", "seq_lens": 256, "num_blocks": 60}
"""Eighty conversations with tools, of which every rule needs more."""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Noted:
    """The labels of the stages whose command was given; none makes anything."""
    noted: Noted = []

    def run_stage(stage: Stage, **_: Any) -> int:
        noted.append(stage.label)
        return 2 if stage.name == "profile" else 0

    monkeypatch.setattr(running, "run_stage", run_stage)
    return noted


class Recipe:
    """One whose packs are there; `gate` are the options of its gate."""

    def __init__(self, place: Path, rows: int, pack: str = "chat") -> None:
        self.packs, self.path, self.out = place / "packs", place / "r.yaml", place / "out"
        self.packs.mkdir()
        pq.write_table(pa.table({"text": texts_of(pack)[:rows]}), self.packs / f"{pack}.parquet")

    def asks(self, gate: dict[str, Any], **more: dict[str, Any]) -> Path:
        profile = {"base": str(BASE), "packs": str(self.packs)}
        sections = {"profile": profile, "prune": {"keep_n": 24}, "gate": {"packs": str(self.packs), **gate}, **more}
        self.path.write_text(json.dumps(sections))  # which is YAML
        return self.path


def pasted(said: str) -> dict[str, Any]:
    """What the words for the recipe say of the gate."""
    words = re.search(r"gate: \{num_blocks: (\d+)\}", said)
    assert words is not None, said
    return {"num_blocks": int(words[1])}


def test_what_cannot_be_decided_stops_before_the_profile_and_what_it_says_is_enough(
    eaftgate: Command, tmp_path: Path, commands: Noted
) -> None:
    recipe = Recipe(tmp_path, 900)
    short = {"regime": "fixture", "seq_lens": 256, "num_blocks": 120}
    ended = eaftgate("run", recipe.asks(short), "--out", recipe.out)
    assert (ended.code, commands) == (1, [])
    assert "not enough: ppl can decide nowhere" in ended.out
    assert "stopped before profile" in ended.out
    again = eaftgate("run", recipe.asks({**short, **pasted(ended.out)}), "--out", recipe.out)
    assert "enough for fixture by near-lossless-v3" in again.out
    assert commands == ["profile"]


def test_where_the_recipe_leaves_blocks_to_the_regime_as_many_are_taken_as_a_verdict_needs(
    eaftgate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Stage] = []

    def run_stage(stage: Stage, **_: Any) -> int:
        given.append(stage)
        return 0

    monkeypatch.setattr(running, "run_stage", run_stage)
    gates = json.loads(DEFAULT_GATES.read_text(encoding="utf-8"))
    regime = {"packs": "all", "primary": {"packs": ["UNION"], "seq_lens": [256]}, "seq_lens": [256], "batch_size": 8}
    gates["regimes"]["short"] = regime | {"num_blocks": 120, "must_decide": ["ppl"]}
    (tmp_path / "gates.json").write_text(json.dumps(gates), encoding="utf-8")
    recipe = Recipe(tmp_path, 900)
    short = {"regime": "short", "gates": str(tmp_path / "gates.json")}
    ended = eaftgate("run", recipe.asks(short), "--out", recipe.out)
    number = pasted(ended.out)["num_blocks"]
    assert f"so the gate takes {number} blocks, which the packs hold" in ended.out
    assert [stage.name for stage in given] == ["profile", "prune", "gate"]
    assert given[-1].words[-1] == f"--num-blocks={number}"
    assert number > 120
    eaftgate("run", recipe.path, "--out", recipe.out, "--to", "prune")
    assert [stage.name for stage in given[3:]] == ["profile", "prune"], "a part of the way is as open as all of it"
    dry = json.loads(eaftgate("run", recipe.path, "--out", recipe.out, "--dry-run", "--json").out)
    assert (dry["enough"]["enough"], dry["enough"]["num_blocks"]) == (False, number)
    eaftgate("run", recipe.path, "--out", recipe.out, "--allow-undecided")
    assert not any("--num-blocks" in word for word in given[-1].words)


def test_undecided_may_be_allowed_by_the_command_line_and_by_the_recipe(
    eaftgate: Command, tmp_path: Path, commands: Noted
) -> None:
    recipe = Recipe(tmp_path, 80, "tool_agentic")
    ended = eaftgate("run", recipe.asks(SHORT), "--out", recipe.out, "--allow-undecided")
    assert "not enough" in ended.out
    assert commands == ["profile"]
    eaftgate("run", recipe.asks(SHORT, run={"allow_undecided": True}), "--out", recipe.out)
    assert commands == ["profile"] * 2


def test_rows_that_are_missing_are_counted_where_the_packs_hold_too_few(
    eaftgate: Command, tmp_path: Path, commands: Noted
) -> None:
    recipe = Recipe(tmp_path, 80, "tool_agentic")
    ended = eaftgate("run", recipe.asks(SHORT), "--out", recipe.out, "--json")
    told = json.loads(ended.out)
    assert (ended.code, told["enough"]["enough"], told["verdicts"]) == (1, False, {})
    assert told["reason"].startswith("not enough: ")
    remedy = told["enough"]["remedy"]
    assert remedy["more_rows"]["tool_agentic"] > 80
    assert f"about {remedy['more_rows']['tool_agentic']:,} more rows of tool_agentic to gate on" in ended.err
    rows = 80 + round(1.05 * remedy["more_rows"]["tool_agentic"])
    (larger := tmp_path / "larger").mkdir()
    wide = Recipe(larger, rows, "tool_agentic")
    eaftgate("run", wide.asks({**SHORT, "num_blocks": remedy["num_blocks"]}), "--out", wide.out)
    assert commands == ["profile"]


def test_fewer_blocks_than_asked_are_taken_where_they_are_enough(
    eaftgate: Command, tmp_path: Path, commands: Noted
) -> None:
    recipe = Recipe(tmp_path, 900)
    asked = {"regime": "fixture", "seq_lens": 256, "num_blocks": 5000}
    ended = eaftgate("run", recipe.asks(asked), "--out", recipe.out)
    assert ended.code == 1
    assert "of 5000 blocks of 256: it needs about" in ended.out
    assert pasted(ended.out)["num_blocks"] < 5000
    eaftgate("run", recipe.asks({**asked, **pasted(ended.out)}), "--out", recipe.out)
    assert commands == ["profile"]


def test_it_is_asked_once_of_the_same_rows_and_again_of_others(
    eaftgate: Command, tmp_path: Path, commands: Noted
) -> None:
    recipe = Recipe(tmp_path, 40)
    point = {"policy": "near-lossless-v1", "regime": "fixture", "seq_lens": 64, "num_blocks": 6}
    asked = "enough to decide on? (eaftgate packs check)"
    assert asked in eaftgate("run", recipe.asks(point), "--out", recipe.out).out
    assert asked not in eaftgate("run", recipe.asks(point), "--out", recipe.out).out
    assert asked in eaftgate("run", recipe.asks({**point, "num_blocks": 7}), "--out", recipe.out).out
    pq.write_table(pa.table({"text": texts_of("chat")[:41]}), recipe.packs / "chat.parquet")
    assert asked in eaftgate("run", recipe.asks({**point, "num_blocks": 7}), "--out", recipe.out).out
    assert commands == ["profile"] * 4


def test_a_split_alone_is_not_asked_for(eaftgate: Command, tmp_path: Path, commands: Noted) -> None:
    recipe = Recipe(tmp_path, 4)
    asked = recipe.asks(SHORT, **{"packs split": {"dir": str(recipe.packs)}})
    ended = eaftgate("run", asked, "--out", recipe.out, "--to", "split")
    assert (ended.code, commands, "enough" in ended.out) == (0, ["split"], False)


def test_a_dry_run_says_it_once_the_rows_are_there(eaftgate: Command, tmp_path: Path) -> None:
    recipe = Recipe(tmp_path, 80, "tool_agentic")
    ended = eaftgate("run", recipe.asks(SHORT), "--out", recipe.out, "--dry-run")
    assert ended.code == 0
    assert "it would be enough with about" in ended.out
    told = json.loads(eaftgate("run", recipe.path, "--out", recipe.out, "--dry-run", "--json").out)
    assert told["enough"]["enough"] is False
    there = {"packs split": {"dir": str(recipe.packs)}, "profile": {"base": str(BASE)}, "prune": {"keep_n": 24}}
    recipe.path.write_text(json.dumps(there))
    ended = eaftgate("run", recipe.path, "--out", recipe.out, "--dry-run")
    assert f"is known when {recipe.out}/split/gate is there" in ended.out
    assert not recipe.out.exists()
