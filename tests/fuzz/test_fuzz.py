"""A short run of every fuzz target, always the same; `make fuzz` is the long one."""

from itertools import islice
from pathlib import Path

import pytest

from fuzz import check
from fuzz.check import problem
from fuzz.mutate import mutants
from fuzz.targets import Target, all_targets

INPUTS = 60


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return all_targets(tmp_path_factory.mktemp("targets"))


NAMES = (
    "json", "manifest", "gates", "parity", "lock", "profile", "keep-sets", "safetensors", "yaml", "recipe", "npy",
    "npz", "parquet", "tokenizer", "harmony", "class-weights",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_parser_reads_or_refuses(name: str, targets: dict[str, Target], tmp_path: Path) -> None:
    for data in (*targets[name].seeds, *islice(mutants(targets[name], 17), INPUTS)):
        assert problem(targets[name], data, tmp_path) == ""


def test_every_target_is_run(targets: dict[str, Target]) -> None:
    assert sorted(targets) == sorted(NAMES)


def test_what_is_neither_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "KeyError" in problem(Target("dies", (), lambda path: {"a": 1}[str(path)]), b"", tmp_path)
    monkeypatch.setattr(check, "MAX_SECONDS", 0.001)
    assert "seconds" in problem(Target("spins", (), lambda _: sum(range(10**6))), b"", tmp_path)
