"""docs/ci, step by step as the services do it; what is installed, and what is posted, is only written down.

Not their own doing: checking out, caches, uploads. What they would upload is there.
"""

import os
import re
import subprocess
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from gate_command import BASE, GATE_PACKS, POLICY, ROOT, TIMEOUT_SECONDS, start
from prepared import TINY

EXAMPLES = ROOT / "docs" / "ci"
VALUES = {
    "github.event.pull_request.number": "7",
    "github.token": "a token",
    "github.run_id": "41",
    "github.run_attempt": "1",
}
IN_XUNIT2 = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {
        "name", "tests", "failures", "errors", "group", "time", "skipped", "timestamp", "hostname", "id", "package",
        "file", "log", "url",
    },
    "testcase": {"name", "time", "classname", "group"},
    "failure": {"type", "message"}, "error": {"type", "message"}, "skipped": {"type", "message"},
    "properties": set(), "property": {"name", "value"}, "system-out": set(), "system-err": set(),
}  # fmt: skip
"""Elements and attributes of junit-10.xsd, the schema of Jenkins' xUnit plugin; of a case it has no properties."""
STAND_INS = {
    "python3": 'mkdir -p "$3/bin" && for name in pip eaftgate; do cp "$STAND_INS/$name" "$3/bin/"; done',
    "pip": 'echo "pip $*" >> "$SAID"; exit "${PIP_CODE:-0}"',
    "gh": 'echo "gh $* $GH_TOKEN" >> "$SAID"; cat "$5" >> "$SAID"',
    "eaftgate": 'echo "eaftgate $*" >> "$SAID"; $GATE "$@"',
}


@dataclass(frozen=True)
class Step:
    """A script and the shell that gets it; `condition` is GitHub's."""

    shell: tuple[str, ...]
    script: str
    condition: str = ""
    must_pass: bool = True


@dataclass(frozen=True)
class Job:
    steps: tuple[Step, ...]
    uploads: tuple[str, ...]


def github() -> Job:
    text = (EXAMPLES / "github.yml").read_text(encoding="utf-8")
    written = re.sub(r"\$\{\{ *([\w.]+) *\}\}", lambda match: VALUES[match[1]], text)
    steps: list[dict[str, Any]] = yaml.safe_load(written)["jobs"]["gate"]["steps"]
    scripts = tuple(
        Step(
            ("bash", "-e"),
            "\n".join([*(f"export {k}='{v}'" for k, v in step.get("env", {}).items()), step["run"]]),
            step.get("if", ""),
            not step.get("continue-on-error", False),
        )
        for step in steps
        if "run" in step
    )
    uploads = [step["with"]["path"] for step in steps if "upload-artifact" in step.get("uses", "")]
    return Job(scripts, tuple(path for paths in uploads for path in paths.split()))


def gitlab() -> Job:
    job = yaml.safe_load((EXAMPLES / "gitlab.yml").read_text(encoding="utf-8"))["gate"]
    kept = job["artifacts"]
    script = "\n".join(job["script"])
    return Job((Step(("bash", "-eo", "pipefail"), script),), (*kept["paths"], kept["reports"]["junit"]))


def jenkins() -> Job:
    text = (EXAMPLES / "Jenkinsfile").read_text(encoding="utf-8")
    scripts = re.findall(r"sh '''(.*?)'''", text, re.DOTALL)
    (junit,) = re.findall(r"junit '(.*?)'", text)
    (artifacts,) = re.findall(r"artifacts: '(.*?)'", text)
    # In Groovy's string a backslash before the end of a line joins the lines.
    steps = tuple(Step(("sh", "-xe"), script.replace("\\\n", "")) for script in scripts)
    return Job(steps, (junit, *artifacts.split(", ")))


SERVICES = {"github": github, "gitlab": gitlab, "jenkins": jenkins}


class Workplace:
    """A directory in which steps are done one after the other, as on a runner."""

    def __init__(self, path: Path, gate: str, **environment: str) -> None:
        self.path, stand_ins = path / "work", path / "stand_ins"
        self.said, self.summary, self.paths = path / "said", path / "summary", path / "paths"
        for directory in (self.path, stand_ins):
            directory.mkdir()
        for file in (self.said, self.summary, self.paths):
            file.touch()
        for name, script in STAND_INS.items():
            (stand_ins / name).write_text(f"#!/bin/sh\n{script}\n")
            (stand_ins / name).chmod(0o755)
        self._environment = {
            "PATH": f"{stand_ins}:/usr/bin:/bin", "HOME": str(path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
            "STAND_INS": str(stand_ins), "SAID": str(self.said), "GATE": gate, **environment,
        }  # fmt: skip

    def do(self, steps: Sequence[Step], **put: object) -> bool:
        """Whether the job is green. `put` are other words for those of the examples, by their last part."""
        green = True
        for step in steps:
            always, found = "always()" in step.condition, re.search(r"hashFiles\('(.*?)'\) != ''", step.condition)
            if (green or always) and (found is None or (self.path / found[1]).exists()):
                green &= self._passes(step, put) or not step.must_pass
        return green

    def _passes(self, step: Step, put: dict[str, object]) -> bool:
        script = step.script
        for option, value in put.items():
            script = re.sub(rf"--{option}=\S+", f"--{option}={value}", script)
        github = {"GITHUB_PATH": str(self.paths), "GITHUB_STEP_SUMMARY": str(self.summary)}
        path = ":".join([*reversed(self.paths.read_text().split()), self._environment["PATH"]])
        file = self.path.parent / "step.sh"
        file.write_text(script)
        environment = {**self._environment, **github, "PATH": path}
        done = subprocess.run(
            [*step.shell, str(file)], cwd=self.path, env=environment, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        self.output = done.stdout + done.stderr
        return done.returncode == 0


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("code", [0, 1, 4])
def test_a_job_is_as_green_as_the_gate(service: str, code: int, tmp_path: Path) -> None:
    job = SERVICES[service]()
    script = tmp_path / "gate.sh"
    script.write_text(f"#!/bin/sh\nmkdir results && touch {' '.join(job.uploads)}\nexit {code}\n")
    work = Workplace(tmp_path, f"sh {script}")
    assert work.do(job.steps) == (code == 0)
    said = work.said.read_text()
    assert "pip install torch\npip install /opt/eaftgate[mxfp4]\neaftgate gate --base=openai/gpt-oss-20b" in said
    assert ("gh pr comment 7 --body-file results/parity.md a token" in said) == (service == "github")


@pytest.mark.parametrize("service", SERVICES)
def test_where_nothing_can_be_installed_nothing_is_said(service: str, tmp_path: Path) -> None:
    work = Workplace(tmp_path, "false", PIP_CODE="1")
    assert not work.do(SERVICES[service]().steps)
    assert work.said.read_text() == "pip install torch\n"


def test_a_red_job_keeps_its_collections() -> None:
    """actions/cache keeps nothing of a job that failed, and a key that is there is not written again."""
    steps = yaml.safe_load((EXAMPLES / "github.yml").read_text(encoding="utf-8"))["jobs"]["gate"]["steps"]
    restore, save = (next(s for s in steps if f"cache/{name}@" in s.get("uses", "")) for name in ("restore", "save"))
    assert save["if"] == "always()"
    assert restore["with"]["key"] == save["with"]["key"]
    assert "run_attempt" in save["with"]["key"]
    assert save["with"]["key"].startswith(restore["with"]["restore-keys"])
    assert yaml.safe_load((EXAMPLES / "gitlab.yml").read_text(encoding="utf-8"))["gate"]["cache"]["when"] == "always"


@contextmanager
def served_gate(path: Path, *more: str) -> Iterator[Path]:
    """A script that has `eaftgate` run by its arguments and `more` once, where it is called, by a process of ours that
    need not import torch; and ends as that does."""
    asked, ended = path / "asked", path / "ended"
    for fifo in (asked, ended):
        os.mkfifo(fifo)

    def serve() -> None:
        summary, directory, *words = asked.read_text(encoding="utf-8").splitlines()
        log = path / "gate.log"
        environment = {"GITHUB_STEP_SUMMARY": summary}
        started = start("eaftgate", *words, *more, log=log, directory=Path(directory), environment=environment)
        code, _ = started.end()
        ended.write_text(f"{code}\n", encoding="utf-8")

    script = path / "gate.sh"
    script.write_text(
        f'printf "%s\\n" "$GITHUB_STEP_SUMMARY" "$PWD" "$@" > {asked}\n'
        f"read code < {ended}\ncat {path / 'gate.log'}\nexit $code\n"
    )
    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    yield script
    serving.join(TIMEOUT_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_the_gate_itself_as_the_examples_have_it(service: str, tmp_path: Path, keep24: Path) -> None:
    """On so few blocks nothing can be decided: a red job, with everything there that it uploads."""
    job = SERVICES[service]()
    with served_gate(tmp_path, *TINY, POLICY) as script:
        work = Workplace(tmp_path, f"sh {script}")
        assert not work.do(job.steps, base=BASE, checkpoint=keep24, packs=GATE_PACKS)
    assert [name for name in job.uploads if not (work.path / name).is_file()] == [], work.output
    text = (work.path / "results" / "parity.md").read_text(encoding="utf-8")
    assert text.startswith("## eaftgate: INCONCLUSIVE")
    assert work.summary.read_text(encoding="utf-8") == f"{text}\n"
    if service == "github":
        assert work.said.read_text(encoding="utf-8").endswith(text)
    junit = ElementTree.parse(work.path / "junit.xml").getroot()
    cases = list(junit.iter("testcase"))
    assert junit.find("testsuite[@failures='0']") is None
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)  # GitLab's key of a case
    assert [case for case in cases if len(case.findall("failure") + case.findall("error")) > 1] == []
    if service == "jenkins":
        assert {(e.tag, name) for e in junit.iter() for name in e.attrib if name not in IN_XUNIT2[e.tag]} == set()
        assert junit.find(".//testcase/properties") is None
        assert "record_property" not in work.output
    else:
        assert junit.find(".//testcase/properties/property[@name='margin']") is not None
