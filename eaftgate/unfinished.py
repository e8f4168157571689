"""A directory that is being built, `.NAME.partial` beside its place:

.NAME.partial/lock            one process builds at a time
              request.json    what is being built, as a digest
              state.json      for whoever takes up what is there, if that needs more than the payload
              payload/        becomes NAME
"""

from dataclasses import dataclass
from pathlib import Path

_LOCK, _REQUEST, _STATE, _PAYLOAD = "lock", "request.json", "state.json", "payload"


@dataclass(frozen=True)
class Unfinished:
    """The directory `.NAME.partial`."""

    root: Path

    @property
    def lock(self) -> Path:
        return self.root / _LOCK

    @property
    def request(self) -> Path:
        return self.root / _REQUEST

    @property
    def state(self) -> Path:
        return self.root / _STATE

    @property
    def payload(self) -> Path:
        return self.root / _PAYLOAD

    @property
    def is_ours(self) -> bool:
        """Whether it holds nothing but what is put there, or next to nothing: it was killed at once."""
        entries = [entry for entry in self.root.iterdir() if not is_temporary(entry)]
        names = {entry.name for entry in entries} - {_LOCK}
        if any(entry.is_symlink() for entry in entries):
            return False
        return not names or (_REQUEST in names and names <= {_REQUEST, _STATE, _PAYLOAD})


def unfinished(out: Path) -> Unfinished:
    """Of the output `out`."""
    out = out.resolve()
    return Unfinished(out.with_name(f".{out.name}.partial"))


def is_temporary(path: Path) -> bool:
    """Whether it is what a killed process leaves of a file that it was writing, or of a directory."""
    return path.name.startswith(".") and path.suffix == ".tmp"
