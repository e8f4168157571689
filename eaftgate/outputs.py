"""Where a command puts what it makes: never over, into or through anything that no command of ours has made.

One rule for what is there already. The same command with the same inputs on a finished output says that it is up to
date; with other inputs it is an error that says what differs; what an interrupted run left of the same inputs is taken
up. A directory therefore says what it was made from, in made_from.json; a file is made again and compared.

A directory is built in `.NAME.partial` beside its place, and has its name by one rename when all of it is on disk:

    .NAME.partial/lock            one process builds at a time
                  request.json    what is being built, as a digest
                  state.json      for whoever takes up what is there, if that needs more than the payload
                  payload/        becomes NAME

What an interrupted run has left is taken up by the next one with the same request, and emptied by one with another.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from eaftgate import __version__
from eaftgate.errors import UserError
from eaftgate.files import sha256_file, sha256_json, write_failure, write_json, write_text
from eaftgate.locks import Taken, held
from eaftgate.records import Record, json_of, read_model, write_model
from eaftgate.strict_json import read_object

MADE_FROM_FILE = "made_from.json"
HASHED_BYTES = 1 << 24
"""Files up to this size are hashed when an output is asked whether it still is what was made. Of others the size has to
do: `eaftgate verify` reads them."""
_LOCK, _REQUEST, _STATE, _PAYLOAD = "lock", "request.json", "state.json", "payload"
_SHOWN = 3


class MadeFile(Record):
    """`sha256` is None for one that is too large to be hashed in passing."""

    size: int
    sha256: str | None = None


class MadeFrom(Record):
    """made_from.json: what an output was made from, by content, and every file that was made, by its path in it."""

    made_schema: Literal["made-from-1"] = Field(alias="schema", default="made-from-1")
    eaftgate: str
    inputs: dict[str, Any]
    files: dict[str, MadeFile]


@dataclass(frozen=True)
class Unfinished:
    """The directory `.NAME.partial`."""

    root: Path

    @property
    def payload(self) -> Path:
        return self.root / _PAYLOAD

    @property
    def state(self) -> Path:
        return self.root / _STATE


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
    root = unfinished(out).root
    if root.is_symlink() or (root.exists() and not (root.is_dir() and _is_ours(root))):
        raise UserError(f"{root} is in the way, and no run has made it: remove it or choose another {option}")
    return False


def up_to_date(out: Path, made_from: Mapping[str, Any], *, option: str = "--out") -> bool:
    """Whether `out` was made from these inputs (JSON; content, not names) by this version and still is what was made.
    False: nothing is there.

    Raises UserError for what `check_directory` refuses, and when what is there was made from other inputs, or changed.
    """
    if not check_directory(out, option=option):
        return False
    _check_made(out, out / MADE_FROM_FILE, out, made_from, option)
    return True


def file_up_to_date(out: Path, record: Path, made_from: Mapping[str, Any], *, option: str = "--out") -> bool:
    """The same of a file that cannot be made again and compared, beside which `record` says what it was made from."""
    if not out.exists():
        return False
    if not record.is_file():
        raise _exists(out, option)
    _check_made(out, record, out.parent, made_from, option)
    return True


def write_made_from(record: Path, made_from: Mapping[str, Any], file: Path, name: str, **more: Any) -> None:
    """Say in `record` what the `file`, to be named `name`, was made from, and `more` (JSON) beside it."""
    made = MadeFile(size=file.stat().st_size, sha256=sha256_file(file))
    told = MadeFrom(eaftgate=__version__, inputs=dict(made_from), files={name: made})
    write_json(record, {**json_of(told), **more})


def _check_made(out: Path, record: Path, root: Path, made_from: Mapping[str, Any], option: str) -> None:
    """Raises UserError when `out` was made from other inputs than these, as `record` says, or changed since."""
    there = read_model(record, MadeFrom, what="what it was made from", remedy=f"remove {out}")
    asked = _made_from(made_from)
    if differs := _differences(_flat(_made_from(there.inputs, there.eaftgate)), _flat(asked)):
        raise UserError(
            f"{out} already exists and was made from other inputs ({differs}): choose another {option} or remove it"
        )
    if (changed := _changed(root, there.files)) is not None:
        raise UserError(
            f"{out} already exists and was made from the same inputs, but {changed} since: remove it and run again"
        )


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
    with claimed(out, option=option), _write_failures(out):
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
    """Raises UserError when `out` is one of `inputs`, lies in it or holds it."""
    place = _place(out, option)
    for path in inputs:
        other = _place(path, option)
        if other in (place, *place.parents):
            raise UserError(f"{out} lies in {path}, which it is made from: choose another {option}")
        if place in other.parents and not _is_taken(out):
            raise UserError(f"{out} holds {path}, which it is made from: choose another {option}")


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


def unfinished(out: Path) -> Unfinished:
    out = out.resolve()
    return Unfinished(out.with_name(f".{out.name}.partial"))


@contextmanager
def claimed(out: Path, *, option: str = "--out") -> Iterator[None]:
    """Have `out` to oneself, for what takes long before anything is built, or adds to a file.

    Raises UserError when another process has it.
    """
    place = out.resolve()
    try:
        with _write_failures(out), held(place.with_name(f".{place.name}.lock")):
            yield
    except Taken as taken:
        raise _busy(out, taken, option) from None


@contextmanager
def build(
    out: Path, request: Any = None, *, made_from: Mapping[str, Any] | None = None, needs: str = ""
) -> Iterator[Unfinished]:
    """Build the directory `out` in the payload of what this yields; `out` is there once the block has ended.

    `request` is every input, as JSON, by which an interrupted run is taken up; without one, nothing is left of a run
    that fails. `made_from` is what `up_to_date` compares, later. `needs` may say what space it takes.

    Raises UserError when something is at `out`, for what `check_directory` refuses, when another process is building
    `out`, and when the disk fails.
    """
    _check_free(out)
    out = out.resolve()
    work = unfinished(out)
    with _write_failures(out, needs):
        try:
            with _locked(work):
                try:
                    _check_free(out)  # another process may have made it since
                    _take_up(work, request)
                    yield work
                    if made_from is not None:
                        _record(work.payload, made_from)
                    _publish(work, out)
                finally:
                    if request is None or not any(path.is_file() for path in work.payload.rglob("*")):
                        shutil.rmtree(work.root, ignore_errors=True)
        except Taken as taken:
            raise _busy(out, taken, "--out") from None


@contextmanager
def _locked(work: Unfinished) -> Iterator[None]:
    """The lock in a directory that who held it before may be about to remove."""
    while True:
        work.root.mkdir(exist_ok=True)
        lock = held(work.root / _LOCK)
        try:
            lock.__enter__()
        except FileNotFoundError:
            continue
        break
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


@contextmanager
def joined(out: Path) -> Iterator[Unfinished]:
    """Take part in what another process builds."""
    with _write_failures(out):
        yield unfinished(out)


@contextmanager
def _write_failures(out: Path, needs: str = "") -> Iterator[None]:
    """Turns what the system says of a failing disk into a UserError about `out`."""
    try:
        yield
    except OSError as error:
        raise write_failure(error, out, needs=needs) from None


def _check_free(out: Path) -> None:
    if check_directory(out):
        raise _exists(out, "--out")


def _place(path: Path, option: str) -> Path:
    """Where `path` is, without links. Raises UserError when it is nowhere."""
    try:
        return path.resolve()
    except (RuntimeError, ValueError, OSError):  # a loop of links, a null byte
        raise UserError(f"{option}: {str(path)!r} is no path that can be: choose another {option}") from None


def _is_taken(out: Path) -> bool:
    return out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir())))


def _busy(out: Path, taken: Taken, option: str) -> UserError:
    return UserError(f"another process is writing {out} ({taken}): wait for it or choose another {option}")


def _made_from(inputs: Mapping[str, Any], version: str = __version__) -> dict[str, Any]:
    return {**json.loads(json.dumps(inputs)), "eaftgate": version}


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf by its path, `search.seed`."""
    if not isinstance(value, dict):
        return {name: value}
    return {
        path: leaf
        for key, part in value.items()
        for path, leaf in _flat(part, f"{name}.{key}" if name else key).items()
    }


def _differences(there: dict[str, Any], asked: dict[str, Any]) -> str:
    """What differs, in words; empty when nothing does."""
    names = [name for name in {**there, **asked} if there.get(name) != asked.get(name)]
    said = [_difference(name, there.get(name), asked.get(name)) for name in names[:_SHOWN]]
    return ", ".join(said + ([f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []))


def _difference(name: str, there: Any, asked: Any) -> str:
    if all(
        value is None or (isinstance(value, int | float | str) and len(str(value)) < 32) for value in (there, asked)
    ):
        return f"{name} is {_word(there)} there and {_word(asked)} here"
    return f"another {name}"


def _word(value: Any) -> str:
    return "not given" if value is None else str(value)


def _changed(out: Path, files: Mapping[str, MadeFile]) -> str | None:
    """Which of `files` is not in `out` as it was made."""
    for name, made in files.items():
        path = out / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != made.size or (made.sha256 is not None and sha256_file(path) != made.sha256):
            return f"{name} has changed"
    return None


def _record(payload: Path, inputs: Mapping[str, Any]) -> None:
    files = {}
    for path in sorted(_inside(payload)):
        if path.is_file():
            size = path.stat().st_size
            files[path.relative_to(payload).as_posix()] = MadeFile(
                size=size, sha256=sha256_file(path) if size <= HASHED_BYTES else None
            )
    write_model(payload / MADE_FROM_FILE, MadeFrom(eaftgate=__version__, inputs=dict(inputs), files=files))


def _exists(out: Path, option: str) -> UserError:
    return UserError(f"{out} already exists: choose another {option} or remove it")


def _is_ours(root: Path) -> bool:
    """Whether `root` holds nothing but what `build` puts there, or next to nothing: it was killed at once."""
    entries = [entry for entry in root.iterdir() if not _is_temporary(entry)]
    names = {entry.name for entry in entries} - {_LOCK}
    if any(entry.is_symlink() for entry in entries):
        return False
    return not names or (_REQUEST in names and names <= {_REQUEST, _STATE, _PAYLOAD})


def _is_temporary(path: Path) -> bool:
    """Whether it is what a killed process leaves of a file that it was writing, or of a directory."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def _take_up(work: Unfinished, request: Any) -> None:
    """Empty the directory, but for the payload and the state of the same request, without temporary files and links: no
    command of ours makes one."""
    wanted = {"digest": sha256_json(request)}
    if request is None or _read(work.root / _REQUEST) != wanted:
        shutil.rmtree(work.payload, ignore_errors=True)
        work.state.unlink(missing_ok=True)
        write_json(work.root / _REQUEST, wanted)
    work.payload.mkdir(exist_ok=True)
    for path in [*work.root.iterdir(), *_inside(work.payload)]:
        if path.is_symlink() or (_is_temporary(path) and not path.is_dir()):
            path.unlink(missing_ok=True)
        elif _is_temporary(path):
            shutil.rmtree(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_object(path, what="unfinished output")
    except UserError:
        return None


def _publish(work: Unfinished, out: Path) -> None:
    """Flush the payload to disk and give it its name."""
    for path in (*_inside(work.payload), work.payload):
        _sync(path)
    work.payload.rename(out)
    _sync(out.parent)


def _inside(directory: Path) -> Iterator[Path]:
    for place, directories, files in os.walk(directory):
        yield from (Path(place) / name for name in (*directories, *files))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
