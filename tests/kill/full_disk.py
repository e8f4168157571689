"""Every command that writes on a file system that fills up, and again when there is room.

    unshare --user --map-root-user --mount python -m kill.full_disk DIR FRACTION...

of what the outputs take is there. It runs in a mount namespace of its own, in which DIR becomes a small tmpfs, and
prints what is wrong as JSON.
"""

import json
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from kill.jobs import JOBS, Ended, made, make_inputs, run

PAGE = 4096


def main() -> None:
    place, fractions = Path(sys.argv[1]), [float(fraction) for fraction in sys.argv[2:]]
    with tempfile.TemporaryDirectory() as directory:
        inputs = Path(directory) / "inputs"
        inputs.mkdir()
        make_inputs(inputs)
        found = [problem for name in JOBS for problem in problems(name, inputs, place, fractions)]
    print(json.dumps(found))


def problems(name: str, inputs: Path, place: Path, fractions: Sequence[float]) -> list[str]:
    job, found = JOBS[name], []
    mount(place, 1 << 28)
    undisturbed = run(job.given(inputs), place)
    expected = made(place)
    pages = sum(-(-path.stat().st_size // PAGE) + 1 for path in place.rglob("*"))
    umount(place)
    for fraction in fractions:
        mount(place, PAGE * max(1, int(pages * fraction)))
        full = run(job.given(inputs), place)
        said = f"{name}, {fraction:.0%} of {pages} pages: exit code {full.code}: {full.output[-1500:]}"
        enough = full.code == undisturbed.code and made(place) == expected
        if not enough and not ENDS.get(name, is_refused)(full, place):
            found.append(said)
        mount(place, 1 << 28, "remount,")
        again = run(job.given(inputs), place)
        if again.code != undisturbed.code or made(place) != expected:
            differing = [key for key in {**expected, **made(place)} if expected.get(key) != made(place).get(key)]
            found.append(f"{said}; then, with room, {again.code}, differing {differing}: {again.output[-1500:]}")
        umount(place)
    return found


def is_refused(ended: Ended, _: Path) -> bool:
    """Exit code 2 and one sentence; before it there may be lines of progress."""
    return ended.code == 2 and "Traceback" not in ended.output and len(re.findall("^error: ", ended.output, re.M)) == 1


def is_red(ended: Ended, place: Path) -> bool:
    """The gate's exit code, and its JUnit file, if there was room for one."""
    junit = place / "out.xml"
    if ended.code in (0, None) or "Traceback" in ended.output or "INTERNALERROR" in ended.output:
        return False
    try:
        suites = ElementTree.parse(junit).iter("testsuite")
    except (OSError, ElementTree.ParseError):
        return True
    return any(int(suite.get("failures", 0)) + int(suite.get("errors", 0)) > 0 for suite in suites)


def is_stopped(ended: Ended, place: Path) -> bool:
    """A stage has been refused, or its gate is red."""
    red = ended.code == 1 and "Traceback" not in ended.output and not (place / "out" / "report.html").exists()
    return red or is_refused(ended, place)


ENDS = {"gate": is_red, "turns": is_red, "run": is_stopped}
"""How a command that is not refused in one sentence ends."""


def mount(place: Path, size: int, how: str = "") -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{how}size={size}", "tmpfs", str(place)], check=True)


def umount(place: Path) -> None:
    subprocess.run(["umount", "--lazy", str(place)], check=True)


if __name__ == "__main__":
    main()
