"""--recipe on the command line: what is not said there comes from the recipe's section of the command's name."""

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from eaftgate.choices import did_you_mean, listed
from eaftgate.errors import UserError
from eaftgate.recipes.recipe import Setting, read_section

UsageError: type[Exception] = typer.BadParameter.mro()[1]
"""click's, of which newer versions of typer carry their own copy."""
_SETTINGS = "eaftgate.recipes.recipe"
"""Where a (click) context keeps the settings that came from a recipe, by parameter."""


_NO_CHOICE = re.compile(r"'([^']*)' is not one of (.*)", re.DOTALL)


def usage_sentence(error: Any) -> str:
    """What a UsageError says, and what a value that is no choice was meant to be."""
    said = str(error.format_message()).replace("Value error, ", "")
    found = _NO_CHOICE.search(said)
    choices = re.findall(r"'([^']*)'", found[2]) if found else []
    return f"{said.rstrip('.')}{did_you_mean(found[1], choices)}" if found else said


def take_recipes(app: typer.Typer) -> None:
    """Give every command of `app` and of the groups in it --recipe, but for those of a class of their own."""
    for command in app.registered_commands:
        if command.cls in (None, TyperCommand):
            command.cls = RecipeCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            take_recipes(group.typer_instance)


def recipe_names(command: Any) -> dict[str, Any]:
    """Parameters of a (click) command by their names in a recipe: the long option, or what --help calls an argument."""
    names = {}
    for parameter in command.params:
        long = [name.removeprefix("--") for name in parameter.opts if name.startswith("--")]
        names[(long[0] if long else parameter.metavar.lower().rstrip(".")).replace("-", "_")] = parameter
    del names["recipe"]
    return names


class RecipeCommand(TyperCommand):
    """A command that takes --recipe. Its values are click's defaults, so that the command line wins over them."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        if all(parameter.name != "recipe" for parameter in self.params):  # run names its recipe first of all
            self.params.append(_recipe_option())

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises UserError when a value of the recipe is none for its option; it names file and line."""
        _check_not_empty(args)
        try:
            rest = super().parse_args(ctx, args)
            _check_values(ctx)
            return rest
        except UsageError as error:
            said: Any = error
            name = getattr(getattr(said, "param", None), "name", "")
            setting: Setting | None = ctx.meta.get(_SETTINGS, {}).get(name)
            if setting is None or ctx.get_parameter_source(name).name != "DEFAULT_MAP":
                raise
            raise UserError(f"{setting.where}: {usage_sentence(said)}") from None


def _check_values(ctx: Any) -> None:
    """Raises UsageError for what no option takes: NaN, infinity, a whole number beyond 64 bits."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name)
        if source is None or source.name == "DEFAULT":
            continue
        value = ctx.params.get(parameter.name)
        for one in value if isinstance(value, list | tuple) else [value]:
            if problem := _problem(one):
                raise typer.BadParameter(problem, ctx=ctx, param=parameter)


def _problem(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no finite number."
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return f"{str(value)[:40]} is too large a number."
    return ""


def _check_not_empty(args: list[str]) -> None:
    """Raises UserError: an empty path is the working directory to pathlib, and an empty name would be a default."""
    for before, text in pairwise(["", *args]):
        if not text or (text.startswith("--") and text.endswith("=")):
            name = text.removesuffix("=") or (before if before.startswith("-") else "a word of the command line")
            raise UserError(f"{name} is empty: give a value, or leave it out")


def _recipe_option() -> Any:
    """typer makes parameters out of functions only."""
    probe = typer.Typer(add_completion=False)

    @probe.command()
    def takes(
        recipe: Annotated[
            Path | None,
            typer.Option(
                "--recipe",
                metavar="FILE",
                help="YAML file, or the name of a shipped one, with options that are not given here.",
                is_eager=True,
                expose_value=False,
                callback=use_recipe,
            ),
        ] = None,
    ) -> None:
        """Never run."""

    return typer.main.get_command(probe).params[0]


def use_recipe(ctx: typer.Context, recipe: Path | None) -> None:
    """What the recipe says of the command of `ctx` is what it takes where the command line says nothing."""
    if recipe is None:
        return
    at: Any = ctx
    path: list[str] = []
    while at.parent is not None:
        path.insert(0, at.info_name)
        at = at.parent
    command = " ".join(path)
    names = recipe_names(ctx.command)
    settings: dict[str, Setting] = {}
    ctx.default_map = {}
    for option, setting in read_section(recipe, command).items():
        if setting.value == "":
            raise UserError(f"{setting.where}: {option} is empty: give a value, or leave it out")
        if option not in names:
            raise UserError(
                f"{setting.where}: {command} has no option {option!r}: it has {listed(names, meant=option)}"
            )
        parameter = names[option]
        settings[parameter.name] = setting
        ctx.default_map[parameter.name] = _as_given(setting.value, parameter)
    ctx.meta[_SETTINGS] = settings


def _as_given(value: str | list[str], parameter: Any) -> str | list[str]:
    """A list is an option given repeatedly, where it can be, and else its values with commas between."""
    if getattr(parameter, "multiple", False) or parameter.nargs == -1:
        return [value] if isinstance(value, str) else value
    return value if isinstance(value, str) else ",".join(value)
