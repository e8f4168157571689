"""Runs the gate as its user does, in processes of their own that need not import torch each time.

A fork server imports the libraries once (nothing of eaftgate), and every run is a fork of it.
"""

import multiprocessing
import os
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eaftgate.files import read_json

ROOT = Path(__file__).parent.parent
BASE = ROOT / "fixtures" / "checkpoint"
GATE_PACKS = ROOT / "fixtures" / "packs" / "gate"
CALIBRATION_PACKS = ROOT / "fixtures" / "packs" / "calibration"
PRELOAD = ["torch", "transformers.models.gpt_oss.modeling_gpt_oss", "pyarrow.parquet", "scipy.stats"]
TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Run:
    """A finished `pytest` command: exit code, terminal output, results directory."""

    code: int
    output: str
    results: Path

    @property
    def parity(self) -> dict[str, Any]:
        parity: dict[str, Any] = read_json(self.results / "parity.json", what="parity.json")
        return parity

    def cells(self, name: str) -> dict[str, dict[str, Any]]:
        """Cells of a checkpoint by pack and seq_len, like `UNION-64`."""
        return {f"{c['pack']}-{c['seq_len']}": c for c in self.parity["cells"] if c["name"] == name}

    @property
    def junit(self) -> "dict[str, Case]":
        tree = ElementTree.parse(self.results.with_suffix(".xml"))
        cases = {}
        for element in tree.iter("testcase"):
            properties = {p.attrib["name"]: p.attrib["value"] for p in element.iter("property")}
            outcome = next((c for c in element if c.tag in ("failure", "error", "skipped")), None)
            module = element.attrib["classname"].removeprefix("gates.")
            cases[f"{module}::{element.attrib['name']}"] = Case(
                "passed" if outcome is None else outcome.tag,
                "" if outcome is None else (outcome.text or outcome.attrib.get("message", "")),
                properties,
            )
        return cases


@dataclass(frozen=True)
class Case:
    outcome: str
    reason: str
    properties: dict[str, str]


def gate(results: Path, *options: str | Path) -> Run:
    """`python -m pytest gates/ OPTIONS --results RESULTS --junitxml RESULTS.xml` from the repository root."""
    return pytest_command(
        "gates/", *options, f"--results={results}", f"--junitxml={results.with_suffix('.xml')}", results=results
    )


def pytest_command(*arguments: str | Path, results: Path) -> Run:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    log = results.parent / f"{results.name}-{time.monotonic_ns()}.log"
    process = context.Process(target=_main, args=([str(argument) for argument in arguments], log))
    process.start()
    process.join(TIMEOUT_SECONDS)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"pytest {arguments} has not ended: {log.read_text()}")
    return Run(process.exitcode, log.read_text(encoding="utf-8"), results)


def _main(arguments: list[str], log: Path) -> None:
    os.chdir(ROOT)
    os.environ.update(OMP_NUM_THREADS="1", COLUMNS="140")
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]
    for name in [name for name in sys.modules if name.split(".")[0] in ("eaftgate", "gate_command", "pytest")]:
        del sys.modules[name]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "tests"))]
    import torch

    torch.set_num_threads(1)
    import pytest

    # The libraries are imported before pytest, which warns that it cannot rewrite the assertions of one of them.
    code = int(pytest.main(["-W", "ignore::pytest.PytestAssertRewriteWarning", *arguments]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
