"""Keep sets from a file: what is read, what is refused, and that the checkpoint is the one of whoever chose them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_command import Command, refused
from gate_command import BASE, GATE_PACKS
from tiny_checkpoint import Size, write_tiny_checkpoint
from toy_family import MOE_LAYERS, ToyFamily, write_toy_checkpoint

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.errors import UserError
from eaftgate.families.registry import FAMILIES
from eaftgate.files import sha256_file
from eaftgate.gate.planning import make_plan
from eaftgate.gate.request import GateOptions
from eaftgate.gate.run import GateRun
from eaftgate.prune.keep_sets import read_keep_sets
from eaftgate.recipes.recipe import RECIPE_FILE, read_section
from eaftgate.rewrite.manifest import read_manifest
from eaftgate.suite import test_artifact as suite

KEEP = [[0, 1, 4, 6], [2, 3, 4, 5], [1, 3, 5, 7]]


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    write_tiny_checkpoint(tmp_path / "base")
    return open_checkpoint(tmp_path / "base")


@pytest.fixture
def pruned(eaftgate: Command, base: Checkpoint, tmp_path: Path) -> Path:
    """By a method of its own."""
    out = tmp_path / "pruned"
    assert eaftgate("prune", base.path, "--keep-n", 4, "--method", "random", "--seed", 5, "--out", out).code == 0
    return out


def weights(directory: Path) -> dict[str, bytes]:
    """Everything but what says who chose."""
    said = ("manifest.json", "made_from.json", "README.md", RECIPE_FILE)
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name not in said}


def as_lists(mapping: Path, out: Path) -> Path:
    layers = json.loads(mapping.read_text())["layers"]
    out.write_text(json.dumps([[int(expert) for expert in row] for row in layers.values()]))
    return out


@pytest.mark.parametrize("form", ["mapping", "lists"])
def test_the_same_checkpoint_as_whoever_chose(
    eaftgate: Command, base: Checkpoint, pruned: Path, tmp_path: Path, form: str
) -> None:
    mapping = pruned / "expert_mapping.json"
    file = mapping if form == "mapping" else as_lists(mapping, tmp_path / "keep.json")
    ended = eaftgate("prune", base.path, "--keep-sets", file, "--out", tmp_path / "again")
    assert ended.code == 0, ended.err
    assert weights(tmp_path / "again") == weights(pruned)
    assert read_manifest(tmp_path / "again").keep == read_manifest(pruned).keep


def test_the_file_is_recorded_and_the_recipe_makes_the_same_again(
    eaftgate: Command, base: Checkpoint, pruned: Path, tmp_path: Path
) -> None:
    file, out = as_lists(pruned / "expert_mapping.json", tmp_path / "keep.json"), tmp_path / "out"
    eaftgate("prune", base.path, "--keep-sets", file, "--keep-n", 4, "--out", out)
    sha256 = sha256_file(file)
    assert read_manifest(out).provenance == {"method": "keep-sets", "keep_sets": {"file": str(file), "sha256": sha256}}
    recipe = out / RECIPE_FILE
    assert sha256 in recipe.read_text()
    said = {name: setting.value for name, setting in read_section(recipe, "prune").items()}
    assert said == {"base": str(base.path), "keep_n": "4", "keep_sets": str(file)}
    assert eaftgate("prune", "--recipe", recipe, "--out", tmp_path / "again").code == 0
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (out / "manifest.json").read_bytes()


def test_all_experts_and_an_odd_number_of_them(eaftgate: Command, base: Checkpoint, tmp_path: Path) -> None:
    file = tmp_path / "keep.json"
    file.write_text(json.dumps([list(range(8))] * 3))
    assert eaftgate("prune", base.path, "--keep-sets", file, "--out", tmp_path / "all").code == 0
    assert read_manifest(tmp_path / "all").provenance["method"] == "keep-sets"
    file.write_text(json.dumps([[0, 1, 2, 3, 4]] * 3))
    given = ("prune", base.path, "--keep-sets", file, "--out", tmp_path / "odd")
    refused(eaftgate(*given), "keeping 5 experts is not a multiple of 4")
    assert eaftgate(*given, "--allow-any-keep-n").code == 0
    assert read_manifest(tmp_path / "odd").allow_any_keep_n


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--keep-n", "8"], "keeps 4 experts a layer, not 8"),
        (["--keep-frac", "0.9"], "keeps 4 experts a layer, not 8"),
        (["--profile", "x"], "leave --profile out"),
        (["--scores", "x"], "leave --scores out"),
        (["--method", "eaft-reap"], "leave --method out"),
        (["--class-weight", "call=2"], "leave --class-weight out"),
        (["--packs", "x", "--pre-gate"], "leave --packs out"),
        (["--seed", "0"], "leave --seed out"),
        (["--w-good", "2"], "leave --w-good out"),
    ],
)
def test_nothing_else_has_a_say(
    eaftgate: Command, base: Checkpoint, tmp_path: Path, options: list[str], said: str
) -> None:
    file = tmp_path / "keep.json"
    file.write_text(json.dumps(KEEP))
    refused(eaftgate("prune", base.path, "--keep-sets", file, "--out", tmp_path / "out", *options), said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[0, 1, 4, 6], [2, 3, 5, 4], [1, 3, 5, 7]]", "layer 1 must be ascending expert ids below 8, each once"),
        ("[[0, 1, 4, 6], [2, 3, 4, 4], [1, 3, 5, 7]]", "layer 1 must be ascending expert ids below 8, each once"),
        ("[[0, 1, 4, 8], [2, 3, 4, 5], [1, 3, 5, 7]]", "layer 0 must be ascending expert ids below 8, each once"),
        ("[[0, 1, 4, 6], [2, 3, 4, 5], [1, 3, 5]]", "layer 2 keeps 3 experts and layer 0 keeps 4"),
        ("[[0, 1, 4, 6], [2, 3, 4, 5]]", "cover 2 layers, the checkpoint has 3"),
        ("[]", "cover 0 layers, the checkpoint has 3"),
        ("[[], [], []]", "keeping 0 experts is fewer than the 4"),
        ("[[0, 1], [2, 3], [1, 3]]", "keeping 2 experts is fewer than the 4"),
        ("[[0, 1, 4, 6], 7, [1, 3, 5, 7]]", "the keep set of layer 1 is 7"),
        ("[[0, 1, 4, true], [2, 3, 4, 5], [1, 3, 5, 7]]", "layer 0 holds True, which is no expert id"),
        ("[[-1, 1, 4, 6], [2, 3, 4, 5], [1, 3, 5, 7]]", "layer 0 holds -1, which is no expert id"),
        ("[[0, 1, 4, 6.5], [2, 3, 4, 5], [1, 3, 5, 7]]", "layer 0 holds 6.5, which is no expert id"),
        (f"[[0, 1, 4, {'9' * 90}], [2, 3, 4, 5], [1, 3, 5, 7]]", "layer 0 must be ascending expert ids below 8"),
        (f"[[0, 1, 4, {'9' * 5000}], [2, 3, 4, 5], [1, 3, 5, 7]]", "is not valid JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ("keep 24", "is not valid JSON"),
        ("7", "7 is no list of layers"),
        ('"[[0]]"', "is no list of layers"),
    ],
)
def test_a_file_that_is_none_is_one_sentence(
    eaftgate: Command, base: Checkpoint, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "keep.json"
    file.write_text(text)
    ended = eaftgate("prune", base.path, "--keep-sets", file, "--out", tmp_path / "out")
    refused(ended, said)
    assert str(file) in ended.err
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there(eaftgate: Command, base: Checkpoint, tmp_path: Path) -> None:
    refused(
        eaftgate("prune", base.path, "--keep-sets", tmp_path, "--out", tmp_path / "out"),
        "the file of keep sets cannot be read",
    )


def renumbered(mapping: dict[str, Any]) -> None:
    first, second, *_ = mapping["layers"]["0"]
    mapping["layers"]["0"][first], mapping["layers"]["0"][second] = 1, 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda mapping: mapping.update(num_experts=16), "num_experts is 16, and "),
        (lambda mapping: mapping.update(keep_n=8), "keep_n is 8, and layer 0 has 4 experts"),
        (lambda mapping: mapping["layers"].pop("2"), "layers must be those of "),
        (lambda mapping: mapping["layers"].update({"3": {}}), "layers must be those of "),
        (lambda mapping: mapping.pop("layers"), "layers must be those of "),
        (lambda mapping: mapping["layers"].update({"1": [0, 1, 2, 3]}), "layer 1 must map expert ids"),
        (lambda mapping: mapping["layers"]["1"].update({"\u0663": 4}), "layer 1 must map expert ids"),
        (renumbered, "layer 0 does not number its experts from 0"),
    ],
)
def test_a_mapping_that_contradicts_itself_or_is_another_models(
    pruned: Path, base: Checkpoint, tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    mapping = json.loads((pruned / "expert_mapping.json").read_text())
    change(mapping)
    file = tmp_path / "mapping.json"
    file.write_text(json.dumps(mapping))
    with pytest.raises(UserError, match=said):
        read_keep_sets(file, base)


def test_a_mapping_of_another_model_is_refused(pruned: Path, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "wider", size=Size(experts=12))
    with pytest.raises(UserError, match=r"num_experts is 8, and .* has 12: it is of another base"):
        read_keep_sets(pruned / "expert_mapping.json", open_checkpoint(tmp_path / "wider"))


def test_lists_are_of_the_layers_that_have_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "toy", ToyFamily())
    write_toy_checkpoint(tmp_path / "toy")
    toy, file = open_checkpoint(tmp_path / "toy"), tmp_path / "keep.json"
    file.write_text(json.dumps([[0, 1, 2, 5], [1, 2, 3, 4]]))
    assert toy.by_layer(read_keep_sets(file, toy).keep) == {MOE_LAYERS[0]: [0, 1, 2, 5], MOE_LAYERS[1]: [1, 2, 3, 4]}


def test_the_gate_does_not_claim_to_know_the_rows(eaftgate: Command, tmp_path: Path) -> None:
    file, out = tmp_path / "keep.json", tmp_path / "given"
    file.write_text(json.dumps([list(range(24))] * 4))
    assert eaftgate("prune", BASE, "--keep-sets", file, "--out", out).code == 0
    copy = shutil.copytree(BASE, tmp_path / "copy")
    options = GateOptions(results=tmp_path, packs=GATE_PACKS, checkpoints=(str(out), str(copy)))
    assert make_plan(options, fixture_packs=GATE_PACKS).rows_unknown == {"given"}


def test_what_is_only_known_when_it_is_here_is_no_pass(eaftgate: Command, base: Checkpoint, tmp_path: Path) -> None:
    """Of a checkpoint on a hub planning does not know that nothing says which rows it was chosen on."""
    file = tmp_path / "keep.json"
    file.write_text(json.dumps(KEEP))
    assert eaftgate("prune", base.path, "--keep-sets", file, "--out", tmp_path / "given").code == 0
    said: dict[str, object] = {}
    for allowed in (False, True):
        options = GateOptions(
            results=tmp_path / f"run{allowed}", base=str(base.path), checkpoints=(str(tmp_path / "given"),),
            packs=GATE_PACKS, regime="fixture", allow_overlap=allowed,
        )  # fmt: skip
        plan = make_plan(options, fixture_packs=GATE_PACKS)
        assert plan.rows_unknown == {"given"}
        run = GateRun(replace(plan, rows_unknown=frozenset()), session="s", fixture=tmp_path)
        if allowed:
            suite.test_disjoint("given", run, said.__setitem__)
        else:
            with pytest.raises(pytest.fail.Exception, match="nothing says which rows its experts were chosen on"):
                suite.test_disjoint("given", run, said.__setitem__)
    assert said == {"verdict": "fail"}
