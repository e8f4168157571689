"""One table of methods: whoever prunes, sweeps or reads a command line knows no method by name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_command import Command, refused
from tiny_checkpoint import write_tiny_checkpoint

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.errors import UserError
from eaftgate.prune.checkpoint import PruneRequest, prune_checkpoint
from eaftgate.prune.methods import AUTO, METHODS, Choice, Method, Settings, Sight
from eaftgate.recipes.recipe import RECIPE_FILE, read_section
from eaftgate.rewrite.manifest import read_manifest
from eaftgate.search.search import STARTS
from eaftgate.search.settings import SearchSettings
from eaftgate.select.scorers import SCORERS
from eaftgate.study.cases import FACTORS, planned

DIGEST = "0" * 64


def the_last(sight: Sight, settings: Settings) -> Choice:
    """The experts of the highest numbers."""
    keep = [list(range(sight.num_experts))[-settings.keep_n :]] * sight.num_layers
    return Choice(keep, {"because": "last"}, {"seed": settings.search.seed})


def test_a_method_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoint, manifest, recipe, sweep and the sentence about a mistyped name follow from it."""
    monkeypatch.setitem(METHODS, "last", Method("last", "nothing", the_last, frozenset({"seed"})))
    write_tiny_checkpoint(tmp_path / "base")
    base = open_checkpoint(tmp_path / "base")
    prune_checkpoint(base, DIGEST, None, PruneRequest(keep_n=4, method="last"), tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert manifest.keep == [[4, 5, 6, 7]] * base.num_layers
    assert manifest.provenance == {"method": "last", "because": "last"}
    recipe = {name: setting.value for name, setting in read_section(tmp_path / "out" / RECIPE_FILE, "prune").items()}
    assert recipe == {"base": str(tmp_path / "base"), "keep_n": "4", "method": "last", "seed": "0"}
    cases = planned(
        ["last", "reap"], [4], {"seed": ["1"]}, rows=9, alignment="predicting", search=SearchSettings()
    )  # fmt: skip
    assert [case.name for case in cases] == ["last", "reap", "last seed=1"]
    with pytest.raises(
        UserError, match=r"--method is 'lost': it must be one of eaft-reap, .*, last; did you mean 'last'"
    ):
        prune_checkpoint(base, DIGEST, None, PruneRequest(keep_n=4, method="lost"), tmp_path / "other")


def test_the_command_line_offers_the_table(eaftgate: Command, tmp_path: Path) -> None:
    ended = eaftgate("prune", tmp_path, "--method", "best", "--out", tmp_path / "out")
    refused(ended, f"'best' is not one of {', '.join(repr(name) for name in (AUTO, *METHODS))}")


def test_whoever_asks_for_help_does_not_wait_for_libraries() -> None:
    """Names and defaults are shown; what chooses by them is not imported."""
    asked = "import json, sys, eaftgate.commands.app; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True).stdout)
    assert not {"numpy", "torch", "transformers", "pyarrow", "pydantic", "scipy", "matplotlib"} & set(loaded)


def test_what_methods_use_is_what_a_sweep_varies() -> None:
    assert set().union(*(method.uses for method in METHODS.values())) == set(FACTORS)
    assert [name for name, method in METHODS.items() if method.needs == "trace"] == list(SCORERS)
    assert set(STARTS) <= set(SCORERS)
