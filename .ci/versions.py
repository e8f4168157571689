"""Runs the tests that concern pytest, pydantic, pyarrow and transformers with the lowest and the newest declared.

    python .ci/versions.py        # make test-versions; of the environment that eaftgate is installed in

What pyproject.toml declares is read from there. An environment is laid over the present one and holds only what differs
from it, so torch is not installed again. Where nothing newer is to be had than what is here, the ordinary tests have
already said what the newest do.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONCERNED = {
    "pytest": ["tests/gate/test_anywhere.py", "tests/gate/test_inert.py", "tests/gate/test_pytest_internals.py",
               "tests/gate/test_gate_recipe.py", "tests/gate/test_says_the_same.py"],
    "pytest-xdist": ["tests/gate/test_schedule.py"],
    "pydantic": ["tests/judge", "tests/gate/test_plan.py", "tests/gate/test_profiling_seeds.py", "tests/rewrite"],
    "pyarrow": ["tests/packs", "tests/chats"],
    "transformers": ["tests/model", "tests/families", "tests/collect/test_transformers_collector.py", "tests/profile"],
}  # fmt: skip


def declared() -> dict[str, str]:
    """Every dependency's specifier by name, like `>=8.4,<10`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = (re.fullmatch(r"([\w-]+)(\S*)", requirement) for requirement in project["dependencies"])
    return {match[1]: match[2] for match in found if match is not None}


def lowest(specifiers: dict[str, str]) -> list[str]:
    """Of every dependency but torch, whose build is chosen by who sets up."""
    floors = {name: re.search(r">=([\d.]+)", specifier) for name, specifier in specifiers.items()}
    return [f"{name}=={floor[1]}" for name, floor in floors.items() if floor and name != "torch"]


def environments(place: Path) -> Iterator[tuple[str, Path]]:
    """(name, its interpreter) of those that differ from the present environment."""
    specifiers = declared()
    wanted = {
        "lowest": lowest(specifiers),
        "newest": ["--upgrade", *(f"{name}{specifiers[name]}" for name in CONCERNED)],
    }
    for name, requirements in wanted.items():
        venv.create(place / name, with_pip=False)
        python = place / name / "bin" / "python"
        site_packages = next((place / name).glob("lib/python*/site-packages"))
        below = [path for path in sys.path if Path(path).name == "site-packages"]
        (site_packages / "below.pth").write_text("\n".join([*below, str(ROOT)]), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
        print(f"== {name}: {' '.join(requirements)}", flush=True)
        subprocess.run([*pip, "install", "--quiet", *requirements], check=True)
        differing = subprocess.run([*pip, "list", "--local"], check=True, capture_output=True, text=True).stdout
        print(differing or "nothing that is not here", flush=True)
        if differing.strip():
            yield name, python


def main() -> int:
    tests = [path for paths in CONCERNED.values() for path in paths]
    failed = []
    with tempfile.TemporaryDirectory() as place:
        for name, python in environments(Path(place)):
            command = [str(python), "-m", "pytest", "-n", "2", "-q", "-m", "not slow", *tests]
            if subprocess.run(command, cwd=ROOT, check=False).returncode:
                failed.append(name)
    print(f"failed with the {' and the '.join(failed)} declared versions" if failed else "the declared versions hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
