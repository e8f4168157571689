"""Loading: exact dequantisation, and every refusal in one sentence."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_checkpoint import Size, Tensor, write_shard, write_tiny_checkpoint
from transformers import GptOssForCausalLM
from transformers.utils import logging as transformers_logging

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.errors import UserError
from eaftgate.families.gpt_oss_model import GROUPED_EXPERTS, GptOssModel
from eaftgate.model import load
from eaftgate.model.attention import SINK_ATTENTION
from eaftgate.model.load import ModelSettings, check_configuration, default_settings, load_model
from eaftgate.rewrite.rewrite import rewrite_checkpoint

FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
CPU_BF16 = ModelSettings("cpu", "bfloat16", dequantize=True)
GPU = ModelSettings("cuda", "bfloat16", dequantize=False)
SIZE = Size(layers=1, experts=4)
ALL_LOADED: dict[str, Any] = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}


@pytest.fixture(scope="module")
def mxfp4(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    path = tmp_path_factory.mktemp("mxfp4")
    return path, write_tiny_checkpoint(path, size=SIZE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    path = tmp_path_factory.mktemp("plain")
    return path, write_tiny_checkpoint(path, size=SIZE, mxfp4=False)


def loaded(path: Path, settings: ModelSettings) -> GptOssForCausalLM:
    """transformers' model as it was loaded."""
    model = load_model(path, settings)
    assert isinstance(model, GptOssModel)
    return model.module


def bf16(tensor: Tensor) -> torch.Tensor:
    return torch.from_numpy(tensor.array.copy()).view(torch.bfloat16)


def slow_dequantise(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """MXFP4 from its definition: [E, rows, groups, 16] bytes of two values each, low half first, one power of two a
    group; the model wants [E, columns, rows]."""
    experts, rows, groups, _ = blocks.shape
    values = np.zeros((experts, groups * 32, rows))
    for e, r, g in np.ndindex(experts, rows, groups):
        for i, byte in enumerate(blocks[e, r, g].tolist()):
            for half, code in enumerate((byte & 15, byte >> 4)):
                values[e, g * 32 + 2 * i + half, r] = FP4[code] * 2.0 ** (int(scales[e, r, g]) - 127)
    return values


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dequantising_is_exact(mxfp4: tuple[Path, dict[str, Tensor]], dtype: str) -> None:
    path, tensors = mxfp4
    model = loaded(path, ModelSettings("cpu", dtype, dequantize=True))
    experts = model.model.layers[0].mlp.experts
    for name in ("gate_up_proj", "down_proj"):
        stem = f"model.layers.0.mlp.experts.{name}"
        expected = slow_dequantise(tensors[f"{stem}_blocks"].array, tensors[f"{stem}_scales"].array)
        assert np.array_equal(getattr(experts, name).detach().double().numpy(), expected)
        assert torch.equal(getattr(experts, f"{name}_bias").detach().bfloat16(), bf16(tensors[f"{stem}_bias"]))
    assert {parameter.dtype for parameter in model.parameters()} == {load.DTYPES[dtype]}


@pytest.mark.parametrize("stored", ["mxfp4", "plain"])
def test_rotary_frequencies_are_not_rounded_with_the_weights(request: pytest.FixtureRequest, stored: str) -> None:
    """In bfloat16 they would be off by radians after a thousand tokens."""
    path, _ = request.getfixturevalue(stored)
    exact, found = (
        loaded(path, ModelSettings("cpu", dtype, dequantize=True)).model.rotary_emb for dtype in ("float32", "bfloat16")
    )
    assert exact.inv_freq.dtype == torch.float32
    assert torch.equal(found.inv_freq, exact.inv_freq)


def test_every_tensor_arrives(plain: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = plain
    state = loaded(path, CPU_BF16).state_dict()
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], bf16(tensor)) for name, tensor in tensors.items())


def test_our_attention_and_experts_are_in_place(mxfp4: tuple[Path, dict[str, Tensor]]) -> None:
    model = loaded(mxfp4[0], CPU_BF16)
    assert model.config._attn_implementation == SINK_ATTENTION
    assert model.config._experts_implementation == GROUPED_EXPERTS
    assert not model.training


def test_transformers_speaks_again_afterwards(mxfp4: tuple[Path, dict[str, Tensor]]) -> None:
    transformers_logging.set_verbosity_info()
    transformers_logging.enable_progress_bar()
    try:
        load_model(mxfp4[0], CPU_BF16)
        assert transformers_logging.get_verbosity() == logging.INFO
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.set_verbosity_warning()


def test_a_configuration_that_transformers_refuses_is_one_sentence(
    mxfp4: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(mxfp4[0], tmp_path / "copy"))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"head_dim": "64"}))
    with pytest.raises(UserError, match=r"cannot be loaded by transformers .*head_dim"):
        load_model(path, CPU_BF16)


# Devices and dtypes.


def test_cpu_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_settings() == ModelSettings("cpu", "float32", dequantize=True)
    assert default_settings(dtype="bfloat16") == CPU_BF16


def test_gpu_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert default_settings() == GPU
    assert default_settings(dequantize=True) == ModelSettings("cuda", "bfloat16", dequantize=True)
    assert default_settings(device="cuda:1", dtype="float32") == ModelSettings("cuda:1", "float32", dequantize=False)
    assert default_settings(device="cpu") == ModelSettings("cpu", "float32", dequantize=True)
    with pytest.raises(UserError, match="device cuda:2 was asked for, and the last that torch sees is cuda:1"):
        default_settings(device="cuda:2")


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_without_a_gpu(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=rf"device {device} was asked for, but torch .* sees no CUDA GPU"):
        default_settings(device=device)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:01", "cuda:\u0661", "meta", "cpu:0:0"])
def test_unknown_device(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="is none of cpu, cuda, cuda:N"):
        default_settings(device=device)


@pytest.mark.parametrize("dtype", ["float16", "bf16", "int8"])
def test_unknown_dtype(dtype: str) -> None:
    with pytest.raises(UserError, match=f"dtype '{dtype}' is not one of float32, bfloat16"):
        default_settings(device="cpu", dtype=dtype)


def test_settings_describe_what_decides_the_numbers() -> None:
    described = [
        ModelSettings("cpu", dtype, dequantize).describe()
        for dtype in ("float32", "bfloat16")
        for dequantize in (True, False)
    ]
    assert all(described.count(one) == 1 for one in described)
    assert described[0].items() >= {"device": "cpu", "dtype": "float32", "experts": "dequantized"}.items()
    assert described[0]["torch"] == torch.__version__


# MXFP4 on a GPU that is not there: what would be asked of transformers is caught.


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def from_pretrained(_: Path, **options: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
        calls.append(options)
        return torch.nn.Linear(1, 1), ALL_LOADED

    monkeypatch.setattr(GptOssForCausalLM, "from_pretrained", from_pretrained)
    return calls


def install(monkeypatch: pytest.MonkeyPatch, *, triton: tuple[int, ...] | None, kernels: bool) -> None:
    def is_triton_available(minimum: str) -> bool:
        return triton is not None and triton >= tuple(map(int, minimum.split(".")))

    monkeypatch.setattr(load, "is_triton_available", is_triton_available)
    monkeypatch.setattr(load, "is_kernels_available", lambda: kernels)


@pytest.mark.parametrize(
    ("triton", "kernels"), [(None, False), (None, True), ((3, 4, 0), False), ((3, 3, 1), True)]
)  # fmt: skip
def test_mxfp4_without_kernels_is_refused(  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch, mxfp4, asked: list[dict[str, Any]], triton: tuple[int, ...] | None, kernels: bool
) -> None:
    """A silent fall-back to bfloat16 would measure another path than the one that serves."""
    install(monkeypatch, triton=triton, kernels=kernels)
    with pytest.raises(UserError, match=r"no MXFP4 kernels are installed: .* or ask for bfloat16 experts with --deq"):
        load_model(mxfp4[0], GPU)
    assert not asked


def test_mxfp4_without_kernels_loads_when_dequantising_is_asked(  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch, mxfp4, asked: list[dict[str, Any]]
) -> None:
    install(monkeypatch, triton=None, kernels=False)
    load_model(mxfp4[0], CPU_BF16)
    assert asked[0]["quantization_config"].dequantize is True
    assert asked[0]["experts_implementation"] == GROUPED_EXPERTS


def test_mxfp4_with_kernels_stays_mxfp4(  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch, mxfp4, asked: list[dict[str, Any]]
) -> None:
    install(monkeypatch, triton=(3, 4, 0), kernels=True)
    load_model(mxfp4[0], GPU)
    assert asked[0]["quantization_config"].dequantize is False
    assert asked[0]["device_map"] == "cuda"
    assert "experts_implementation" not in asked[0]


def test_a_fall_back_to_dequantised_experts_is_refused(  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch, mxfp4, plain
) -> None:
    """A GPU too old for the kernels makes transformers dequantise with no more than a warning."""
    fallen_back = loaded(plain[0], default_settings(device="cpu"))
    install(monkeypatch, triton=(3, 4, 0), kernels=True)
    monkeypatch.setattr(GptOssForCausalLM, "from_pretrained", lambda *_, **__: (fallen_back, ALL_LOADED))
    with pytest.raises(UserError, match="would dequantise"):
        load_model(mxfp4[0], GPU)


def test_plain_experts_need_no_kernels(  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch, plain, asked: list[dict[str, Any]]
) -> None:
    install(monkeypatch, triton=None, kernels=False)
    load_model(plain[0], GPU)
    assert "quantization_config" not in asked[0]


# Checkpoints that cannot be loaded.


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "does not fit into the memory of cpu as bfloat16"),
        (RuntimeError("size mismatch\nfor x"), "cannot be loaded by transformers .*: size mismatch$"),
        (OSError(""), "cannot be loaded by transformers .*: OSError$"),
        (TypeError("'NoneType'"), "cannot be loaded by transformers .*: 'NoneType'$"),
        (RuntimeError("For details look at the above report!"), "it cannot convert the experts as they are stored$"),
    ],
)
def test_errors_of_transformers_become_one_sentence(  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch, mxfp4, error: Exception, message: str
) -> None:
    def from_pretrained(_: Path, **options: Any) -> None:  # noqa: ARG001
        raise error

    monkeypatch.setattr(GptOssForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(UserError, match=message):
        load_model(mxfp4[0], CPU_BF16)


def test_missing_weights(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, size=SIZE)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded by transformers"):
        load_model(tmp_path, CPU_BF16)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            {"missing_keys": {"model.norm.weight", "lm_head.weight"}},
            r"'lm_head.weight' is missing \(and 1 more\), says",
        ),
        ({"unexpected_keys": {"extra"}}, "'extra' is none that the model has, says transformers"),
        ({"mismatched_keys": {("model.norm.weight", (1,), (64,))}}, "'model.norm.weight' has another shape than"),
    ],
)
def test_what_the_loader_would_invent_or_leave_out_is_an_error(  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch, mxfp4, told: dict[str, Any], said: str
) -> None:
    sound = loaded(mxfp4[0], CPU_BF16)
    monkeypatch.setattr(GptOssForCausalLM, "from_pretrained", lambda *_, **__: (sound, ALL_LOADED | told))
    with pytest.raises(UserError, match=said):
        load_model(mxfp4[0], CPU_BF16)


def test_a_lost_norm_is_an_error_also_where_nobody_opened_the_checkpoint(tmp_path: Path) -> None:
    tensors = write_tiny_checkpoint(tmp_path, size=SIZE)
    del tensors["model.norm.weight"]
    write_shard(tmp_path / "model.safetensors", tensors)
    with pytest.raises(UserError, match=r"'model\.norm\.weight' is missing, says transformers"):
        load_model(tmp_path, CPU_BF16)


@pytest.mark.parametrize("mxfp4_experts", [True, False])
def test_an_index_without_metadata_is_loaded_all_the_same(tmp_path: Path, mxfp4_experts: bool) -> None:
    """transformers takes it for given."""
    tensors = write_tiny_checkpoint(tmp_path, size=SIZE, mxfp4=mxfp4_experts, num_shards=2)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    del index["metadata"]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    state = loaded(tmp_path, CPU_BF16).state_dict()
    assert torch.equal(state["model.norm.weight"], bf16(tensors["model.norm.weight"]))


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    tensors = write_tiny_checkpoint(tmp_path, size=SIZE)
    del tensors["lm_head.weight"]
    write_shard(tmp_path / "model.safetensors", tensors)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    model = load_model(tmp_path, CPU_BF16)
    assert torch.equal(model.head_VD, bf16(tensors["model.embed_tokens.weight"]))


@pytest.mark.parametrize("names", [("num_local_experts", "num_experts"), ("num_experts",)])
def test_what_is_pruned_of_a_config_with_another_name_for_the_experts_is_loaded(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    write_tiny_checkpoint(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    count = config.pop("num_local_experts")
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | dict.fromkeys(names, count)))
    rewrite_checkpoint(open_checkpoint(tmp_path / "base"), [range(4)] * 3, tmp_path / "out", provenance={})
    pruned = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {name: pruned.get(name) for name in ("num_local_experts", "num_experts") if name in pruned} == dict.fromkeys(
        names, 4
    )
    assert load_model(tmp_path / "out", CPU_BF16).num_experts == 4


@pytest.mark.parametrize("content", ["{", "[]", '{"temperature": "x"}'])
def test_what_generation_would_be_is_not_asked(
    mxfp4: tuple[Path, dict[str, Tensor]], tmp_path: Path, content: str
) -> None:
    path = Path(shutil.copytree(mxfp4[0], tmp_path / "copy"))
    (path / "generation_config.json").write_text(content)
    assert load_model(path, CPU_BF16).num_experts == 4


def test_a_configuration_of_which_no_model_is_made_is_known_without_weights(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, size=SIZE)
    (tmp_path / "model.safetensors").unlink()
    check_configuration(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_theta": "x"}))
    with pytest.raises(UserError, match="cannot be loaded by transformers"):
        check_configuration(tmp_path)


def test_an_interrupt_that_comes_out_of_torch_as_another_error_is_an_interrupt(
    plain: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("trying to pop from empty mode stack")

    monkeypatch.setattr(GptOssForCausalLM, "from_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_model(plain[0], ModelSettings("cpu", "float32", dequantize=True))
