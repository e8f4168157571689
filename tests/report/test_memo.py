"""The memo says what parity.json does, and nothing else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cli_command import Command, refused
from gate_command import Run

from eaftgate.gate.results import Parity, read_parity
from eaftgate.report.memo import _memo


@pytest.fixture
def parity(copy_run: Run) -> Parity:
    return read_parity(copy_run.results)


def text_of(*parities: Parity) -> str:
    return "\n".join(_memo([(Path(f"run{n}"), parity) for n, parity in enumerate(parities)]))


def kept(parity: Parity, experts: int) -> Parity:
    """The same of a candidate that keeps so many."""
    assert parity.run is not None
    checkpoints = tuple(
        one if one.name == "base" else one.model_copy(update={"experts": experts}) for one in parity.run.checkpoints
    )
    return parity.model_copy(update={"run": parity.run.model_copy(update={"checkpoints": checkpoints})})


def named(parity: Parity, name: str) -> Parity:
    """The same of another candidate."""
    assert parity.run is not None
    checkpoints = tuple(
        one if one.name == "base" else one.model_copy(update={"name": name, "manifest": name})
        for one in parity.run.checkpoints
    )
    cells = tuple(cell.model_copy(update={"name": name}) for cell in parity.cells)
    run = parity.run.model_copy(update={"checkpoints": checkpoints})
    candidates = tuple(one.model_copy(update={"name": name}) for one in parity.candidates)
    return parity.model_copy(update={"run": run, "cells": cells, "candidates": candidates})


def failing(parity: Parity) -> Parity:
    cells = []
    for cell in parity.cells:
        verdict = replace(cell.metrics["ppl"], verdict="fail")
        cells.append(cell.model_copy(update={"verdict": "fail", "metrics": {**cell.metrics, "ppl": verdict}}))
    return parity.model_copy(update={"cells": tuple(cells), "verdict": "fail"})


def test_every_number_of_experts_has_its_conclusion(parity: Parity) -> None:
    text = text_of(kept(parity, 24), failing(kept(parity, 20)), failing(named(kept(parity, 24), "other")))
    conclusion = text.partition("## Conclusion")[2].partition("##")[0]
    assert "- **24 of 32 experts: PASS.** `copy` PASS, `other` FAIL." in conclusion
    assert "- **20 of 32 experts: no PASS.** `copy` FAIL." in conclusion
    assert conclusion.index("24 of") < conclusion.index("20 of")
    assert "### `copy`: FAIL" in text
    assert "is outside its margin" in text


def test_a_pass_does_not_outweigh_a_fail_of_the_same_candidate(parity: Parity) -> None:
    assert "**32 of 32 experts: contradicted.** `copy` PASS in `run1`, `copy` FAIL in `run0`." in text_of(
        failing(parity), parity
    )
    undecided = parity.model_copy(update={"verdict": "inconclusive", "complete": False})
    assert "**32 of 32 experts: PASS.** `copy` PASS in `run1`, `copy` INCOMPLETE in `run0`." in text_of(
        undecided, parity
    )


def test_what_was_tried_and_what_it_costs(parity: Parity) -> None:
    assert parity.run is not None
    text = text_of(parity)
    assert f"`{parity.run.command}`" in text
    for pack in parity.run.packs:
        assert f"`{pack.name}` ({pack.rows:,} rows)" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| `copy` |"))
    assert "0 bytes, 0.0%" in row
    assert "## What did not pass" not in text


def test_what_is_open_is_said_where_it_is_so_and_only_there(parity: Parity) -> None:
    longest = max(cell.seq_len for cell in parity.cells if cell.decides_something)
    text = text_of(parity)
    assert f"`copy`: Nothing longer than {longest:,} tokens decided." in text
    assert "rows that it was calibrated on" not in text
    assert "would have said" not in text
    overlapping = tuple(cell.model_copy(update={"flags": ("overlap",)}) for cell in parity.cells)
    assert "rows that it was calibrated on" in text_of(parity.model_copy(update={"cells": overlapping}))
    other = parity.model_copy(update={"policy": "mine", "v2_verdict": "fail"})
    assert "`near-lossless-v2` would have said fail." in text_of(other)
    few = [(cell, metric) for cell in parity.cells for metric, said in cell.metrics.items() if said.underpowered]
    lacking = "".join(line for line in text.splitlines() if "had too little to decide on" in line)
    assert few
    assert all(f"`{metric}`" in lacking for _, metric in few)
    weak = tuple(
        cell.model_copy(
            update={"metrics": {m: replace(v, decides=False, underpowered=True) for m, v in cell.metrics.items()}}
        )
        for cell in parity.cells
    )
    undecided = text_of(parity.model_copy(update={"cells": weak}))
    assert "`copy`: No rule decided anything of it." in undecided
    assert "Nothing longer" not in undecided
    assert undecided.count("had too little to decide on anywhere") == 1
    none = text_of(parity.model_copy(update={"cells": (), "candidates": ()}))
    assert "No candidate was judged." in none
    assert "Nothing longer" not in none


def test_names_are_text(parity: Parity) -> None:
    name = "<b>|`x`@someone"
    cells = tuple(cell.model_copy(update={"name": name}) for cell in parity.cells)
    text = text_of(parity.model_copy(update={"cells": cells, "candidates": ()}))
    assert "``<b>|`x`@someone``" in text
    assert "<b>" not in text.replace("``<b>", "").replace("\\<b", "")


def test_the_command_writes_it_or_prints_it(eaftgate: Command, copy_run: Run, bad_run: Run, tmp_path: Path) -> None:
    printed = eaftgate("memo", copy_run.results, bad_run.results)
    assert printed.code == 0, printed.err
    out = tmp_path / "memo.md"
    assert "written to" in eaftgate("memo", copy_run.results, bad_run.results, "--out", out).out
    assert out.read_text(encoding="utf-8") == printed.out
    assert "is up to date" in eaftgate("memo", copy_run.results, bad_run.results, "--out", out).out
    refused(eaftgate("memo", copy_run.results, "--out", out), "already exists and holds something else")
    refused(eaftgate("memo", tmp_path), "gate result is missing")


def test_a_result_that_was_edited_is_no_ground_for_a_decision(eaftgate: Command, bad_run: Run, tmp_path: Path) -> None:
    results = Path(shutil.copytree(bad_run.results, tmp_path / "results"))
    told = json.loads((results / "parity.json").read_text())
    told["verdict"] = "pass"
    (results / "parity.json").write_text(json.dumps(told))
    refused(eaftgate("memo", results), "has changed since the run wrote it")
