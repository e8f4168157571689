"""A disk that is full is one sentence, and when there is room the same command ends as if nothing had been.

`make test-kill` tries it with nothing, a little and most of what the outputs take; without --moments, with a little.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gate_command import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.long]
NAMESPACES = (("unshare", "--user", "--map-root-user", "--mount"), ("unshare", "--mount"))
"""For anybody, where the system allows that; for root."""


def namespace() -> tuple[str, ...] | None:
    """What runs a command in a mount namespace of its own."""
    for words in NAMESPACES if shutil.which("unshare") else ():
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
            return words
    return None


@pytest.mark.skipif(namespace() is None, reason="no mount namespace of one's own is allowed here")
def test_a_full_disk(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    fractions = ("0", "0.3", "0.8") if pytestconfig.getoption("--moments", default=None) else ("0.3",)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    ended = subprocess.run(
        [*(namespace() or ()), sys.executable, "-m", "kill.full_disk", str(tmp_path), *fractions],
        capture_output=True, text=True, check=False, timeout=900, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == []
