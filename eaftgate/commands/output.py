"""What commands print on standard output: lines, JSON for scripts, tables that fit the terminal."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from eaftgate.tables import width_of
from eaftgate.visible import plain


def say(*lines: str) -> None:
    """Lines as they are: neither markup nor emoji nor escapes, whatever is in the names they hold."""
    for line in lines:
        typer.echo(plain(line))


def result(as_json: bool, value: Any, *lines: str) -> None:
    """The value for scripts, or the lines for people."""
    if as_json:
        typer.echo(json.dumps(value))
    else:
        say(*lines)


def made(as_json: bool, value: dict[str, Any], *lines: str, out: Path, was_there: bool) -> None:
    """The same of a command that makes `out`, which was there and is what it would have made, or has been made."""
    result(as_json, {**value, "up_to_date": was_there}, *([f"{out} is up to date"] if was_there else lines))


def show_whole(table: Table) -> None:
    """A terminal that is too narrow folds what is text; numbers are never cut. Elsewhere lines are as long as they need
    to be."""
    console, width = Console(), width_of(table)
    Console(width=max(console.width, width.minimum if console.is_terminal else width.maximum)).print(table)


def show(build: Callable[[Sequence[str]], Table], details: Sequence[str] = ()) -> None:
    """The same, but a terminal first does without as many of the columns `details` as it must; `build` makes the table
    without some."""
    console, left_out = Console(), 0
    while console.is_terminal and left_out < len(details):
        if width_of(build(details[:left_out])).maximum <= console.width:
            break
        left_out += 1
    show_whole(build(details[:left_out]))
    if left_out:
        say(f"left out for want of width: {', '.join(details[:left_out])}; --json has everything")
