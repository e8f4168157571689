"""docs/report.png, the picture that opens README.md: the head of the report of a run of `make gate`, in Chromium.

    make picture

docs/report-run.json is that run's parity.json, without lost messages, noise floor and checksum, its directory by the
clone's name alone and its host called "example".
"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser.devtools import browser  # noqa: E402

from eaftgate.gate.results import Parity  # noqa: E402
from eaftgate.records import read_model  # noqa: E402
from eaftgate.report.html import render  # noqa: E402

RUN, PICTURE = ROOT / "docs" / "report-run.json", ROOT / "docs" / "report.png"
WIDTH, HEIGHT = 1280, 1160


def main() -> None:
    parity = read_model(RUN, Parity, what="run", remedy="restore it")
    with tempfile.TemporaryDirectory() as work, browser(Path(work) / "chromium") as page:
        path = Path(work) / "report.html"
        path.write_text(render(parity), encoding="utf-8")
        page.open(path, width=WIDTH)
        page.picture(PICTURE, height=HEIGHT)


if __name__ == "__main__":
    main()
