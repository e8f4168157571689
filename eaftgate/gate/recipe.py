"""The section `gate` of a recipe, converted by the definitions of the gate's own options."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from eaftgate.choices import listed
from eaftgate.errors import UserError
from eaftgate.recipes.recipe import read_section


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def gate_settings(recipe: Path, define: Callable[[Callable[..., object]], None]) -> dict[str, Any]:
    """The options that `recipe` says, by name. `define` adds every option that there is to an ArgumentParser.

    A list is an option given repeatedly, where it can be, and else its values with commas between. Raises UserError
    with file and line for an option that there is not, or a value that is none for it.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    actions: dict[str, str] = {}

    def add(option: str, *, action: str = "store", **settings: Any) -> None:
        actions[option.removeprefix("--").replace("-", "_")] = action
        if action == "store_true":  # on the command line it has no value, in a recipe it says true or false
            parser.add_argument(option, type=_true_or_false, help=settings["help"])
        else:
            parser.add_argument(option, action=action, **settings)

    define(add)
    del actions["recipe"]
    found = {}
    for name, setting in read_section(recipe, "gate").items():
        if name not in actions:
            raise UserError(f"{setting.where}: gate has no option {name!r}: it has {listed(actions, meant=name)}")
        values = [setting.value] if isinstance(setting.value, str) else setting.value
        if actions[name] != "append":
            values = [",".join(values)]
        elif not values:
            continue
        try:
            parsed = parser.parse_args([f"--{name.replace('_', '-')}={value}" for value in values])
        except UserError as error:
            raise UserError(f"{setting.where}: {error}") from None
        found[name] = getattr(parsed, name)
    return found


def _true_or_false(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} must be true or false")
    return text.lower() == "true"
