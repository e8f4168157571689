"""How far a search has come, in a file beside its output, so that an interrupted one goes on where it was."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eaftgate.files import write_failure, write_json


def journal_path(out: Path) -> Path:
    """Where the search for what becomes `out` keeps its journal."""
    out = out.resolve()
    return out.with_name(f".{out.name}.search.json")


@dataclass(frozen=True)
class Journal:
    """`request` is every input of the search: the state that another one left is not taken up."""

    path: Path
    request: Mapping[str, Any]

    def read(self) -> dict[str, Any] | None:
        """The last state that was written; None without one, and for a file that is damaged or of another request."""
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            state = held["state"] if held["request"] == json.loads(json.dumps(self.request)) else None
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None
        return state if isinstance(state, dict) else None

    def write(self, state: Mapping[str, Any]) -> None:
        """Raises UserError when the file cannot be written."""
        try:
            write_json(self.path, {"request": self.request, "state": state})
        except OSError as error:
            raise write_failure(error, self.path) from None
