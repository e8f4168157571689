"""Where a command puts what it makes: never over, into or through anything that no command of ours has made.

One rule for what is there already. The same command with the same inputs on a finished output says that it is up to
date; with other inputs it is an error that says what differs; what an interrupted run left of the same inputs is taken
up. A directory therefore says what it was made from (made_from.py); a file is made again and compared.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from eaftgate.errors import UserError
from eaftgate.files import write_failures, write_text
from eaftgate.locks import Taken, held, holder
from eaftgate.made_from import MADE_FROM_FILE, check_made
from eaftgate.unfinished import Unfinished, unfinished


def check_directory(out: Path, inputs: Iterable[Path] = (), *, option: str = "--out") -> bool:
    """Whether an output of ours is at `out`, which `up_to_date` looks into; an empty directory is nothing.

    Raises UserError when something else is there, its parent is not, something is in the way of building it, or it lies
    in a checkpoint or in one of the directories `inputs`, or those in it.
    """
    check_outside_checkpoints(out, option=option)
    check_apart(out, inputs, option=option)
    check_parent(out, option=option)
    if _is_taken(out):
        if out.is_symlink() or not (out / MADE_FROM_FILE).is_file():
            raise _exists(out, option)
        return True
    work = unfinished(out)
    if work.root.is_symlink() or (work.root.exists() and not (work.root.is_dir() and work.is_ours)):
        raise UserError(f"{work.root} is in the way, and no run has made it: remove it or choose another {option}")
    return False


def check_free(out: Path) -> None:
    """Raises UserError when an output is at `out`, and for what `check_directory` refuses."""
    if check_directory(out):
        raise _exists(out, "--out")


def up_to_date(out: Path, made_from: Mapping[str, Any], *, option: str = "--out") -> bool:
    """Whether `out` was made from these inputs (JSON; content, not names) by this version and still is what was made.
    False: nothing is there. Removes what is left beside it of a run that was killed when it had just been made.

    Raises UserError for what `check_directory` refuses, and when what is there was made from other inputs, or changed.
    """
    if not check_directory(out, option=option):
        return False
    check_made(out, out / MADE_FROM_FILE, out, made_from, option)
    _remove_left(unfinished(out))
    return True


def _remove_left(work: Unfinished) -> None:
    """What an output that is there was built in, if nobody builds there and nothing is in it any more."""
    with suppress(OSError):  # it is in nobody's way
        ours = not work.root.is_symlink() and work.root.is_dir() and work.is_ours
        if ours and not work.payload.exists() and holder(work.lock) is None:
            shutil.rmtree(work.root)


def file_up_to_date(out: Path, record: Path, made_from: Mapping[str, Any], *, option: str = "--out") -> bool:
    """The same of a file that cannot be made again and compared, beside which `record` says what it was made from."""
    if not out.exists():
        return False
    if not record.is_file():
        raise _exists(out, option)
    check_made(out, record, out.parent, made_from, option)
    return True


def check_file(out: Path, inputs: Iterable[Path] = (), *, option: str = "--out") -> None:
    """Raises UserError when `out` can be no file that is made from `inputs`, or lies in a checkpoint that is not one of
    ours: a base."""
    check_outside_checkpoints(out, option=option, bases_only=True)
    check_parent(out, option=option)
    if out.is_symlink() or (out.exists() and not out.is_file()):
        raise _exists(out, option)
    for path in inputs:
        if _place(out, option) == _place(path, option):
            raise UserError(f"{option} is {out}, which it is made from: choose another {option}")


def put_file(out: Path, content: str, *, option: str = "--out") -> bool:
    """Write `content` to `out`, which `check_file` has found well, unless it is there already. Returns whether it was.

    Raises UserError when something else is there, and when the disk fails.
    """
    data = content.encode()
    with claimed(out, option=option), write_failures(out):
        if not out.exists():
            write_text(out, content)
            return False
        if out.stat().st_size != len(data) or out.read_bytes() != data:
            raise UserError(
                f"{out} already exists and holds something else than what would be written now: "
                f"choose another {option} or remove it"
            )
    return True


def check_parent(out: Path, *, option: str = "--out") -> None:
    """Raises UserError when the directory that `out` is to lie in is not there: it may be mistyped."""
    parent = out.parent
    if parent.is_dir():
        return
    if parent.is_symlink() or parent.exists():
        raise UserError(f"{parent} is no directory, so {out} cannot be made: choose another {option}")
    raise UserError(f"{parent} does not exist: correct {option}, or make it with mkdir -p {parent}")


def check_apart(out: Path, inputs: Iterable[Path], *, option: str = "--out") -> None:
    """Raises UserError when `out` is one of `inputs` or lies in it."""
    place = _place(out, option)
    for path in inputs:
        if _place(path, option) in (place, *place.parents):
            raise UserError(f"{out} lies in {path}, which it is made from: choose another {option}")


def check_outside_checkpoints(
    out: Path, *, option: str = "--out", bases_only: bool = False, itself: bool = False
) -> None:
    """Raises UserError when `out` lies in the directory of a checkpoint (or is one: `itself`); `bases_only`: of one
    that is not ours."""
    place = _place(out, option)
    for parent in (*([place] if itself else []), *place.parents):
        weights = (parent / "config.json").is_file() and any(parent.glob("*.safetensors"))
        if weights and not (bases_only and (parent / "manifest.json").is_file()):
            raise UserError(f"{out} lies in the checkpoint {parent}: choose another {option}")


@contextmanager
def claimed(out: Path, *, option: str = "--out") -> Iterator[None]:
    """Have `out` to oneself, for what takes long before anything is built, or adds to a file.

    Raises UserError when another process has it.
    """
    place = out.resolve()
    try:
        with write_failures(out), held(place.with_name(f".{place.name}.lock")):
            yield
    except Taken as taken:
        raise busy(out, taken, option) from None


def busy(out: Path, taken: Taken, option: str = "--out") -> UserError:
    """What a second process is told."""
    return UserError(f"another process is writing {out} ({taken}): wait for it or choose another {option}")


def _place(path: Path, option: str) -> Path:
    """Where `path` is, without links. Raises UserError when it is nowhere."""
    try:
        return path.resolve()
    except (RuntimeError, ValueError, OSError):  # a loop of links, a null byte
        raise UserError(f"{option}: {str(path)!r} is no path that can be: choose another {option}") from None


def _is_taken(out: Path) -> bool:
    return out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir())))


def _exists(out: Path, option: str) -> UserError:
    return UserError(f"{out} already exists: choose another {option} or remove it")
