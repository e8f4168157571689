"""Pages of four runs on a few blocks, and a browser. `make test-browser` brings what this needs; nothing is skipped."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser.devtools import Page, browser
from gate_command import BASE, ENVIRONMENT, GATE_PACKS, gate
from prepared import base_copy, made, random8  # noqa: F401

OPTIONS = (f"--base={BASE}", f"--packs={GATE_PACKS}", "--regime=fixture", "--seq-lens=64")
TURNS = ("--generate=6", "--generate-tokens=48")
V2, V3 = ("--policy=near-lossless-v2",), ("--policy=near-lossless-v3", *TURNS)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--axe", type=Path, required=True, help="axe.min.js of the npm package axe-core")
    parser.addoption("--screenshots", type=Path, help="directory for pictures of every page")


@pytest.fixture(scope="session")
def axe(request: pytest.FixtureRequest) -> str:
    path: Path = request.config.getoption("--axe")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory, base_copy: Path, random8: Path) -> dict[str, Path]:  # noqa: F811
    """By the verdict of the run. What the first has scored the others are given."""
    at = tmp_path_factory.mktemp("runs")
    copy = f"--checkpoint={base_copy}"
    runs = {
        "pass": (copy, "--num-blocks=48", *V2),
        "fail": (copy, f"--checkpoint={random8}", "--num-blocks=6", *V2),
        "inconclusive": (copy, "--num-blocks=6", *V3),
        "incomplete": (copy, f"--checkpoint={random8}", "--num-blocks=6", *V3, "-p", "meddling_plugin"),
    }
    for name, options in runs.items():
        if name in ("inconclusive", "incomplete"):
            shutil.copytree(at / "fail" / "collections", at / name / "collections")
        ENVIRONMENT["MEDDLE"] = "interrupts"
        try:
            run = gate(at / name, *OPTIONS, *options)
        finally:
            del ENVIRONMENT["MEDDLE"]
        assert run.parity["verdict"] == name, run.output
    return {name: at / name / "report.html" for name in runs}
