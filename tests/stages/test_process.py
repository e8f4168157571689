"""A stage is the command line in a process of its own."""

import sys
from pathlib import Path

import pytest

from eaftgate import __version__
from eaftgate.stages.process import command_of, run_stage
from eaftgate.stages.stage import Stage


def stage(name: str, *words: str, gpus: int = 1) -> Stage:
    return Stage(name, name, words, {}, Path("out"), gpus)


def test_what_a_stage_prints_is_said_line_by_line() -> None:
    lines: list[str] = []
    assert run_stage(stage("split", "--version"), line=lines.append) == 0
    assert lines == [f"eaftgate {__version__}"]


def test_the_gate_draws_to_where_the_run_does(tmp_path: Path) -> None:
    with (tmp_path / "drawn").open("w", encoding="utf-8") as drawn:
        assert run_stage(stage("gate", "--version"), line=pytest.fail, stdout=drawn) == 0
    assert (tmp_path / "drawn").read_text(encoding="utf-8") == f"eaftgate {__version__}\n"


def test_a_stage_that_refuses_says_so_by_its_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_stage(stage("lock", "lock", "nowhere"), line=pytest.fail) == 2
    assert capfd.readouterr().err.startswith("error: ")


def test_several_gpus_are_processes_of_torchrun() -> None:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=4", "-m"]
    assert command_of(stage("profile", "profile", "base", gpus=4)) == [
        sys.executable, "-m", *launcher, "eaftgate", "profile", "base"
    ]  # fmt: skip
