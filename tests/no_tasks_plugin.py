"""Of the harness, in a gate: it knows no task. To read which it knows takes seconds."""

from eaftgate.errors import UserError
from eaftgate.tasks.harness import Harness


def _none(_: Harness, task: str) -> None:
    raise UserError(f"there is no task {task!r}")


setattr(Harness, "check", _none)  # noqa: B010 (a method is not assigned to)
