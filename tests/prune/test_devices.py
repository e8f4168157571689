"""Searches of a model that does not fit into one device, and of what fits nowhere."""

from pathlib import Path

import pytest
from cli_command import Command, refused
from fake_devices import FakeDevices
from tiny_checkpoint import Size
from tiny_model import write_lively_checkpoint, write_packs

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.model import memory, spread
from eaftgate.model.load import ModelSettings
from eaftgate.model.spread import lack_of_room
from eaftgate.model.weights import loading_bytes, whole_bytes

SIZE = Size(layers=2, experts=6, top_k=2)
CPU = ModelSettings("cpu", "float32", dequantize=True)
TWO = ("cpu:0", "cpu:1")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_lively_checkpoint(tmp_path_factory.mktemp("devices") / "base", size=SIZE))


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> FakeDevices:
    """Both together have room for the model that has none on the CPU."""
    monkeypatch.setattr(spread, "devices_of", lambda _: TWO)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000 if device == "cpu" else 1 << 30)
    return FakeDevices()


def test_a_search_over_two_devices_finds_what_one_finds(
    two_devices: FakeDevices,
    base: Checkpoint,
    eaftgate: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packs = write_packs(tmp_path / "packs", {"chat": 4, "tools": 2})
    asked = ("--packs", packs, "--device", "cpu", "--batch-size", 4)
    assert eaftgate("profile", base.path, *asked, "--seq-len", 48, "--out", tmp_path / "profile", "--stream").code == 0
    prune = ("prune", base.path, *asked, "--profile", tmp_path / "profile", "--method", "refined", "--keep-n", 4)
    with two_devices:
        ended = eaftgate(*prune, "--pre-gate", "--out", tmp_path / "two")
    assert ended.code == 0, ended.err
    assert "base does not fit into one device: its layers are on 2" in ended.err
    assert two_devices.used == {0, 1}
    monkeypatch.undo()
    assert eaftgate(*prune, "--out", tmp_path / "one").code == 0
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_what_a_search_holds_is_known_before_anything_is_loaded(
    base: Checkpoint, eaftgate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = write_packs(tmp_path / "packs", {"chat": 12})
    asked = ("--packs", packs, "--device", "cpu")
    assert eaftgate("profile", base.path, *asked, "--seq-len", 48, "--out", tmp_path / "profile").code == 0
    monkeypatch.setattr(memory, "free_bytes", lambda _: whole_bytes(base, 4) + loading_bytes(base, 4))
    assert lack_of_room(base, CPU) is None
    monkeypatch.setattr("eaftgate.model.spread.load_model", None)
    prune = ("prune", base.path, *asked, "--profile", tmp_path / "profile", "--keep-n", 4, "--out", tmp_path / "out")
    ended = eaftgate(*prune, "--method", "refined", "--max-positions", 1 << 20)
    refused(ended, "of hidden states and the like are held besides, and ")
