"""Runs every attack, the slow ones too, and writes what came of them: the table of docs/attacks.md.

PYTHONPATH=.:tests python -m attacks [--out docs/data/attacks.json] [KIND ...]
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

from attacks.attack import Box, all_kinds
from attacks.run import Problem, run
from attacks.sound import make_sound
from eaftgate import __version__

HEADINGS = {
    "kind": "what is attacked",
    "tried": "inputs tried",
    "refused": "refused in one sentence",
    "answered": "answered no",
    "accepted": "accepted rightly",
    "tracebacks": "tracebacks",
    "hangs": "hangs",
    "not_one_sentence": "other sentences",
    "accepted_wrongly": "accepted wrongly",
    "refused_wrongly": "refused wrongly",
    "outside": "written outside",
    "disagree": "verdicts that disagree",
}
"""Of the table's columns: `answered` is a command's own negative answer, exit code 1."""
TOTAL = "all"
_RIGHT = {"refused": "refused", "negative": "answered", "accepted": "accepted"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    failed = False
    with tempfile.TemporaryDirectory() as directory:
        sound = Path(directory, "sound")
        make_sound(sound)
        for kind, attacks in all_kinds().items():
            if given.kinds and kind not in given.kinds:
                continue
            counts = Counter[str](tried=len(attacks))
            for number, attack in enumerate(attacks):
                problems = run(attack, Box(Path(directory, kind, str(number)), sound))
                counts.update({problem.kind for problem in problems} or {_RIGHT[attack.expected]})
                for problem in problems:
                    failed = True
                    print(_shown(kind, attack.name, problem))
            rows.append({"kind": kind, **{name: counts[name] for name in HEADINGS if name != "kind"}})
            print(f"{kind}: {dict(counts)}", flush=True)
    if given.out is not None and not failed and not given.kinds:
        _write(given.out, rows)
    return int(failed)


def _shown(kind: str, name: str, problem: Problem) -> str:
    return f"{kind}: {name}: {problem.kind}: {problem.said[-400:]}"


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    total = {name: sum(row[name] for row in rows) for name in HEADINGS if name != "kind"}
    value = {
        "what": "Malformed, odd and hostile inputs, by kind, each met by a command; `python -m attacks` runs them all",
        "command": "PYTHONPATH=.:tests python -m attacks --out docs/data/attacks.json",
        "date": f"{date.today()}",
        "hardware": None,
        "software": f"eaftgate {__version__}",
        "commit": None,
        "columns": [{"heading": heading, "cell": f"{{{name}}}"} for name, heading in HEADINGS.items()],
        "rows": [*rows, {"kind": TOTAL, **total}],
    }
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
