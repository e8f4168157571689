"""`eaftgate gate`: the suite on the command line of pytest, from any directory."""

import argparse
import os
import shutil
import textwrap
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from eaftgate.commands.examples import EXAMPLES
from eaftgate.gate.junit import forget_earlier
from eaftgate.gate.options import gate_options

COMMANDS = typer.Typer()
ALSO = (
    "Every option of pytest may be given, too: --junitxml=FILE, -n 2 (parallel processes), -k EXPRESSION, -x, -q. "
    "`pytest --pyargs eaftgate.suite ...` is the same, and so is `pytest gates/ ...` in a clone. "
    "Exit codes are pytest's: 0 only when every planned deciding case ran and passed, 1 failed or could not be "
    "evaluated, 4 usage."
)


class PassedOn(TyperCommand):
    """A command whose arguments are not read but handed on as they are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return []


@COMMANDS.command(cls=PassedOn, add_help_option=False)
def gate(ctx: typer.Context) -> int:
    """Judge checkpoints against their base: pytest on eaftgate's suite, with all of pytest's options."""
    if {"-h", "--help"} & set(ctx.args):
        _print_help()
        return 0
    import pytest

    forget_earlier(ctx.args, within=Path.cwd())  # pytest refuses some of what is mistyped before it loads the plugin
    # The plugin by name, for where entry points are not loaded; pytest would warn if it had been imported before.
    # What the gate leaves behind is in --results alone. A project's ini file is not even read.
    plugins = ["-p", "eaftgate.gate.plugin", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    place = ["-c", os.devnull, "--rootdir", "."]
    return int(pytest.main([*plugins, *place, "--pyargs", "eaftgate.suite", *ctx.args]))


def _print_help() -> None:
    parser = argparse.ArgumentParser(
        prog="eaftgate gate",
        usage="eaftgate gate [OPTIONS] [OPTIONS OF pytest]",
        description=_filled(gate.__doc__ or ""),
        epilog="\n  ".join([f"{_filled(ALSO)}\n\nexamples:", *EXAMPLES["gate"]]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    gate_options(parser.add_argument)
    parser.add_argument("-h", "--help", action="store_true", help="show this message and exit")
    parser.print_help()


def _filled(text: str) -> str:
    """As wide as argparse has it."""
    return textwrap.fill(text, shutil.get_terminal_size().columns - 2)
