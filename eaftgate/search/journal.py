"""How far a search has come, in a file beside its output, so that an interrupted one goes on where it was."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from eaftgate.errors import UserError
from eaftgate.files import write_failure
from eaftgate.records import Record, is_as_sealed, read_model, write_model

State = TypeVar("State")

REVISION = 8
"""Raised with every change by which the same inputs may give other experts: what was left by then is begun anew."""


def journal_path(out: Path) -> Path:
    """Where the search for what becomes `out` keeps its journal."""
    out = out.resolve()
    return out.with_name(f".{out.name}.search.json")


class _File(Record):
    request: dict[str, Any]
    state: Any


@dataclass(frozen=True)
class Journal:
    """`request` is every input of the search: the state that another one left is not taken up, nor that of a search of
    another REVISION. `kept` is called when a state is written. Raises UserError where none can be: nothing is searched
    for hours first."""

    path: Path
    request: Mapping[str, Any]
    kept: Callable[[], None] = field(default=lambda: None, compare=False)

    def __post_init__(self) -> None:
        if self.path.is_dir():
            raise UserError(f"{self.path} is a directory, where a search keeps how far it has come: remove it")

    @property
    def _told(self) -> dict[str, Any]:
        return {**self.request, "search": REVISION}

    def read(self, model: type[State]) -> State | None:
        """The last state that was written, an instance of `model`; None without one, and for a file that is damaged or
        of another request."""
        try:
            held = self._held()
            return None if held is None else TypeAdapter(model).validate_json(json.dumps(held.state), strict=True)
        except ValidationError:
            return None

    @property
    def is_taken_up(self) -> bool:
        """Whether there is an undamaged file, of this very request and REVISION."""
        return self._held() is not None

    @property
    def of_another(self) -> bool:
        """Whether there is a file that is not taken up: damaged, of another request, or of another REVISION."""
        return self.path.exists() and not self.is_taken_up

    def _held(self) -> _File | None:
        try:
            held = read_model(self.path, _File, what="journal", remedy="")
        except UserError:
            return None
        return held if held.request == json.loads(json.dumps(self._told)) and is_as_sealed(self.path) else None

    def write(self, state: object) -> None:
        """Raises UserError when the file cannot be written."""
        told = TypeAdapter(type(state)).dump_python(state, mode="json")
        try:
            write_model(self.path, _File(request=self._told, state=told), sealed=True)
        except OSError as error:
            raise write_failure(error, self.path) from None
        self.kept()
