"""Runs an attack in this process and says what was wrong with how it ended.

The gate is pytest, and runs in a process of its own.
"""

import gc
import hashlib
import multiprocessing.util
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import typer

from attacks.attack import Attack, Box, Ended

HANGS_AFTER_SECONDS = 10.0
MAX_GROWTH_BYTES = 700_000_000
"""Of the process, over an attack."""
_REFUSED = {"eaftgate": re.compile(r"error: [^\n]+\n"), "gate": re.compile(r"ERROR: [^\n]+\n")}
_CODES = {"refused": 2, "accepted": 0, "negative": 1}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGED = {
    "os.mkdir": [0], "os.rename": [0, 1], "os.remove": [0], "os.rmdir": [0], "os.link": [1], "os.symlink": [1],
    "os.truncate": [0], "os.chmod": [0],
}  # fmt: skip
"""Which arguments of an audit event are paths that it changes."""
_ELSEWHERE = ("__pycache__", "/matplotlib", "/pymp-")
"""What Python and libraries keep for themselves."""
_SCRATCH = "scratch"
"""In a box: temporary files, which nobody looks at."""


@dataclass(frozen=True)
class Problem:
    """`kind` is a column of the table in docs/."""

    kind: str
    said: str


class _Hung(BaseException):
    pass


def run(attack: Attack, box: Box) -> list[Problem]:
    """What is wrong; nothing when the attack ends as expected."""
    box.path.mkdir(parents=True)
    (box.path / _SCRATCH).mkdir()
    with _inside(box.path):
        words = [str(word) for word in attack.make(box)]
        before, size = _tree(box.path), _peak()
        started = time.monotonic()
        with _watched(box.path) as outside:
            ended = _gate(words, box) if words[0] == "gate" else _command(words)
        seconds = time.monotonic() - started
        found = list(_problems(attack, words, ended))
        if seconds >= HANGS_AFTER_SECONDS and words[0] != "gate":
            found = [Problem("hangs", f"it took {seconds:.0f} seconds")]
        changed = sorted(_without(before, box.out, attack) ^ _without(_tree(box.path), box.out, attack))
        if changed or outside:
            found.append(Problem("outside", f"written: {[*outside, *(entry[0] for entry in changed)][:6]}"))
        if _peak() - size > MAX_GROWTH_BYTES:
            found.append(Problem("hangs", f"it took {(_peak() - size) / 1e6:.0f} MB"))
        if attack.then is not None and (said := attack.then(box, ended)):
            found.append(Problem("disagree", said))
    return found


def _problems(attack: Attack, words: list[str], ended: Ended) -> Iterator[Problem]:
    gate = words[0] == "gate"
    said = f"exit code {ended.code}: {ended.out[-600:]}{ended.err[-1500:]}"
    text = ended.err + (ended.out if gate else "")
    if "Traceback" in text or "panicked" in text or "INTERNALERROR" in text:
        yield Problem("tracebacks", said)
        return
    wanted = 4 if gate and attack.expected == "refused" else _CODES[attack.expected]
    if ended.code != wanted:
        wrongly = "accepted_wrongly" if ended.code == 0 else "refused_wrongly"
        yield Problem(wrongly, f"expected {attack.expected}, {said}")
    elif attack.expected == "refused":
        if not _REFUSED["gate" if gate else "eaftgate"].fullmatch(ended.err) or (ended.out and not gate):
            yield Problem("not_one_sentence", said)
        elif attack.says not in ended.err:
            yield Problem("not_one_sentence", f"{attack.says!r} is not named, {said}")


def _command(words: list[str]) -> Ended:
    from eaftgate.commands import app as cli

    def hang(*_: Any) -> None:
        raise _Hung

    with _captured() as streams, warnings.catch_warnings(), patch.object(cli, "app", _command_line()):
        warnings.simplefilter("always")
        previous, argv = signal.signal(signal.SIGALRM, hang), sys.argv
        signal.setitimer(signal.ITIMER_REAL, HANGS_AFTER_SECONDS)
        code = 0
        try:
            sys.argv = ["eaftgate", *words]
            cli.main()
        except SystemExit as exit_info:
            code = int(exit_info.code or 0)
        except _Hung:
            code = -1
        except BaseException:  # a panic of a library in Rust is no Exception
            traceback.print_exc()
            code = 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
            sys.argv = argv
    gc.collect(0)
    return Ended(code, *(stream.decode("utf-8", "backslashreplace") for stream in streams))


@cache
def _command_line() -> Any:
    """What typer makes of the app anew each time it is called, which takes as long as most attacks."""
    from eaftgate.commands import app as cli

    return typer.main.get_command(cli.app)


def _gate(words: list[str], box: Box) -> Ended:
    from gate_command import start

    log = box.path / _SCRATCH / "gate.log"
    code, text = start("eaftgate", *words, log=log, directory=box.path).end()
    lines = [line for line in text.splitlines(keepends=True) if line.strip()]
    return Ended(code, text, "".join(line for line in lines if line.startswith("ERROR: ")))


@contextmanager
def _inside(path: Path) -> Iterator[None]:
    multiprocessing.util.get_temp_dir()  # of this process for good: not in a box, whose path is too long for a socket
    before, temporary = Path.cwd(), tempfile.tempdir
    os.chdir(path)
    tempfile.tempdir = str(path / _SCRATCH)
    try:
        yield
    finally:
        os.chdir(before)
        tempfile.tempdir = temporary


@contextmanager
def _captured() -> Iterator[list[bytes]]:
    """What is written to the two output streams, by whatever library, is in the list at the end."""
    found: list[bytes] = []
    streams = sys.stdout, sys.stderr
    kept = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = (
            open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            for number in (1, 2)
        )
        try:
            yield found
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            sys.stdout, sys.stderr = streams
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
            for file in (out, err):
                file.seek(0)
                found.append(file.read())


_watching: list[tuple[str, list[str]]] = []
"""The box of the attack that runs, and what was written outside of it."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "socket.connect" and isinstance(arguments[1], tuple):  # else it is one of this machine's own
        _watching[-1][1].append(f"connection to {arguments[1]!r}")
    elif event == "open" and arguments[2] & _WRITING:
        _note(arguments[0])
    elif event in _CHANGED:
        for place in _CHANGED[event]:
            _note(arguments[place])


def _note(path: object) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        return
    box, outside = _watching[-1]
    text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 (links stay what they are)
    if not (text == box or text.startswith((f"{box}/", "/dev/")) or any(part in text for part in _ELSEWHERE)):
        outside.append(text)


sys.addaudithook(_audit)


@contextmanager
def _watched(box: Path) -> Iterator[list[str]]:
    outside: list[str] = []
    _watching.append((str(box), outside))
    try:
        yield outside
    finally:
        _watching.pop()


def _tree(directory: Path) -> set[tuple[str, str]]:
    """Every entry of a directory, and what it is."""
    found: set[tuple[str, str]] = set()
    for place, directories, files in os.walk(directory):
        if Path(place) == directory:
            directories.remove(_SCRATCH)
        for name in (*directories, *files):
            path = Path(place, name)
            if path.is_symlink():
                kind = f"link to {path.readlink()}"
            elif path.is_file():
                stat = path.stat()
                # Not when it was last read, which a command may do.
                content = path.read_bytes() if stat.st_size < 1 << 24 else f"{stat.st_size} {stat.st_mtime_ns}".encode()
                kind = hashlib.sha256(content).hexdigest()
            else:
                kind = oct(path.lstat().st_mode)
            found.add((os.path.relpath(path, directory), kind))
    return found


def _without(tree: set[tuple[str, str]], out: Path, attack: Attack) -> set[tuple[str, str]]:
    """What must stay as it is: all of it where the input is refused, and else all but the output."""
    if attack.expected == "refused":
        return tree
    return {entry for entry in tree if entry[0].split("/")[0].strip(".").split(".")[0] != out.name}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
