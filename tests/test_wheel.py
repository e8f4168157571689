"""What a user gets: the wheel, in an environment and a project of its own, is the whole product without the clone.

The environment sees the libraries that are installed here, and of eaftgate the wheel only. It lies within the project,
whose settings, conftest.py and gates/ are in the way of the gate's.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from gate_command import POLICY, ROOT
from gate_project import hostile_project

pytestmark = pytest.mark.slow

BUDGET = (POLICY, "--regime=fixture", "--seq-lens=128", "--num-blocks=32")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "near_lossless_gates.json")


def environment() -> dict[str, str]:
    """Without what makes Python see the clone, where pip would find eaftgate installed already."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}


@dataclass(frozen=True)
class Product:
    """The installed wheel: its programs, the project they lie in, and an empty directory beside it."""

    project: Path
    empty: Path

    @property
    def programs(self) -> Path:
        return self.project / ".venv" / "bin"

    def run(self, *words: str | Path, where: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [self.programs / words[0], *words[1:]]
        return subprocess.run(
            command,
            cwd=where or self.empty,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def gate(self, checkpoint: str, *options: str, where: Path) -> subprocess.CompletedProcess[str]:
        given = (
            f"--base={self.project / 'base'}",
            f"--packs={self.project / 'packs' / 'gate'}",
            "-p",
            "no:cacheprovider",
        )
        return self.run("eaftgate", "gate", *given, f"--checkpoint={self.project / checkpoint}", *options, where=where)


def succeeded(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources: setuptools leaves a build/ behind, and would take from one that is there."""
    sources, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT / "eaftgate", sources / "eaftgate", symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in SOURCES:
        shutil.copy(ROOT / name, sources)
    options = [
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--disable-pip-version-check",
        "--wheel-dir",
        str(out),
    ]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(sources)], check=True, capture_output=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def product(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Product:
    made = Product(hostile_project(tmp_path_factory.mktemp("project")), tmp_path_factory.mktemp("empty"))
    venv.create(made.project / ".venv")
    python = made.programs / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, env=environment())
    (site_packages,) = (made.project / ".venv").glob("lib/python*/site-packages")
    here = [path for path in sys.path if Path(path).name == "site-packages"]
    (site_packages / "libraries.pth").write_text("\n".join(here), encoding="utf-8")
    shutil.copytree(ROOT / "fixtures" / "checkpoint", made.project / "base")
    shutil.copytree(ROOT / "fixtures" / "packs", made.project / "packs")
    return made


@pytest.fixture(scope="module")
def pruned(product: Product) -> Product:
    """With keep24, by a profile of 120 rows, and random8."""
    base, packs = product.project / "base", product.project / "packs" / "calibration"
    few = ("--num-rows", "120", "--seq-len", "128", "--batch-size", "8")
    succeeded(product.run("eaftgate", "profile", base, "--packs", packs, *few, "--out", product.project / "profile"))
    for name, options in (
        ("keep24", ("--profile", product.project / "profile", "--method", "eaft-reap", "--keep-n", "24")),
        ("random8", ("--method", "random", "--keep-n", "8")),
    ):
        succeeded(product.run("eaftgate", "prune", base, *options, "--out", product.project / name))
    return product


def test_the_wheel_is_what_runs(product: Product) -> None:
    code = "import sys, eaftgate; print(eaftgate.__file__, *sys.path, sep='\\n')"
    file, *path = succeeded(product.run("python", "-c", code)).splitlines()
    assert Path(file).is_relative_to(product.project / ".venv")
    assert str(ROOT) not in path
    assert succeeded(product.run("eaftgate", "--version")).startswith("eaftgate ")


def test_metadata_says_what_it_is(product: Product) -> None:
    code = (
        "import json, importlib.metadata as m; d = m.distribution('eaftgate'); "
        "print(json.dumps([[k, v] for k, v in d.metadata.items() if k != 'Description'] + [str(f) for f in d.files]))"
    )
    said = json.loads(succeeded(product.run("python", "-c", code)))
    fields = [tuple(entry) for entry in said if isinstance(entry, list)]
    files = [entry for entry in said if isinstance(entry, str)]
    assert ("License-Expression", "Apache-2.0") in fields
    assert ("License-File", "LICENSE") in fields
    assert {name for name, _ in fields} >= {"Project-URL", "Classifier", "Keywords", "Author", "Requires-Python"}
    for shipped in ("suite/conftest.py", "recipes/shipped/eval-base.yaml", "near_lossless_gates.json", "py.typed"):
        assert f"eaftgate/{shipped}" in files
    assert not [name for name in files if name.startswith(("tests", "gates", "benchmarks", "fixtures", "docs"))]


def test_a_bare_run_says_what_is_missing_and_what_to_give(product: Product) -> None:
    for words in (("eaftgate", "gate"), ("python", "-m", "pytest", "--pyargs", "eaftgate.suite")):
        ended = product.run(*words)
        assert ended.returncode == 4
        assert "the embedded checkpoint is not installed, a clone has it: give --checkpoint" in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1
    assert list(product.empty.iterdir()) == []


def test_without_its_plugin_the_suite_says_how_to_load_it(product: Product) -> None:
    ended = product.run("python", "-m", "pytest", "-p", "no:eaftgate.gate.plugin", "--pyargs", "eaftgate.suite")
    assert ended.returncode == 4
    assert "give it -p eaftgate.gate.plugin" in ended.stdout


def test_shipped_recipes_are_found_by_name(product: Product) -> None:
    ended = product.run("eaftgate", "gate", "--recipe=eval-bigblocks")
    assert ended.returncode == 4
    assert "--packs needs --checkpoint or --base" in ended.stderr


def test_the_main_job_passes_and_a_random_keep_8_fails(pruned: Product) -> None:
    """Each from where it could go wrong: an empty directory, and the project with its own gates/ and settings."""
    good = pruned.gate("keep24", *BUDGET, "--results=good", "--junitxml=good.xml", where=pruned.empty)
    succeeded(good)
    assert "verdict: PASS" in good.stdout
    assert json.loads((pruned.empty / "good" / "parity.json").read_text())["verdict"] == "pass"
    assert 'failures="0"' in (pruned.empty / "good.xml").read_text()
    few = (POLICY, "--regime=fixture", "--seq-lens=64", "--num-blocks=6", "-n", "1")
    bad = pruned.gate("random8", *few, "--results=bad", where=pruned.project)
    assert bad.returncode == 1, bad.stdout + bad.stderr
    assert "verdict: FAIL" in bad.stdout
    assert json.loads((pruned.project / "bad" / "parity.json").read_text())["verdict"] == "fail"


def test_pyargs_in_a_project_with_gates_of_its_own_has_the_same_cases(pruned: Product) -> None:
    few = (POLICY, "--regime=fixture", "--seq-lens=64", "--num-blocks=6", "--collect-only", "-q")
    cases = [line for line in succeeded(pruned.gate("keep24", *few, where=pruned.empty)).splitlines() if "::" in line]
    assert len(cases) > 70
    given = (f"--base={pruned.project / 'base'}", f"--packs={pruned.project / 'packs' / 'gate'}", *few)
    words = ("python", "-m", "pytest", "--pyargs", "eaftgate.suite", f"--checkpoint={pruned.project / 'keep24'}")
    listed = succeeded(pruned.run(*words, *given, where=pruned.project)).splitlines()
    assert [line for line in listed if "::" in line] == cases
