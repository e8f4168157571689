"""The command line: arguments in, one sentence out. The rooms do the work."""

import io
import signal
import sys
from threading import Timer, main_thread
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from eaftgate import __version__
from eaftgate.commands import gate, packs, profile, prune, publish, report, run, study, yardstick
from eaftgate.commands.examples import add_help, as_it_is
from eaftgate.errors import UserError
from eaftgate.prune.methods import AUTO, AUTO_MINUTES, DEFAULT_SCORER, METHODS, SEARCH
from eaftgate.recipes.command_line import UsageError, take_recipes, usage_sentence
from eaftgate.visible import check_encoded, sentence

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

app = typer.Typer(
    help="Remove experts from a gpt-oss checkpoint without training, and prove that the result is near-lossless.\n\n"
    "The way through: packs build -> packs split -> profile -> prune -> gate -> report; run does all of it by one "
    "recipe.",
    epilog=as_it_is("Examples:", ("eaftgate run gpt-oss-20b --dry-run", "eaftgate packs build --help")),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # its tables cut names of options where a terminal is narrow
)
app.add_typer(packs.COMMANDS, name="packs")
for group in (run, profile, prune, yardstick, gate, report, publish, study):
    app.add_typer(group.COMMANDS)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"eaftgate {__version__}")
        raise typer.Exit


take_recipes(app)
add_help(
    app,
    {
        "prune": (
            "Methods:",
            [
                f"{AUTO}: {SEARCH} where it takes {AUTO_MINUTES} min or less, else {DEFAULT_SCORER}; which, it says",
                *(f"{name}: {method.meaning}" for name, method in METHODS.items()),
            ],
        )
    },
)


def main() -> None:
    """Entry point. Exit codes: 1 a negative verdict, 2 something the user can put right, 130 interrupted."""
    sys.unraisablehook = _interrupt_again
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal's encoding lacks is written as an escape
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:]
    if arguments in ([], ["packs"]):
        app()  # prints the help
    try:
        for argument in arguments:
            check_encoded(argument, what="the argument")
        code = app(standalone_mode=False)
    except UserError as error:
        _refuse(str(error))
    except UsageError as error:
        _refuse(usage_sentence(error))
    except OSError as error:  # a place that cannot be written, a disk that is full
        where = f": {error.filename}" if error.filename else ""
        _refuse(f"{error.strerror or error}{where}; choose another place or make room, and run again")
    sys.exit(code)


def _interrupt_again(unraisable: "UnraisableHookArgs") -> None:
    """Ctrl-C that comes while a destructor runs is dropped there by Python, with a traceback, and the command would run
    on: it is given again, a moment later."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    again = Timer(0.05, signal.pthread_kill, (main_thread().ident, signal.SIGINT))
    again.daemon = True
    again.start()


def _refuse(reason: str) -> NoReturn:
    typer.echo(f"error: {sentence(reason)}", err=True)
    sys.exit(2)
