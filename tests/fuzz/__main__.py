"""Every parser for a while, each from a new place: what it finds becomes an attack in tests/attacks/kinds.

PYTHONPATH=.:tests python -m fuzz [--seconds 60] [--seed N] [--out gate-out/fuzz] [TARGET ...]
"""

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

from fuzz.check import problem
from fuzz.mutate import mutants
from fuzz.targets import Target, all_targets


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    parser.add_argument("--out", type=Path, default=Path("gate-out/fuzz"), help="where inputs that break a parser go")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        targets = all_targets(Path(work))
        found = [_run(targets[name], given, Path(work)) for name in given.targets or targets]
    return int(any(found))


def _run(target: Target, given: argparse.Namespace, work: Path) -> int:
    ends, tried, seen = time.monotonic() + given.seconds, 0, set()
    for data in mutants(target, given.seed):
        if time.monotonic() > ends:
            break
        tried += 1
        said = problem(target, data, work)
        if said and (kind := said.strip().splitlines()[-1][:80]) not in seen:
            seen.add(kind)
            given.out.mkdir(parents=True, exist_ok=True)
            path = given.out / f"{target.name}-{hashlib.sha256(data).hexdigest()[:12]}"
            path.write_bytes(data)
            print(f"{path}\n{said}", flush=True)
    print(f"{target.name}: {tried} inputs, {len(seen)} kinds of failure (--seed {given.seed})", flush=True)
    return len(seen)


if __name__ == "__main__":
    sys.exit(main())
