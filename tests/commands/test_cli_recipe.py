"""Recipes on the command line: every option of every command may come from one, and the command line wins."""

from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from cli_command import Command, refused
from gate_command import BASE, CALIBRATION_PACKS, ROOT

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.commands import app as cli
from eaftgate.errors import UserError
from eaftgate.gate.options import gate_options
from eaftgate.gate.recipe import gate_settings
from eaftgate.judge.policy import load_gates
from eaftgate.profile.profile import Profile
from eaftgate.prune.checkpoint import PruneRequest, prune_checkpoint
from eaftgate.recipes.command_line import recipe_names
from eaftgate.recipes.recipe import SECTIONS, read_sections
from eaftgate.rewrite.integrity import check_artifact
from eaftgate.rewrite.manifest import read_manifest
from eaftgate.select.saliency import EaftWeights
from eaftgate.select.scores import open_scores

CHOICES = {
    "method": ("reap", "ean"),
    "alignment": ("token", "predicting"),
    "template": ("openai-harmony", "checkpoint"),
    "preamble": ("effort", "none"),
    "reasoning_effort": ("low", "high"),
    "analysis": ("served", "keep"),
    "device": ("cpu", "cuda:1"),
    "dtype": ("float32", "bfloat16"),
}
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))


def commands() -> dict[str, Any]:
    """Every command of the real command line that takes --recipe from RecipeCommand, by its full name."""
    root: Any = typer.main.get_command(cli.app)
    found = {}
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        found.update({name: command} if inner is None else {f"{name} {key}": value for key, value in inner.items()})
    del found["gate"]  # reads the recipe itself: tests/gate/test_gate_recipe.py
    return found


def resolved(name: str, arguments: list[str]) -> dict[str, Any]:
    """The parameters that the command would run with."""
    context: Any = typer.main.get_command(cli.app).make_context("eaftgate", [name.split()[0], "x"])
    for part in name.split():
        command = context.command.commands[part]
        last = part == name.split()[-1]
        context = command.make_context(part, list(arguments) if last else [name.split()[-1]], parent=context)
    parameters: dict[str, Any] = context.params
    return parameters


def test_the_sections_are_the_commands() -> None:
    assert set(SECTIONS) == {*commands(), "gate"}


@pytest.mark.parametrize("name", [name for name in commands() if name != "run"])  # it names its recipe: tests/stages
def test_every_option_may_come_from_a_recipe_and_the_command_line_wins(name: str, tmp_path: Path) -> None:
    options: dict[str, list[Any]] = {}
    arguments: dict[str, list[list[str]]] = {}
    for option, parameter in recipe_names(commands()[name]).items():
        first = {"is_flag": "true"} if getattr(parameter, "is_flag", False) else {}
        options[option] = [True] if first else list(CHOICES.get(option, ("7", "8")))
        dashed = [f"--{option.replace('_', '-')}"] if parameter.param_type_name == "option" else []
        arguments[option] = [dashed if first else [*dashed, value] for value in options[option]]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({name: {option: values[0] for option, values in options.items()}}))
    given = ["--recipe", str(recipe)]
    said = resolved(name, [text for texts in arguments.values() for text in texts[0]])
    assert resolved(name, given) == said
    assert all(value is not None for value in said.values())
    other = [text for texts in arguments.values() for text in texts[-1]]
    assert resolved(name, [*given, *other]) == resolved(name, other)
    assert resolved(name, other) != said
    # Dashes or underscores, a list where values are separated by commas.
    recipe.write_text(yaml.safe_dump({name: {o.replace("_", "-"): values[0] for o, values in options.items()}}))
    assert resolved(name, given) == said


def test_a_list_is_values_with_commas_or_a_repeated_option(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("sweep: {base: b, profile: p, packs: q, out: o, keep_n: [24, 20], vary: ['good=0,1', seed=1]}")
    found = resolved("sweep", ["--recipe", str(recipe)])
    assert (found["keep_n"], list(found["vary"])) == ("24,20", ["good=0,1", "seed=1"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cost: {keepn: 24}", ":1: cost has no option 'keepn': it has base, keep_n"),
        ("cost: {recipe: x}", ":1: cost has no option 'recipe'"),
        ("cost:\n  regime: fixture\n  keep_n: many", ":3: Invalid value for '--keep-n'"),
        ("cost: {keep_n: [24, 20]}", ":1: Invalid value for '--keep-n'"),
        ("cost: {json: perhaps}", ":1: Invalid value for '--json'"),
        ("cots: {keep_n: 24}", ":1: 'cots' is no command"),
    ],
)
def test_what_a_recipe_gets_wrong_is_one_sentence(eaftgate: Command, tmp_path: Path, text: str, said: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    refused(eaftgate("cost", BASE, "--recipe", recipe), f"{recipe}{said}")


def test_a_mistake_on_the_command_line_is_not_laid_on_the_recipe(eaftgate: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("cost: {keep_n: 24}")
    ended = eaftgate("cost", BASE, "--recipe", recipe, "--keep-n", "many")
    refused(ended, "Invalid value for '--keep-n'")
    assert "recipe.yaml" not in ended.err
    refused(eaftgate("cost", "--recipe", recipe), "Missing argument 'BASE'")
    refused(eaftgate("cost", BASE, "--recipe", tmp_path / "none.yaml"), "none.yaml")


@pytest.mark.parametrize("recipe", SHIPPED, ids=lambda path: path.name)
def test_shipped_recipes_fit_the_real_commands(recipe: Path) -> None:
    sections = list(read_sections(recipe))
    for name in sections:
        if name == "run" or "run" in sections:
            continue  # tests/stages: options of its stages are filled in
        if name == "gate":
            said = gate_settings(recipe, gate_options)
            load_gates().policy(said["policy"])
            load_gates().regime(said.get("regime", "bigblocks"))
        else:
            assert resolved(name, ["BASE", "--recipe", str(recipe)])["out_dir"]
    assert sections


def test_the_shipped_recipes_are_there() -> None:
    names = {"reap-recipe.yaml", "eval-base.yaml", "eval-bigblocks.yaml", "eval-longseq-1m.yaml"}
    assert {path.name for path in SHIPPED} >= names


# A pruned checkpoint carries the recipe and the scores that made it.


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def ran(eaftgate: Command, *arguments: object) -> None:
    ended = eaftgate(*arguments)
    assert ended.code == 0, ended.err


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


SMALL = ("--packs", CALIBRATION_PACKS, "--num-rows", 6, "--seq-len", 64, "--device", "cpu")


@pytest.mark.parametrize(
    "options",
    [
        ("--keep-n", 24, "--w-good", "1.5", "--alignment", "predicting"),
        ("--keep-frac", 0.7, "--method", "worst-pack", "--allow-any-keep-n"),
        ("--keep-n", 20, "--method", "random", "--seed", 5),
        ("--keep-n", 20, "--method", "greedy", "--packs", CALIBRATION_PACKS, "--max-positions", 100,
         "--batch-size", 4, "--device", "cpu"),
        ("--keep-n", 32),
    ],
    ids=lambda options: "-".join(str(option).strip("-") for option in options[:4]),
)  # fmt: skip
def test_the_recipe_of_a_checkpoint_makes_it_again_bit_for_bit(
    eaftgate: Command, work: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    """From nothing but the recipe: base and packs are in it, and none of the options is left to a default."""
    if not (work / "profile").exists():
        more = ("--seed", 11, "--batch-size", 8, "--alignment", "token")
        ran(eaftgate, "profile", BASE, *SMALL, *more, "--out", work / "profile")
    ran(eaftgate, "prune", BASE, "--profile", work / "profile", *options, "--out", tmp_path / "first")
    recipe = tmp_path / "first" / "reap-recipe.yaml"
    if not (work / "again").exists():
        ran(eaftgate, "profile", "--recipe", recipe, "--out", work / "again")
    ran(eaftgate, "prune", "--recipe", recipe, "--profile", work / "again", "--out", tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    base, made = open_checkpoint(BASE), open_checkpoint(tmp_path / "first")
    manifest = read_manifest(made.path)
    assert check_artifact(made, base, manifest) == []
    assert "reap-recipe.yaml" in manifest.files
    scored = "weights" in manifest.provenance
    assert {"reap-scores.yaml", "reap-scores.npz"} & set(manifest.files) == (
        {"reap-scores.yaml", "reap-scores.npz"} if scored else set()
    )
    assert str(work) not in recipe.read_text()


def test_a_rewrite_without_a_profile_has_a_recipe_too(eaftgate: Command, tmp_path: Path) -> None:
    ran(eaftgate, "prune", BASE, "--keep-n", 32, "--out", tmp_path / "first")
    assert yaml.safe_load((tmp_path / "first" / "reap-recipe.yaml").read_text()) == {
        "prune": {"base": str(BASE), "keep_n": 32}
    }
    ran(eaftgate, "prune", "--recipe", tmp_path / "first" / "reap-recipe.yaml", "--out", tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_a_changed_recipe_is_found(eaftgate: Command, tmp_path: Path) -> None:
    ran(eaftgate, "prune", BASE, "--keep-n", 32, "--out", tmp_path / "out")
    with (tmp_path / "out" / "reap-recipe.yaml").open("a") as stream:
        stream.write("# and more\n")
    made = open_checkpoint(tmp_path / "out")
    (problem,) = check_artifact(made, open_checkpoint(BASE), read_manifest(made.path))
    assert "reap-recipe.yaml" in problem


@pytest.fixture(scope="module")
def scored(work: Path, profile: Profile) -> Path:
    base = open_checkpoint(BASE)
    prune_checkpoint(base, checkpoint_digest(base), profile, PruneRequest(keep_n=24, method="reap"), work / "scored")
    return work / "scored" / "reap-scores.yaml"


@pytest.mark.parametrize(
    ("method", "weighed"),
    [
        ("eaft-reap", ()),
        ("eaft-reap", ("--class-weight", "balanced")),
        ("reap", ("--class-weight", "call=8,header=4,final=0")),
        ("eaft-reap-pack-core", ()),
        ("worst-pack", ("--class-weight", "balanced,call=3")),
        ("random", ()),
    ],
)
def test_cutting_from_scores_equals_cutting_from_the_profile(
    eaftgate: Command, scored: Path, profile: Profile, tmp_path: Path, method: str, weighed: tuple[str, ...]
) -> None:
    """Another keep_n, method and weights than the checkpoint's whose scores they are; every file of it."""
    options = ("--keep-n", 20, "--method", method, "--w-conflict", "-1", *weighed)
    ran(eaftgate, "prune", BASE, "--scores", scored, *options, "--out", tmp_path / "scores")
    ran(eaftgate, "prune", BASE, "--profile", profile.path, *options, "--out", tmp_path / "profile")
    assert contents(tmp_path / "scores") == contents(tmp_path / "profile")


def test_scores_refuse_what_they_cannot_say(eaftgate: Command, scored: Path, profile: Profile, tmp_path: Path) -> None:
    def prune(*options: object) -> Any:
        return eaftgate("prune", BASE, "--scores", scored, "--keep-n", 20, "--out", tmp_path / "out", *options)

    refused(prune("--alignment", "token"), "--scores are for --alignment predicting")
    refused(prune("--profile", profile.path), "leave one of them out")
    refused(prune("--class-weight", "call=2,type_power=1"), "--scores hold sums for type_power 0, 0.75")
    refused(prune("--method", "greedy"), "needs --packs")
    refused(prune("--method", "greedy", "--packs", CALIBRATION_PACKS), "needs --profile")
    smaller = eaftgate("prune", scored.parent, "--scores", scored, "--keep-n", 20, "--out", tmp_path / "out")
    refused(smaller, "of another checkpoint")
    assert not (tmp_path / "out").exists()
    base, request = open_checkpoint(BASE), PruneRequest(keep_n=20, weights=EaftWeights(low_quantile=0.2))
    with pytest.raises(UserError, match=r"quantile 0\.15"):
        prune_checkpoint(base, checkpoint_digest(base), None, request, tmp_path / "out", scores=open_scores(scored))
