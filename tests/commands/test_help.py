"""--help teaches: an example of every command, which works as far as its options go, and every method in words, in a
terminal of 60 columns, too."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from cli_command import Command
from docs.test_commands_shown import problems, shown_commands
from reference import commands

from eaftgate.commands import app as cli
from eaftgate.commands.examples import EXAMPLES
from eaftgate.prune.methods import METHODS

COLUMNS = 60


def test_every_command_has_an_example() -> None:
    assert EXAMPLES.keys() == commands().keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_a_command_line_that_there_is(name: str) -> None:
    text = "".join(f"    {line}\n" for line in EXAMPLES[name])
    found = list(shown_commands(text))
    assert found
    for words in found:
        assert words[: 1 + len(name.split())] == ["eaftgate", *name.split()]
        assert problems(words) == []


def test_an_option_that_there_is_not_would_be_seen() -> None:
    (words,) = shown_commands("    eaftgate prune BASE --kepe-n 24\n")
    assert problems(words) == [f"{shlex.join(words)}: no option --kepe-n"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_help_fits_60_columns_with_examples_unbroken(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setattr("sys.argv", ["eaftgate", *name.split(), "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().out
    lines = [line.rstrip() for line in said.splitlines()]
    assert max(map(len, lines)) <= COLUMNS
    assert "…" not in said
    taken = {option for parameter in commands()[name].params for option in parameter.opts if option.startswith("--")}
    assert all(re.search(rf"(?<![\w-]){option}(?![\w-])", said) for option in taken)
    shown = [line.strip() for line in lines]
    begin = shown.index(EXAMPLES[name][0])
    assert shown[begin : begin + len(EXAMPLES[name])] == [line.strip() for line in EXAMPLES[name]]


def test_options_with_a_metavar_say_their_name() -> None:
    """typer 0.27 takes the metavar for the name of one that does not."""
    sources = Path(cli.__file__).parent.parent.rglob("*.py")
    calls = [call for path in sources for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(call, ast.Call) and ast.unparse(call.func) == "typer.Option"
             and any(keyword.arg == "metavar" for keyword in call.keywords)]  # fmt: skip
    assert calls
    assert [ast.unparse(call) for call in calls if not call.args] == []


def test_the_methods_of_prune_are_explained(eaftgate: Command) -> None:
    said = eaftgate("prune", "--help").out
    for name, method in METHODS.items():
        assert method.meaning
        assert f"{name}: {method.meaning}" in " ".join(said.split())


@pytest.mark.parametrize("arguments", [(), ("packs",)])
def test_what_only_lists_commands_has_examples_too(eaftgate: Command, arguments: tuple[str, ...]) -> None:
    said = eaftgate(*arguments, "--help").out
    found = list(
        shown_commands("".join(f"    {line.strip()}\n" for line in said.partition("Examples:")[2].splitlines()))
    )
    assert len(found) > 1
    assert [problems(words) for words in found] == [[]] * len(found)


def test_the_list_of_commands_says_each_one_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setattr("sys.argv", ["eaftgate", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= COLUMNS
    assert "..." not in said.replace("[ARGS]...", "")
    assert "in one directory." in " ".join(said.split())
