"""What tells, without reading a file again, that it is no longer the one that was read."""

from pathlib import Path

Stamp = list[int]
"""[size, mtime_ns, ctime_ns, inode], links followed; ctime moves even when an edit puts the mtime back."""


def stamp_of(path: Path) -> Stamp:
    """Raises OSError."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def stamp_if_there(path: Path) -> Stamp | None:
    try:
        return stamp_of(path)
    except OSError:
        return None
