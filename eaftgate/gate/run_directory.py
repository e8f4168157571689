"""A run directory belongs to one run at a time, and a run writes and removes nothing in it that no run has made."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from eaftgate.errors import UserError
from eaftgate.files import write_failure
from eaftgate.gate.models import WORK_DIR, work_is_ours
from eaftgate.gate.request import GateOptions
from eaftgate.gate.results import (
    CELLS_DIR,
    COLLECTIONS_DIR,
    GATES_FILE,
    GENERATIONS_DIR,
    LOCK_FILE,
    PAGE_FILE,
    PARITY_FILE,
    SUMMARY_FILE,
)
from eaftgate.gate.summary import HEAD
from eaftgate.locks import Taken, held
from eaftgate.made_from import MADE_FROM_FILE
from eaftgate.outputs import check_apart, check_outside_checkpoints, check_parent
from eaftgate.strict_json import read_object

DIGESTS_FILE = "digests.json"
_FILES = (PARITY_FILE, DIGESTS_FILE, GATES_FILE, PAGE_FILE, SUMMARY_FILE, LOCK_FILE)
_PAGE = b"<title>eaftgate: "
"""In the head of every report."""


def hold(config: pytest.Config, options: GateOptions) -> None:
    """Have the run directory until pytest ends, unless cases are only listed. Raises UserError where it cannot be had,
    or must not be written to."""
    inputs = [path for path in (options.packs, options.gates) if path is not None]
    check_run_directory(options.results, inputs)
    junit = getattr(config.option, "xmlpath", None)
    if junit == "":
        raise UserError("--junitxml is empty: give a file, or leave it out")
    if junit:
        check_junit(Path(os.path.expandvars(junit)).expanduser(), options.results, inputs)
    if not config.option.collectonly:
        lock = ExitStack()
        config.add_cleanup(lock.close)
        lock.enter_context(run_in(options.results))


def check_run_directory(results: Path, inputs: Sequence[Path] = ()) -> None:
    """Raises UserError where a run could not write, would write elsewhere or into one of the directories `inputs`, or
    would have to take away what is not its own."""
    option = "--results"
    if results.is_symlink():
        raise UserError(f"{option} is {results}, which is a link: give the directory itself")
    if results.exists() and not results.is_dir():
        raise UserError(f"{option} is {results}, which is a file: it must be a directory")
    check_parent(results, option=option)
    check_outside_checkpoints(results, option=option, itself=True)
    check_apart(results, inputs, option=option)
    if (results / MADE_FROM_FILE).exists():
        raise UserError(f"{option} is {results}, which another command has made: choose another {option}")
    directories = (WORK_DIR, CELLS_DIR, COLLECTIONS_DIR, GENERATIONS_DIR)
    for name in (*directories, PARITY_FILE, DIGESTS_FILE, GATES_FILE, PAGE_FILE, SUMMARY_FILE):
        path = results / name
        wrong = path.exists() and not (path.is_file() if "." in name else path.is_dir())
        if path.is_symlink() or wrong or (name in _IS_OURS and path.exists() and not _IS_OURS[name](path)):
            raise _not_ours(path)
    if not work_is_ours(results):
        raise _not_ours(results / WORK_DIR)


def check_junit(junit: Path, results: Path, inputs: Sequence[Path] = ()) -> None:
    """Raises UserError when the JUnit file would lie where none may; `junit.make_red` looks at what is there."""
    option = "--junitxml"
    check_outside_checkpoints(junit, option=option)
    check_apart(junit, inputs, option=option)
    if junit.is_dir():
        raise UserError(f"{option} is {junit}, which is a directory: choose another place")
    if junit.resolve() in {(results / name).resolve() for name in _FILES}:
        raise UserError(f"{option} is {junit}, where the run puts a file of its own: choose another place")


@contextmanager
def run_in(results: Path) -> Iterator[None]:
    """Have `results` to oneself. Raises UserError when another run has it, or it cannot be made."""
    with ExitStack() as having:
        try:
            results.mkdir(exist_ok=True)
            having.enter_context(held(results / LOCK_FILE))
        except Taken as taken:
            raise UserError(
                f"another run is going on in {results} ({taken}): wait for it or choose another --results"
            ) from None
        except OSError as error:
            raise write_failure(error, results) from None
        yield


def _is_parity(path: Path) -> bool:
    try:
        return "schema_version" in read_object(path, what="gate result")
    except UserError:
        return False


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return _PAGE in file.read(1024)


def _is_summary(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(HEAD)) == HEAD.encode()


_IS_OURS = {PARITY_FILE: _is_parity, PAGE_FILE: _is_page, SUMMARY_FILE: _is_summary}
"""What a run takes away at its begin."""


def _not_ours(path: Path) -> UserError:
    return UserError(
        f"{path} was not made by a gate run, which needs that place: remove it, or choose another --results"
    )
