"""A recipe whose gate asks for something else, or that names other keep_n, is gone on with: what is there stays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_command import Command, refused
from gate_command import BASE, GATE_PACKS
from results import parity_cell, parity_of

from eaftgate.gate.results import write_parity
from eaftgate.judge.policy import DEFAULT_GATES
from eaftgate.stages import enough as asking
from eaftgate.stages import run as running
from eaftgate.stages.record import EnoughRecord, gate_inputs
from eaftgate.stages.stage import Stage

Noted = list[str]
RECIPE = """
profile: {{base: {base}, packs: {packs}, seq_len: 512}}
prune: {{keep_n: {keep_n}, class_weight: balanced}}
gate: {{packs: {packs}, {gate}}}
"""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Noted:
    """The labels of the stages whose command made something; the gate passes what it is given."""
    noted: Noted = []

    def run_stage(stage: Stage, *, line: Callable[[str], None], **_: Any) -> int:
        if stage.name in ("profile", "prune") and stage.out.exists():
            line(f"{stage.out} is up to date")
            return 0
        noted.append(stage.label)
        line(f"written to {stage.out}")
        if stage.name == "gate":
            stage.out.mkdir(exist_ok=True)
            judged(stage, len(noted))
        elif "." in stage.out.name:
            assert not stage.out.exists()  # else the command says that it is another one's
            stage.out.write_text(f"{len(noted)}")
        else:
            stage.out.mkdir()
        return 0

    monkeypatch.setattr(running, "run_stage", run_stage)
    found = EnoughRecord(of={}, enough=True, problems=(), lines=("enough",), remedy=None)
    monkeypatch.setattr(asking, "enough_of", lambda *_: found)
    return noted


def judged(stage: Stage, tokens: int) -> None:
    """A result that differs from the one before."""
    names = [word.rpartition("/")[2] for word in stage.words if word.startswith("--checkpoint=")]
    cells = [parity_cell(name=name, checkpoint=name, tokens=tokens) for name in names]
    write_parity(stage.out, parity_of(*cells))


class Changing:
    def __init__(self, place: Path, eaftgate: Command) -> None:
        self.path, self.out, self.packs, self._eaftgate = place / "r.yaml", place / "out", place / "packs", eaftgate
        self.packs.mkdir()
        (self.packs / "chat.parquet").write_bytes(b"")

    def run(self, *, keep_n: str = "24", gate: str = "num_blocks: 8", more: str = "") -> Any:
        text = RECIPE.format(base=BASE, packs=self.packs, keep_n=keep_n, gate=gate)
        self.path.write_text(f"{text}{more}", encoding="utf-8")
        return self._eaftgate("run", self.path, "--out", self.out)


@pytest.fixture
def recipe(tmp_path: Path, eaftgate: Command) -> Changing:
    return Changing(tmp_path, eaftgate)


def test_another_gate_judges_again_in_the_same_directory(recipe: Changing, commands: Noted) -> None:
    assert recipe.run().code == 0
    assert commands == ["profile", "prune", "gate", "report", "lock"]
    commands.clear()
    assert recipe.run().code == 0
    assert commands == []
    ended = recipe.run(gate="num_blocks: 9, policy: near-lossless-v2")
    assert ended.code == 0
    assert commands == ["gate", "report", "lock"]
    said = f"num_blocks is 9 and was 8, policy is near-lossless-v2 and was not said: judged again in {recipe.out}/run"
    assert said in ended.out


def test_a_further_keep_n_is_pruned_and_all_are_judged(recipe: Changing, commands: Noted) -> None:
    recipe.run()
    commands.clear()
    ended = recipe.run(keep_n="[24, 20]")
    assert commands == ["prune keep20", "gate", "report", "lock keep24", "lock keep20"]
    assert "checkpoint is [keep24, keep20] and was [keep24]: judged again" in ended.out
    assert "keep24: PASS" in ended.out


def test_a_keep_n_that_is_named_no_more_is_left_alone(recipe: Changing, commands: Noted) -> None:
    recipe.run(keep_n="[24, 20]")
    commands.clear()
    ended = recipe.run()
    assert commands == ["gate", "report", "lock"]
    assert f"{recipe.out}/keep20 is in the recipe no more: left alone, and not judged" in ended.out
    assert (recipe.out / "keep20").is_dir()
    assert (recipe.out / "keep20.lock.json").is_file()


def test_what_a_further_keep_n_is_made_with_must_be_what_the_first_was(recipe: Changing, commands: Noted) -> None:
    recipe.run()
    commands.clear()
    text = "prune: {keep_n: [24, 20], class_weight: call=2}\n"
    recipe.path.write_text(recipe.path.read_text().replace("prune: {keep_n: 24, class_weight: balanced}\n", text))
    refused(recipe._eaftgate("run", recipe.path, "--out", recipe.out), "prune.class_weight is call=2 here")
    assert commands == []


def test_a_gate_that_was_killed_before_it_judged_again_is_not_taken_for_judged(
    recipe: Changing, commands: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result of what was asked before still lies there."""
    recipe.run()
    commands.clear()
    whole = vars(running)["run_stage"]

    def killed(stage: Stage, **given: Any) -> int:
        return -9 if stage.name == "gate" else whole(stage, **given)

    monkeypatch.setattr(running, "run_stage", killed)
    assert recipe.run(gate="num_blocks: 9").code == 2
    monkeypatch.setattr(running, "run_stage", whole)
    assert recipe.run(gate="num_blocks: 9").code == 0
    assert commands == ["gate", "report", "lock"]


def test_the_page_of_the_gate_is_the_report_and_made_once(
    recipe: Changing, commands: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = vars(running)["run_stage"]

    def with_page(stage: Stage, **given: Any) -> int:
        code: int = whole(stage, **given)
        if stage.name == "gate":
            (stage.out / "report.html").write_text(f"page {len(commands)}", encoding="utf-8")
        return code

    monkeypatch.setattr(running, "run_stage", with_page)
    recipe.run()
    assert commands == ["profile", "prune", "gate", "lock"]
    report = recipe.out / "report.html"
    assert report.read_bytes() == (recipe.out / "run" / "report.html").read_bytes() == b"page 3"
    recipe.run(gate="num_blocks: 9")
    assert report.read_bytes() == b"page 5"
    commands.clear()
    report.unlink()
    recipe.run(gate="num_blocks: 9")  # the gate is up to date, and its page need not be what it wrote
    assert commands == ["report"]


def test_a_run_that_an_earlier_version_began_is_gone_on_with(recipe: Changing, commands: Noted) -> None:
    """It did not say which checkpoint the only one was, nor what its gate had written."""
    recipe.run()
    commands.clear()
    record = recipe.out / "run.json"
    text = record.read_text(encoding="utf-8").replace('"prune keep24"', '"prune"').replace('"lock keep24"', '"lock"')
    record.write_text(text, encoding="utf-8")
    assert recipe.run(keep_n="[24, 20]").code == 0
    assert commands == ["prune keep20", "gate", "report", "lock keep24", "lock keep20"]


def test_a_changed_task_file_is_another_gate(tmp_path: Path) -> None:
    (folder := tmp_path / "tasks").mkdir()
    (folder / "sums.yaml").write_text("task: sums")
    before = gate_inputs([], GATE_PACKS, DEFAULT_GATES, folder)
    assert before == {**gate_inputs([], GATE_PACKS, DEFAULT_GATES), "tasks/sums.yaml": before["tasks/sums.yaml"]}
    (folder / "sums.yaml").write_text("task: sum")
    assert gate_inputs([], GATE_PACKS, DEFAULT_GATES, folder) != before
