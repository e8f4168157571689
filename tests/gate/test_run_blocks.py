"""The blocks of a run: built when a case first asks for them."""

from pathlib import Path
from unittest.mock import Mock

import pytest
from gate_command import BASE, GATE_PACKS

from eaftgate.errors import UserError
from eaftgate.gate.planning import make_plan
from eaftgate.gate.request import GateOptions
from eaftgate.gate.run import GateRun
from eaftgate.packs.blocks import build_blocks


def test_too_few_are_found_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To tokenise a pack takes seconds, and every case asks for its blocks."""
    options = GateOptions(
        results=tmp_path / "run", base=str(BASE), packs=GATE_PACKS, regime="fixture", num_blocks=10**8
    )
    run = GateRun(make_plan(options, fixture_packs=GATE_PACKS), session="s", fixture=BASE.parent)
    build = Mock(side_effect=build_blocks)
    monkeypatch.setattr("eaftgate.gate.run.build_blocks", build)
    for _ in range(2):
        with pytest.raises(UserError, match="fewer than the 100000000 asked"):
            run.blocks(run.plan.cells[0])
    assert build.call_count == 1
