"""A model whose layers are on several devices: the same weights, and the same numbers of everything that runs it."""

import numpy as np
import pytest
import torch
from fake_devices import FakeDevices
from tiny_checkpoint import Size
from tiny_model import write_lively_checkpoint

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.families.gpt_oss_model import GptOssModel
from eaftgate.model import memory
from eaftgate.model.load import ModelSettings, load_model
from eaftgate.model.spread import Placement, place
from eaftgate.model.weights import layer_bytes, loading_bytes, spread_layers, whole_bytes

SIZE = Size(layers=4, experts=8, top_k=2)
CPU = ModelSettings("cpu", "float32", dequantize=True)
TWO = ("cpu:0", "cpu:1")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_lively_checkpoint(tmp_path_factory.mktemp("spread") / "base", size=SIZE))


def test_devices_that_do_not_meet() -> None:
    """The tool of these tests sees what CUDA would."""
    with FakeDevices():
        first, second = (torch.ones(3, device=device) for device in TWO)
        assert (first.device, second.device) == (torch.device("cpu", 0), torch.device("cpu", 1))
        with pytest.raises(RuntimeError, match=r"devices \[0, 1\]"):
            first + second
        with pytest.raises(RuntimeError, match="on the host"):
            first + torch.ones(3)
        with pytest.raises(RuntimeError, match=r"Tensor.cpu"):
            first.numpy()
        assert (first.to("cpu:1") + second)[torch.tensor([0])].device == second.device


def test_layers_are_shared_out_by_room(base: Checkpoint) -> None:
    of_layer, whole = layer_bytes(base, 4), whole_bytes(base, 4)
    for rooms, expected in (
        ([7], [0, 0, 0, 0]),
        ([7, 7], [0, 0, 1, 1]),
        ([7, 0], [0, 0, 0, 0]),
        ([1, 9], [1, 1, 1, 1]),
        ([7, 7, 7, 7], [0, 1, 2, 3]),
    ):
        device_L, shares = spread_layers(base, 4, rooms)
        assert device_L == expected
        outside = whole - 4 * of_layer
        assert shares == [expected.count(n) * of_layer + (n == len(rooms) - 1) * outside for n in range(len(rooms))]


def test_it_is_the_whole_model(base: Checkpoint) -> None:
    whole = load_model(base.path, CPU)
    assert isinstance(whole, GptOssModel)
    ids_BS = torch.from_numpy(np.random.default_rng(0).integers(0, len(whole.head_VD), (2, 20)))
    with torch.inference_mode():
        expected = whole.hidden_states(ids_BS)
    with FakeDevices() as devices, torch.inference_mode():
        model = Placement(base, CPU, TWO).load()
        assert isinstance(model, GptOssModel)
        layers = [layer.mlp.experts.down_proj.device.index for layer in model.module.model.layers]
        assert layers == [0, 0, 1, 1]
        assert model.device.index == 1
        found = model.hidden_states(ids_BS)
        assert found.device.index == 1
        assert devices.used == {0, 1}
    for (name, one), other in zip(whole.module.named_parameters(), model.module.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert torch.equal(expected, found)


def test_a_model_that_only_loads_too_large_is_read_layer_by_layer(
    base: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, devices in (
        (whole_bytes(base, 4) + loading_bytes(base, 4), ()),
        (whole_bytes(base, 4), ("cpu",)),
        (None, ()),
    ):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        assert place(base, CPU).devices == devices
