"""Settings for every test. Lying here, this file also puts tests/ on sys.path, for `tiny_checkpoint`."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

FIRST = (
    "kill/test_killed.py", "test_wheel.py", "gate/test_gate_turns.py", "profile/test_streamed_memory.py",
    "profile/test_ranks.py",
)  # fmt: skip
"""Files whose tests take longest: where one process begins one of these last, the others wait for it."""

# Tests run in parallel processes; two thread pools on the same cores wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# It is for the tests that were begun with it, and not for the sessions that they begin, whose options they look at.
os.environ.pop("PYTEST_ADDOPTS", None)

settings.register_profile("eaftgate", deadline=None, derandomize=True)
settings.load_profile("eaftgate")

# Where a script begins the tests in its background, Ctrl-C is ignored, and what they begin would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """FIRST begin first; a process whose own tests are done takes over the last of another's."""
    place_of = {Path(__file__).parent / name: place for place, name in enumerate(FIRST)}
    if moved := [str(path) for path in place_of if not path.is_file()]:
        raise pytest.UsageError(f"{moved[0]} is not there: say in tests/conftest.py what its tests are called now")
    items.sort(key=lambda item: place_of.get(item.path, len(FIRST)))
