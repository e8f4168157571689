"""Options that several commands share."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from eaftgate.errors import UserError
from eaftgate.model.device import check_dtype, check_named


def _checked(check: Callable[[str], None]) -> Callable[[str | None], str | None]:
    """A word is asked for even where nothing comes of it: a scorer runs no model."""

    def given(word: str | None) -> str | None:
        if word is not None:
            check(word)
        return word

    return given


BaseArgument = Annotated[str, typer.Argument(metavar="BASE", help="Checkpoint directory or hub id.")]
KeepNOption = Annotated[int | None, typer.Option(help="Experts to keep in every layer.")]
KeepFracOption = Annotated[float | None, typer.Option(help="The same as a share, rounded up to a multiple of 4.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Blocks a forward pass.")]
DeviceOption = Annotated[
    str | None,
    typer.Option(help="cpu, cuda or cuda:N; default: cuda when there is one.", callback=_checked(check_named)),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        help="float32 or bfloat16; default: float32 on a CPU, bfloat16 on a GPU.", callback=_checked(check_dtype)
    ),
]
MaxShardOption = Annotated[
    int, typer.Option(min=1, max=1_000_000, help="The most that a file of weights may take, in GB (1e9 bytes).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


class Alignment(StrEnum):
    PREDICTING = "predicting"
    TOKEN = "token"


def whole_numbers(option: str, text: str) -> list[int]:
    """Those of a list like 1024,2048. Raises UserError for what is none."""
    try:
        return [int(part.strip()) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} is {text!r}: it must be whole numbers, separated by commas") from None
