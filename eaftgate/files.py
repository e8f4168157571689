"""Writing files so that a reader sees either nothing or all of it, and hashing them."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eaftgate.errors import UserError

HASH_CHUNK_BYTES = 1 << 22
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without its name, which may be as long as a name can be.
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any) -> str:
    """NaN and infinity are refused, because a reader elsewhere would choke on them."""
    return json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    write_text(path, json_text(value))


def write_failure(error: Exception, out: Path, *, needs: str = "") -> UserError:
    """What to tell the user when writing `out` failed; `needs` may say how much space it takes.

    safetensors has the system's error number only in its text, and NumPy's cut-off write has none at all.
    """
    number = getattr(error, "errno", None)
    cut_off = isinstance(error, OSError) and number is None
    if number in NO_SPACE or cut_off or any(f"(os error {full})" in str(error) for full in NO_SPACE):
        return UserError(
            f"no space left for {out}{needs and f', {needs}'}; free some and run the same command again, "
            "what is finished is reused"
        )
    reason = getattr(error, "strerror", None) or str(error)
    where = getattr(error, "filename", None) or out
    return UserError(f"{where} failed while writing {out} ({reason}); correct it and run again")


@contextmanager
def write_failures(out: Path, needs: str = "") -> Iterator[None]:
    """Turns what the system says of a failing disk into a UserError about `out`, as `write_failure` words it."""
    try:
        yield
    except OSError as error:
        raise write_failure(error, out, needs=needs) from None


def is_regular(path: Path) -> bool:
    """Whether there is a regular file at `path`: nothing else (a FIFO, a device, a directory) is ever opened."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long or holds a NUL, a directory that may not be looked into
        return False


def read_regular(path: Path, *, what: str, limit: int, remedy: str = "") -> bytes:
    """The bytes of a regular file of at most `limit` bytes. `what` names it in the sentence, `remedy` may say what to
    do. Raises UserError."""
    end = remedy and f"; {remedy}"
    if not is_regular(path):
        shown = str(path)[:1000]
        raise UserError(
            f"{what} cannot be read: {shown} is no regular file{end}"
            if os.path.lexists(shown)
            else f"{what} is missing: there is no file {shown}{end}"
        )
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise UserError(f"{what} cannot be read: {path} ({error.strerror}); check its permissions") from None
    if len(data) > limit:
        raise UserError(f"{what} is larger than {limit} bytes: {path}{end}")
    return data


def sha256_file(path: Path, advance: Callable[[int], None] = lambda _: None) -> str:
    """`advance` gets the number of bytes of every piece that was read."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Content hash of a JSON value: the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
