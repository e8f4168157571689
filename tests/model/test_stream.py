"""One part of a model at a time: bit for bit what load_model has, and nothing of it afterwards."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import Size, write_shard, write_tiny_checkpoint
from tiny_model import WINDOW, write_lively_checkpoint

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.errors import UserError
from eaftgate.families.gpt_oss_model import GptOssModel
from eaftgate.model import stream as stream_module
from eaftgate.model.load import ModelSettings, load_model
from eaftgate.model.stream import StreamedModel

SIZE = Size(layers=3, experts=4)
DTYPES = ("float32", "bfloat16")
Stored = tuple[Path, str]


def settings(dtype: str) -> ModelSettings:
    return ModelSettings("cpu", dtype, dequantize=True)


@pytest.fixture(scope="module", params=["mxfp4", "plain", "sharded", "tied"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    if request.param in ("mxfp4", "plain"):
        return write_lively_checkpoint(path, size=SIZE, mxfp4=request.param == "mxfp4")
    tensors = write_tiny_checkpoint(path, size=SIZE, num_shards=3 if request.param == "sharded" else 1)
    if request.param == "tied":
        del tensors["lm_head.weight"]
        write_shard(path / "model.safetensors", tensors)
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    return path


def both(path: Path, dtype: str) -> tuple[GptOssModel, GptOssModel, StreamedModel]:
    """The whole model, the one of parts, and what opens them."""
    whole, streamed = load_model(path, settings(dtype)), StreamedModel(open_checkpoint(path), settings(dtype))
    assert isinstance(whole, GptOssModel)
    assert isinstance(streamed.model, GptOssModel)
    return whole, streamed.model, streamed


def on_meta(model: GptOssModel) -> set[bool]:
    return {parameter.is_meta for parameter in model.module.parameters()}


def assert_same_tensors(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    names = dict(expected.named_parameters()) | dict(expected.named_buffers())
    assert names
    tensors = dict(found.named_parameters()) | dict(found.named_buffers())
    for name, tensor in names.items():
        assert tensors[name].dtype == tensor.dtype, name
        assert torch.equal(tensors[name], tensor), name
        assert tensors[name].stride() == tensor.stride(), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_part_is_that_of_the_whole(stored: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "CHUNK_BYTES", 1000)  # a few rows at a time
    whole, parts, streamed = both(stored, dtype)
    assert on_meta(parts) == {True}
    assert_same_tensors(parts.module.model.rotary_emb, whole.module.model.rotary_emb)
    with streamed.embedding():
        assert_same_tensors(parts.module.model.embed_tokens, whole.module.model.embed_tokens)
    for layer in range(SIZE.layers):
        with streamed.layer(layer):
            assert_same_tensors(parts.module.model.layers[layer], whole.module.model.layers[layer])
            assert parts.module.model.layers[layer - 1].mlp.experts.down_proj.is_meta, "only that layer"
    with streamed.head():
        assert_same_tensors(parts.module.model.norm, whole.module.model.norm)
        assert torch.equal(parts.head_VD, whole.head_VD)
    assert on_meta(parts) == {True}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [5, 3 * WINDOW])
def test_layer_after_layer_gives_the_whole_models_states(stored: Path, dtype: str, length: int) -> None:
    whole, parts, streamed = both(stored, dtype)
    ids_BS = torch.randint(0, 30, (2, length), generator=torch.Generator().manual_seed(length))
    with torch.inference_mode():
        with streamed.embedding():
            hidden_BSD = parts.embed(ids_BS)
        for layer in range(SIZE.layers):
            with streamed.layer(layer):
                hidden_BSD = parts.run_layer(layer, hidden_BSD)
        with streamed.head():
            hidden_BSD = parts.normalised(hidden_BSD)
        assert torch.equal(hidden_BSD, whole.hidden_states(ids_BS))


def test_a_part_is_gone_when_it_fails(stored: Path) -> None:
    _, parts, streamed = both(stored, "float32")
    with pytest.raises(RuntimeError, match="on its way"), streamed.layer(1):
        raise RuntimeError("on its way")
    assert on_meta(parts) == {True}


def test_memory_that_runs_out_is_a_sentence(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, parts, streamed = both(stored, "float32")

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "empty", full)
    said = "not even one layer at a time of .* fits into the memory of cpu as float32"
    with pytest.raises(UserError, match=said), streamed.layer(1):
        pass
    assert on_meta(parts) == {True}


def test_a_shard_that_became_shorter(tmp_path: Path) -> None:
    path = write_lively_checkpoint(tmp_path / "base", size=SIZE)
    streamed = StreamedModel(open_checkpoint(path), settings("float32"))
    with (path / "model.safetensors").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(UserError, match="became shorter while it was read"), streamed.layer(2):
        pass


def test_a_shard_that_is_gone(tmp_path: Path) -> None:
    path = write_lively_checkpoint(tmp_path / "base", size=SIZE)
    streamed = StreamedModel(open_checkpoint(path), settings("float32"))
    (path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\)"), streamed.embedding():
        pass
