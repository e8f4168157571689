"""git-lfs pointers: a few lines of text that stand where a clone without git-lfs has a file."""

from pathlib import Path

from eaftgate.errors import UserError

_BEGINNING_BYTES = 64
_MAGIC = b"version https://git-lfs.github.com/spec/"


def check_no_pointer(beginning: bytes, path: Path) -> None:
    """Raises UserError when the file `path`, which begins with `beginning`, is a pointer to what it should hold."""
    if beginning.startswith(_MAGIC):
        raise UserError(f"{path} is a git-lfs pointer, not the file itself; run `git lfs pull` where it was cloned")


def check_file_no_pointer(path: Path) -> None:
    """The same of a file that nothing else has read yet."""
    with path.open("rb") as stream:
        check_no_pointer(stream.read(_BEGINNING_BYTES), path)
