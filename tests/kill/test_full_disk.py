"""A disk that is full is one sentence, and when there is room the same command ends as if nothing had been."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gate_command import ROOT

pytestmark = pytest.mark.slow
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def can_mount() -> bool:
    if shutil.which(NAMESPACE[0]) is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="no mount namespace of one's own is allowed here")
def test_a_full_disk(tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    ended = subprocess.run(
        [*NAMESPACE, sys.executable, "-m", "kill.full_disk", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=900, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == []
