"""A run is interrupted at every stage, and the same command goes on; then there is nothing left to do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gate_command import BASE, CALIBRATION_PACKS, GATE_PACKS, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.long]

RECIPE = f"""
profile: {{base: {BASE}, packs: {CALIBRATION_PACKS}, num_rows: 40, seq_len: 128, batch_size: 8}}
prune: {{keep_n: 8, method: eaft-reap}}
gate: {{packs: {GATE_PACKS}, regime: fixture, policy: near-lossless-v2, seq_lens: [64], num_blocks: 6}}
"""
SECONDS = 240


def started(recipe: Path, out: Path, log: Path) -> "subprocess.Popen[bytes]":
    """In a process group of its own, as a shell has it: a terminal's Ctrl-C reaches all of it."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "eaftgate", "run", recipe, "--out", out],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for(text: str, log: Path, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + SECONDS
    while text not in log.read_text(encoding="utf-8"):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < until, log.read_text(encoding="utf-8")
        time.sleep(0.1)


def test_an_interruption_at_any_stage_is_resumed(tmp_path: Path) -> None:
    """By Ctrl-C, and by a signal to the command alone, which has a gate to end then."""
    recipe, out = tmp_path / "r.yaml", tmp_path / "out"
    recipe.write_text(RECIPE, encoding="utf-8")
    for stage, whole_group in (("profile", True), ("prune", True), ("gate", True), ("gate", False)):
        log = tmp_path / f"{stage}.log"
        process = started(recipe, out, log)
        wait_for(f"eaftgate {stage}", log, process)
        time.sleep(0.3 if stage == "prune" else 1.5)
        if whole_group:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130, log.read_text(encoding="utf-8")
        assert f"{stage} was interrupted" in log.read_text(encoding="utf-8")
        assert "Traceback" not in log.read_text(encoding="utf-8")
        assert not (out / "report.html").exists()
    log = tmp_path / "whole.log"
    assert started(recipe, out, log).wait(SECONDS) == 1  # eight experts are no base
    said = log.read_text(encoding="utf-8")
    assert "keep8: FAIL" in said or "keep8: INCONCLUSIVE" in said
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert {out / name for name in ("report.html", "junit.xml", "keep8.lock.json", "run/parity.json")} <= made.keys()
    again = tmp_path / "again.log"
    assert started(recipe, out, again).wait(SECONDS) == 1
    lines = again.read_text(encoding="utf-8").splitlines()
    assert [line.partition(": ")[2] for line in lines[:5]] == [
        f"{out / name} is up to date" for name in ("profile", "keep8", "run", "report.html", "keep8.lock.json")
    ]
    unchanged = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert {**unchanged, out / "run.json": 0} == {**made, out / "run.json": 0}
