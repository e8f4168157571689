"""Commands that documents show exist, with the options that they show."""

import re
import shlex
from collections.abc import Iterator

import pytest
import reference
import tables

from eaftgate.recipes.recipe import SHIPPED

OF_PYTEST = {"--junitxml", "--pyargs", "--rootdir", "-c", "-k", "-n", "-p", "-q", "--benchmark-json"}
OF_TYPER = {"--help", "-h", "--version", "--install-completion", "--show-completion"}
_CODE = re.compile(r"^(?: {4}(?P<indented>.+)|`{3}.*\n(?P<fenced>(?s:.*?))^`{3})|`(?P<inline>[^`\n]+)`", re.MULTILINE)
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S* ")


def shown_commands(text: str) -> Iterator[list[str]]:
    """The words of everything in code that could be a command line, without assignments, comments and brackets."""
    for code in _CODE.finditer(re.sub(r" *\\\n\s*", " ", text)):
        for line in next(filter(None, code.groups())).splitlines():
            for part in re.split(r"&&|;|\|", re.sub(r"(^|\s)#.*", "", line)):
                command = part.strip().replace("[", "").replace("]", "")
                while match := _ASSIGNMENT.match(command):
                    command = command[match.end() :]
                try:
                    words = shlex.split(command)
                except ValueError:  # prose with an apostrophe
                    continue
                if words:
                    yield words


def problems(words: list[str]) -> list[str]:
    """What is wrong with a command line of eaftgate, pytest, make or a script; nothing for all others."""
    said = " ".join(words)
    if "-m" in words[1:] and words[0] in ("python", "torchrun"):
        words = words[words.index("-m") + 1 :]
    options = {word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)}
    match words:
        case ["eaftgate", *rest]:
            named = [name for name in reference.commands() if rest[: len(name.split())] == name.split()]
            groups = {name.split()[0] for name in reference.commands()}
            if not named and rest and re.match(r"[a-z]", rest[0]) and rest[0] not in groups:
                return [f"{said}: no such command"]
            known = OF_TYPER | {option for name in named for option in reference.options_of(name)}
            known |= OF_PYTEST if named == ["gate"] else set()
        case ["pytest", *_]:
            known = OF_PYTEST | reference.options_of("gate")
            if "benchmarks" in words:
                known |= set(re.findall(r'option\(\s*"(--[\w-]+)"', text_of("benchmarks/conftest.py")))
        case ["make", target, *_] if re.fullmatch(r"[a-z-]+", target):
            return [] if re.search(rf"^{target}:", text_of("Makefile"), re.MULTILINE) else [f"{said}: no such target"]
        case ["python" | "python3", script, *_] if script.endswith(".py"):
            return [] if (tables.ROOT / script).is_file() else [f"{said}: no such script"]
        case _:
            return []
    named = re.findall(r"--recipe[= ]([\w-]+)(?= |$)", said)
    unknown = [name for name in named if not (SHIPPED / f"{name}.yaml").is_file() and name.islower()]
    return [
        *(f"{said}: no option {option}" for option in sorted(options - known)),
        *(f"{said}: no shipped recipe {name}" for name in unknown),
    ]


def text_of(name: str) -> str:
    return (tables.ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("document", [str(path.relative_to(tables.ROOT)) for path in tables.documents()])
def test_commands_that_are_shown_exist(document: str) -> None:
    assert [problem for words in shown_commands(text_of(document)) for problem in problems(words)] == []


def test_commands_are_found_in_blocks_fences_and_lines() -> None:
    text = "Say `eaftgate cost BASE`:\n\n    A=1 pytest gates/ \\\n      --seed=1  # so\n\n"
    text += "```\nmake gate && make test\n```\n"
    assert list(shown_commands(text)) == [
        ["eaftgate", "cost", "BASE"],
        ["pytest", "gates/", "--seed=1"],
        ["make", "gate"],
        ["make", "test"],
    ]


@pytest.mark.parametrize(
    "line",
    [
        "eaftgate bake BASE",
        "eaftgate cost BASE --keepn 24",
        "eaftgate packs split DIR --keep-n 24",
        "torchrun --nproc-per-node=2 -m eaftgate profile BASE --keep-n 24",
        "pytest gates/ --chekpoint=keep24",
        "pytest benchmarks --modle=DIR",
        "eaftgate gate --recipe=eval-smallblocks",
        "make goat",
        "python docs/no_such_script.py",
    ],
)
def test_a_command_that_is_not_there_is_seen(line: str) -> None:
    assert len(problems(shlex.split(line))) == 1


def test_what_is_there_is_not_complained_about() -> None:
    for line in (
        "eaftgate --version",
        "eaftgate packs",
        "eaftgate COMMAND --help",
        "pytest gates/ -n 2 --seed=1",
        "ls",
    ):
        assert problems(shlex.split(line)) == []
