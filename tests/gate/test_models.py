"""The models of a gate run that it makes itself."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gate_command import BASE, ROOT

from eaftgate.errors import UserError
from eaftgate.gate.models import Models, clear_work
from eaftgate.gate.planning import make_plan
from eaftgate.gate.request import GateOptions
from eaftgate.gate.run_directory import check_run_directory
from eaftgate.model.load import ModelSettings


def test_the_embedded_candidate_is_profiled_on_plain_experts_also_where_mxfp4_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU scores MXFP4 experts as they are; what a profile observes, only dequantised ones show."""
    monkeypatch.setattr(
        "eaftgate.model.load.default_settings",
        lambda *, dequantize, **_: ModelSettings("cuda", "bfloat16", dequantize=dequantize),
    )

    class Profiled(Exception):
        pass

    def profiled(*given: Any) -> None:
        raise Profiled(given[4])

    monkeypatch.setattr("eaftgate.profile.profiler.profile_checkpoint", profiled)
    plan = make_plan(GateOptions(results=tmp_path / "run"), fixture_packs=ROOT / "fixtures" / "packs" / "gate")
    with pytest.raises(Profiled) as caught:
        Models(plan, BASE.parent)["keep24"]
    assert caught.value.args == (ModelSettings("cuda", "bfloat16", dequantize=True),)


def test_planning_a_gate_does_not_wait_for_torch() -> None:
    """The process that hands cases to workers imports this, and every `pytest gates/ --help`."""
    code = "import sys, eaftgate.gate.hooks; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_only_a_work_directory_of_its_own_is_taken_away(tmp_path: Path) -> None:
    plan = make_plan(GateOptions(results=tmp_path), fixture_packs=ROOT / "fixtures" / "packs" / "gate")
    work = tmp_path / "work"
    (work / "keep24").mkdir(parents=True)
    with pytest.raises(UserError, match="was not made by a gate run"):
        check_run_directory(tmp_path)
    (work / "keep24").rmdir()
    work.rmdir()
    Models(plan, BASE.parent)["noop"]
    check_run_directory(tmp_path)
    clear_work(tmp_path)
    assert not work.exists()


def test_results_that_are_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="which is a file"):
        check_run_directory(tmp_path / "run")
