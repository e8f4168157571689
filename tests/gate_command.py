"""Runs commands, the gate above all, as their user does, in processes that need not import torch each time.

A fork server imports the libraries once (nothing of eaftgate), and every run is a fork of it.
"""

import gc
import json
import multiprocessing
import os
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any

from forked_workers import fork_workers

ROOT = Path(__file__).parent.parent
BASE = ROOT / "fixtures" / "checkpoint"
GATE_PACKS = ROOT / "fixtures" / "packs" / "gate"
CALIBRATION_PACKS = ROOT / "fixtures" / "packs" / "calibration"
PRELOAD = [
    "torch", "transformers.models.gpt_oss.modeling_gpt_oss", "pyarrow.parquet", "scipy.stats", "pydantic",
    "rich.progress", "rich.table", "typer", "hypothesis",
]  # fmt: skip
TIMEOUT_SECONDS = 120
ALREADY_IMPORTED = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
"""The libraries are imported before pytest, which warns that it cannot rewrite the assertions of one of them."""
POLICY = "--policy=near-lossless-v2"
"""What the machinery is tried with: it decides on blocks that take seconds. A test that is about another names it."""
ENVIRONMENT: dict[str, str] = {}
"""Of the command, besides what it inherits; variables of pytest are not inherited."""


@dataclass(frozen=True)
class Run:
    """A finished command: exit code, terminal output, results directory."""

    code: int
    output: str
    results: Path

    @property
    def parity(self) -> dict[str, Any]:
        parity: dict[str, Any] = json.loads((self.results / "parity.json").read_text(encoding="utf-8"))
        return parity

    def cells(self, name: str) -> dict[str, dict[str, Any]]:
        """Cells of a checkpoint by pack and seq_len, like `UNION-64`."""
        return {f"{c['pack']}-{c['seq_len']}": c for c in self.parity["cells"] if c["name"] == name}

    @property
    def junit(self) -> "dict[str, Case]":
        """Cases by module and name, like `test_noop::test_tensors`."""
        tree = ElementTree.parse(self.results.with_suffix(".xml"))
        cases = {}
        for element in tree.iter("testcase"):
            properties = {p.attrib["name"]: p.attrib["value"] for p in element.iter("property")}
            outcome = next((c for c in element if c.tag in ("failure", "error", "skipped")), None)
            module = element.attrib["classname"].rpartition(".")[2]
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


def gate(results: Path, *options: str | Path, timeout: float = TIMEOUT_SECONDS) -> Run:
    """`python -m pytest gates/ OPTIONS --results RESULTS --junitxml RESULTS.xml` from the repository root; with
    POLICY where OPTIONS name neither one nor a gates file."""
    given = _written(results, options)
    return _command("pytest", "gates/", *given, results=results, directory=ROOT, timeout=timeout)


def eaftgate_gate(results: Path, *options: str | Path, directory: Path) -> Run:
    """The same by `eaftgate gate`, from `directory`."""
    return _command("eaftgate", "gate", *_written(results, options), results=results, directory=directory)


def _written(results: Path, options: tuple[str | Path, ...]) -> tuple[str | Path, ...]:
    named = any(str(option).startswith(("--policy", "--gates")) for option in options)
    policy = () if named else (POLICY,)
    return (*options, *policy, f"--results={results}", f"--junitxml={results.with_suffix('.xml')}")


def pytest_command(*arguments: str | Path, results: Path, directory: Path = ROOT) -> Run:
    return _command("pytest", *arguments, results=results, directory=directory)


def _command(*words: str | Path, results: Path, directory: Path, timeout: float = TIMEOUT_SECONDS) -> Run:
    log = results.parent / f"{results.name}-{time.monotonic_ns()}.log"
    return Run(*start(*words, log=log, directory=directory).end(timeout), results)


@dataclass(frozen=True)
class Started:
    words: tuple[object, ...]
    process: BaseProcess
    log: Path

    def end(self, timeout: float = TIMEOUT_SECONDS) -> tuple[int, str]:
        """Exit code and terminal output."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"{self.words} has not ended: {self.log.read_text()}")
        return self.process.exitcode, self.log.read_text(encoding="utf-8")


def start(
    *words: object, log: Path, directory: Path = ROOT, environment: Mapping[str, str] = MappingProxyType({})
) -> Started:
    """`pytest` or `eaftgate` with arguments."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    given = [str(word) for word in words], directory, {**ENVIRONMENT, **environment}, log
    process = context.Process(target=_main, args=given)
    process.start()
    return Started(words, process, log)


def _main(words: list[str], directory: Path, environment: Mapping[str, str], log: Path) -> None:
    gc.freeze()  # pytest collects garbage ten times; the libraries are none
    os.chdir(directory)
    os.environ.update(OMP_NUM_THREADS="1", COLUMNS="140")
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]
    os.environ.update(environment)
    for name in [name for name in sys.modules if name.split(".")[0] in ("eaftgate", "gate_command", "pytest")]:
        del sys.modules[name]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    for number, name in ((1, "stdout"), (2, "stderr")):
        vars(sys)[name] = vars(sys)[f"__{name}__"] = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "tests"))]
    import torch

    torch.set_num_threads(1)
    if "-n" in words:
        fork_workers()
    code = _pytest(words[1:]) if words[0] == "pytest" else _eaftgate(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _pytest(arguments: list[str]) -> int:
    import pytest

    return int(pytest.main([*ALREADY_IMPORTED, *arguments]))


def _eaftgate(words: list[str]) -> int:
    from eaftgate.commands.app import main

    sys.argv = [*words, *(ALREADY_IMPORTED if words[1] == "gate" else ())]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("the command line has no end")
