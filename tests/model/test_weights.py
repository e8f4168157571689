"""What a model takes, and what there is: by hand, and of the tensors themselves."""

from pathlib import Path

import pytest
import torch
from tiny_checkpoint import Size
from tiny_model import write_lively_checkpoint

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.families.gpt_oss_model import GptOssModel
from eaftgate.model import memory
from eaftgate.model.load import ModelSettings, load_model
from eaftgate.model.memory import free_bytes, lack_of_memory, lack_of_memory_on
from eaftgate.model.weights import LOADING_LAYERS, STATES_SHARE, layer_bytes, loading_bytes, streamed_bytes, whole_bytes

SIZE = Size(layers=3, experts=4)
GIB = 1 << 30
BF16 = ModelSettings("cpu", "bfloat16", dequantize=True)


@pytest.fixture(scope="module", params=["mxfp4", "plain"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp(request.param)
    return open_checkpoint(write_lively_checkpoint(path, size=SIZE, mxfp4=request.param == "mxfp4"))


def test_bytes_are_those_of_the_tensors(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint.path, ModelSettings("cpu", "float32", dequantize=True))
    assert isinstance(model, GptOssModel)
    of_layer = sum(parameter.nbytes for parameter in model.module.model.layers[1].parameters())
    of_all = sum(parameter.nbytes for parameter in model.module.parameters())
    assert layer_bytes(checkpoint, 4) == of_layer
    assert whole_bytes(checkpoint, 4) == of_all
    assert loading_bytes(checkpoint, 4) == LOADING_LAYERS * of_layer
    experts = model.module.model.layers[1].mlp.experts
    states = (experts.gate_up_proj.nbytes + experts.down_proj.nbytes) // STATES_SHARE
    assert streamed_bytes(checkpoint, 4) == max(of_layer, model.head_VD.nbytes) + states


def test_what_does_not_fit_is_said(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, whole, loading = BF16, whole_bytes(checkpoint, 2), loading_bytes(checkpoint, 2)
    more = 2 * loading
    for free, held, lacks in (
        (None, more, ""),
        (whole + loading, loading, ""),
        (whole + loading - 1, 0, "GB as bfloat16, and "),
        (whole + more, more, ""),
        (whole + more - 1, more, "GB of hidden states and the like are held besides, and "),
    ):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        lack = lack_of_memory(checkpoint, settings, held=held)
        assert (lacks in lack) if lack and lacks else (lack is None) == (not lacks)


def test_what_does_not_fit_on_two_is_said(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = {
        "cpu:0": layer_bytes(checkpoint, 2) + 7,
        "cpu:1": whole_bytes(checkpoint, 2) - layer_bytes(checkpoint, 2) + 7,
    }
    monkeypatch.setattr(memory, "free_bytes", lambda device: rooms[device])
    assert lack_of_memory_on(list(rooms), checkpoint, BF16, held=7) is None
    assert "are free on 2 devices" in (lack_of_memory_on(list(rooms), checkpoint, BF16, held=8) or "")


# What is free.


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """8 GiB that the system says are available, and no container."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {8 << 20} kB\nHugePages_Total: 0\n")
    monkeypatch.setattr(memory, "_OF_LINUX", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OF_GROUP", tmp_path)
    return tmp_path


def container(place: Path, *, limit: str, used: int, of_files: int) -> None:
    (place / "memory.max").write_text(f"{limit}\n")
    (place / "memory.current").write_text(f"{used}\n")
    (place / "memory.stat").write_text(f"anon 5\nfile {of_files}\n")


def test_a_systems_memory(system: Path) -> None:  # noqa: ARG001
    assert free_bytes("cpu") == 8 * GIB


def test_a_containers_limit(system: Path) -> None:
    container(system, limit=str(4 * GIB), used=3 * GIB, of_files=2 * GIB)
    assert free_bytes("cpu") == 3 * GIB
    container(system, limit=str(64 * GIB), used=3 * GIB, of_files=0)
    assert free_bytes("cpu") == 8 * GIB, "the machine has no more"
    container(system, limit="max", used=3 * GIB, of_files=0)
    assert free_bytes("cpu") == 8 * GIB
    container(system, limit=str(GIB), used=3 * GIB, of_files=0)
    assert free_bytes("cpu") == 0


@pytest.mark.parametrize("text", ["", "MemTotal: 1 kB\n", "MemAvailable: much\n", "MemAvailable:\n", "no colon\n"])
def test_a_system_that_does_not_say(system: Path, text: str) -> None:
    (system / "meminfo").write_text(text)
    assert free_bytes("cpu") is None


def test_a_gpus_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ({"cuda:1": 7}[device], 9))
    assert free_bytes("cuda:1") == 7
    monkeypatch.setattr(torch.cuda, "memory_reserved", {"cuda:1": 5}.get)
    monkeypatch.setattr(torch.cuda, "memory_allocated", {"cuda:1": 3}.get)
    assert free_bytes("cuda:1") == 9
