"""Killed at any moment, and given again: the same as if nothing had been, but for times (`kill.jobs.made`).

`make test-kill` takes 20 moments of every command that writes; without --moments, one. That of `run`, each of whose
stages is a process that imports torch, is left to `make test-long`.
"""

import re
import signal
from pathlib import Path

import numpy as np
import pytest

from kill.jobs import JOBS, Ended, made, run

pytestmark = pytest.mark.slow
WORK = {
    "profile": ".out.partial/payload/trace/*",
    "prune": ".out.partial/payload/*",
    "refined": ".out.search.json",
    "sweep": "out",
    "gate": "out/collections/*.parts/*",
    "turns": "out/generations/*.parts/*",
}
"""Of commands that are long: what is there when the work has begun."""
MOMENTS = 1
ERRORS = re.compile(r"^(?!KeyboardInterrupt)[\w.]+(Error|Exception|Interrupt)\b", re.MULTILINE)
"""How a traceback ends; one of an interrupt that came before the command line was there is Python's."""


class Undisturbed:
    """The commands as they end by themselves, each run when it is first asked for."""

    def __init__(self, inputs: Path, factory: pytest.TempPathFactory) -> None:
        self._inputs, self._factory = inputs, factory
        self._found: dict[str, tuple[Ended, Path]] = {}

    def __getitem__(self, name: str) -> tuple[Ended, Path]:
        if name not in self._found:
            place = self._factory.mktemp(name) / "place"
            place.mkdir()
            ended = run(JOBS[name].given(self._inputs), place)
            assert ended.code in JOBS[name].codes, ended.output
            self._found[name] = ended, place
        return self._found[name]


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(inputs, tmp_path_factory)


def check_again(
    name: str, inputs: Path, undisturbed: Undisturbed, place: Path, when: float | str, number: int
) -> Ended:
    """Runs the command, sends it the signal `number` after so many seconds or when its work has begun, and runs it
    again. Returns how it ended at first."""
    ended, whole = undisturbed[name]
    place.mkdir()
    words = JOBS[name].given(inputs)
    moment = {"begun": when} if isinstance(when, str) else {"after": when}
    stopped = run(words, place, number=number, **moment)
    assert not ERRORS.search(stopped.output), stopped.output
    again = run(words, place)
    assert again.code == ended.code, f"stopped at {when} ({stopped.code}): {again.output}"
    assert made(place) == made(whole), f"stopped at {when}"
    return stopped


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long if name == "run" else ()) for name in JOBS])
def test_killed_at_any_moment(
    name: str, inputs: Path, undisturbed: Undisturbed, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Drawn between the first and the last instant of an undisturbed run; seeded, so that they can be told again."""
    asked = pytestconfig.getoption("--moments", default=None)
    rng = np.random.default_rng([*name.encode()])
    moments = rng.uniform(0, undisturbed[name][0].seconds, asked or MOMENTS)
    for number, moment in enumerate(moments):
        check_again(name, inputs, undisturbed, tmp_path / str(number), float(moment), signal.SIGKILL)


@pytest.mark.parametrize(
    ("name", "number"),
    [*((name, signal.SIGINT) for name in WORK), ("refined", signal.SIGTERM), ("gate", signal.SIGTERM)],
)
def test_interrupted_and_terminated(
    name: str, number: signal.Signals, inputs: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """In the midst of its work."""
    stopped = check_again(name, inputs, undisturbed, tmp_path / "place", WORK[name], number)
    if name != "prune":  # which is done in no time
        assert stopped.code not in JOBS[name].codes, stopped.output
