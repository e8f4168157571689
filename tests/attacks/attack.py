"""An attack: an input made from a sound one, the command that meets it, and how that has to end."""

import importlib
import json
import pkgutil
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attacks import kinds

Expected = Literal["refused", "accepted", "negative"]
"""`refused`: exit code 2 and one sentence (4 from the gate, which is pytest); `accepted`: 0; `negative`: 1."""


@dataclass(frozen=True)
class Ended:
    """A command at its end; `out` is the terminal of the gate."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Box:
    """The directory of one attack, which is also the working directory; `sound` holds what is copied into it."""

    path: Path
    sound: Path

    @property
    def out(self) -> Path:
        """Where the command may write."""
        return self.path / "out"

    def base(self) -> Path:
        """A checkpoint of 8 experts in two shards."""
        return self.copy("base")

    def packs(self) -> Path:
        """A directory of two packs."""
        return self.copy("packs")

    def profile(self) -> Path:
        """The profile of `base` on `packs`."""
        return self.copy("profile")

    def pruned(self) -> Path:
        """`base` with 4 experts, by `profile`."""
        return self.copy("pruned")

    def run(self) -> Path:
        """A run directory with a parity.json and nothing else."""
        return self.copy("run")

    def copy(self, name: str) -> Path:
        path = self.path / name
        if not path.exists():
            shutil.copytree(self.sound / name, path)
        return path

    def file(self, name: str, content: bytes | str) -> Path:
        """A file in the box."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        return path


@dataclass(frozen=True)
class Attack:
    """`make` puts the input into a box and returns the words of the command, without `eaftgate`.

    `says` is what the sentence has to name: the file or the option. `then` looks at what has become of the box and says
    what is wrong with it, or nothing; a verdict that disagrees is its to find. `slow` is left to `make test-all`.
    """

    name: str
    make: Callable[[Box], Sequence[object]]
    expected: Expected = "refused"
    says: str = ""
    then: Callable[[Box, Ended], str] | None = None
    slow: bool = False


def all_kinds() -> dict[str, list[Attack]]:
    """The attacks of every module of attacks/kinds, by its name."""
    found: dict[str, list[Attack]] = {}
    for module in sorted(pkgutil.iter_modules(kinds.__path__), key=lambda module: module.name):
        attacks: Callable[[], Iterator[Attack]] = importlib.import_module(f"attacks.kinds.{module.name}").attacks
        found[module.name] = list(attacks())
    return found


def edited(path: Path, change: Callable[[Any], object]) -> Path:
    """`path`, a JSON file, with `change` made to its value."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path
