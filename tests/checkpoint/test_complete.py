"""A checkpoint holds the tensors that its model class loads, no fewer, no more, in the shapes of its config.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_checkpoint import Size, Tensor, build_config, write_shard, write_tiny_checkpoint
from transformers import GptOssConfig, GptOssForCausalLM

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.errors import UserError
from eaftgate.families.gpt_oss import GptOss

WHERE = Path("config.json")


@pytest.mark.parametrize(
    ("change", "leave_out"),
    [({}, []), ({"attention_bias": False}, []), ({}, ["head_dim", "attention_bias"]), ({"num_local_experts": 5}, [])],
)
def test_needed_is_the_state_of_transformers_model(change: dict[str, Any], leave_out: list[str]) -> None:
    config = build_config(Size(), mxfp4=False, vocab_size=99) | change
    config = {key: value for key, value in config.items() if key not in leave_out}
    with torch.device("meta"):
        model = GptOssForCausalLM(GptOssConfig(**config))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    family = GptOss()
    assert family.needed(config, family.dimensions(config, where=WHERE), is_mxfp4=False, where=WHERE) == shapes


def test_a_head_that_is_the_embedding_is_not_needed() -> None:
    config = build_config(Size(), mxfp4=True, vocab_size=99)
    family = GptOss()
    both, tied = (
        family.needed(c, family.dimensions(c, where=WHERE), is_mxfp4=True, where=WHERE)
        for c in (config, config | {"tie_word_embeddings": True})
    )
    assert both.keys() - tied == {"lm_head.weight"}


INPUT_NORM = "model.layers.0.input_layernorm.weight"
Tensors = dict[str, Tensor]


def written(path: Path, change: Callable[[Tensors], object], config: dict[str, Any] | None = None, **how: Any) -> Path:
    """A checkpoint whose tensors are as `change` leaves them."""
    tensors = write_tiny_checkpoint(path, **how)
    change(tensors)
    write_shard(path / "model.safetensors", tensors)
    said = json.loads((path / "config.json").read_text()) | (config or {})
    (path / "config.json").write_text(json.dumps({key: value for key, value in said.items() if value is not ...}))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mxfp4", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.2.post_attention_layernorm.weight",
        "model.layers.0.self_attn.sinks",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.o_proj.bias",
        "model.layers.2.mlp.router.bias",
        "model.layers.2.mlp.experts.down_proj_bias",
    ],
)
def test_a_tensor_that_is_missing_or_misnamed_is_named(tmp_path: Path, name: str, mxfp4: bool) -> None:
    def renamed(tensors: Tensors) -> None:
        tensors[f"base.{name}"] = tensors.pop(name)

    missing = f"tensor {name!r} is missing, which the model needs"
    said = refusal(written(tmp_path / "missing", lambda tensors: tensors.pop(name), mxfp4=mxfp4))
    assert said.startswith(f"{tmp_path / 'missing'}: {missing}; take")
    said = refusal(written(tmp_path / "misnamed", renamed, mxfp4=mxfp4))
    assert f"{missing} (the first of 2 tensors that are not as they must be); take" in said


@pytest.mark.parametrize(
    "name",
    ["model.norm.scale", "model.layers.0.self_attn.q_proj.lora_A.weight", "v_head.summary.weight", "_extra_state"],
)
def test_a_tensor_that_the_model_does_not_have_is_named(tmp_path: Path, name: str) -> None:
    said = refusal(written(tmp_path / "more", lambda tensors: tensors.update({name: tensors[INPUT_NORM]})))
    assert f"tensor {name!r} is none that the model has; take" in said


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    name = "model.layers.1.self_attn.q_proj.bias"
    other = name.replace("q_proj", "k_proj")
    said = refusal(written(tmp_path / "misshapen", lambda tensors: tensors.update({name: tensors[other]})))
    assert f"tensor {name!r} has shape [32] where config.json says [64]; take" in said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num_key_value_heads": ...}, "config.json: num_key_value_heads is missing"),
        ({"num_attention_heads": 8}, "where config.json says [64, 128] (the first of 12"),
        ({"num_attention_heads": 3}, "num_attention_heads 3 must be a multiple of num_key_value_heads 2"),
        ({"num_attention_heads": "4"}, "num_attention_heads is '4'"),
        ({"head_dim": 8}, "self_attn"),
        ({"head_dim": 15}, "head_dim 15 even"),
        ({"attention_bias": False}, "is none that the model has (the first of 12"),
        ({"attention_bias": "yes"}, "attention_bias is 'yes' where true or false"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1 where true or false"),
        ({"experts_per_token": 2, "num_experts_per_tok": ...}, "which transformers does not read, and takes 4"),
        ({"num_experts": 16}, "num_local_experts 8 and num_experts 16 disagree"),
        ({"rope_parameters": {"rope_theta": 1e4}}, "rope_theta 10000.0 in rope_parameters and 150000 where older"),
    ],
)
def test_a_config_that_contradicts_the_tensors_or_itself_is_refused_before_loading(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    assert said in refusal(written(tmp_path / "base", lambda _: None, config))


# Sound ones.


def add_buffers(tensors: Tensors) -> None:
    """What transformers wrote before it computed them."""
    frequencies = Tensor("F32", np.ones(8, np.float32))
    tensors["model.rotary_emb.inv_freq"] = tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = frequencies


def tie(tensors: Tensors) -> None:
    del tensors["lm_head.weight"]


def tie_twice(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]


def as_f32(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype == "BF16":
            tensors[name] = Tensor("F32", (tensor.array.astype(np.uint32) << 16).view(np.float32))


@pytest.mark.parametrize("mxfp4", [True, False])
@pytest.mark.parametrize(
    ("change", "config"),
    [
        (lambda _: None, {}),
        (add_buffers, {}),
        (tie, {"tie_word_embeddings": True}),
        (tie_twice, {"tie_word_embeddings": True}),
        (as_f32, {}),
        (lambda _: None, {"num_experts": 8}),
        (lambda _: None, {"num_experts": 8, "num_local_experts": ...}),
        (lambda _: None, {"experts_per_token": ...}),
        (lambda _: None, {"tie_word_embeddings": ..., "attention_bias": ...}),
        (lambda _: None, {"rope_theta": ..., "rope_parameters": {"rope_theta": 150000.0, "rope_type": "default"}}),
    ],
)  # fmt: skip
def test_a_sound_one_is_opened(
    tmp_path: Path, change: Callable[[Tensors], object], config: dict[str, Any], mxfp4: bool
) -> None:
    path = written(tmp_path / "base", change, config, mxfp4=mxfp4)
    assert open_checkpoint(path).num_experts == 8


def test_a_tied_head_that_is_stored_and_differs_is_refused(tmp_path: Path) -> None:
    """transformers takes it, engines that tie do not."""
    path = written(tmp_path / "base", lambda _: None, {"tie_word_embeddings": True})
    assert "tensor 'lm_head.weight' differs from 'model.embed_tokens.weight'" in refusal(path)


# Dtypes.


@pytest.mark.parametrize(
    ("name", "dtype", "said"),
    [
        ("model.norm.weight", "I8", "the model has BF16, F16, F32, F64"),
        ("model.norm.weight", "BOOL", "the model has BF16, F16, F32, F64"),
        ("model.norm.weight", "F8_E4M3", "the model has BF16, F16, F32, F64"),
        ("model.norm.weight", "F8_E8M0", "the model has BF16, F16, F32, F64"),
        ("lm_head.weight", "U8", "the model has BF16, F16, F32, F64"),
        ("model.layers.0.mlp.router.weight", "I8", "the model has BF16, F16, F32, F64"),
        ("model.layers.0.mlp.experts.down_proj_bias", "F8_E5M2", "the model has BF16, F16, F32, F64"),
        ("model.layers.0.mlp.experts.down_proj_blocks", "I8", "MXFP4 as it is published has U8"),
        ("model.layers.0.mlp.experts.down_proj_scales", "I8", "MXFP4 as it is published has U8"),
        ("model.layers.0.mlp.experts.down_proj_scales", "F8_E8M0", "MXFP4 as it is published has U8"),
        ("model.layers.0.mlp.experts.down_proj_scales", "BOOL", "MXFP4 as it is published has U8"),
    ],
)
def test_values_that_loaders_would_take_for_others_are_refused(
    tmp_path: Path, name: str, dtype: str, said: str
) -> None:
    """transformers decodes them by value: logits off by 20 from scales stored as F8_E8M0."""

    def change(tensors: Tensors) -> None:
        tensors[name] = Tensor(dtype, np.ones(tensors[name].array.shape, np.uint8))

    assert f"tensor {name!r} has dtype {dtype} where {said}; convert it" in refusal(written(tmp_path / "base", change))


# Formats that cannot be read.


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "'fp8'"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "'compressed-tensors'"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes'"),
        ({"load_in_8bit": True}, "'bitsandbytes'"),
        ({"quant_method": "awq"}, "'awq'"),
        ({"quant_method": "gptq", "bits": 4}, "'gptq'"),
        ({}, "'a format without quant_method'"),
    ],
)
@pytest.mark.parametrize("mxfp4", [True, False])
def test_another_quantisation_is_named(tmp_path: Path, quantization: dict[str, Any], said: str, mxfp4: bool) -> None:
    path = written(tmp_path / "base", lambda _: None, {"quantization_config": quantization}, mxfp4=mxfp4)
    assert f"its weights are stored as {said}, says quantization_config, which cannot be read" in refusal(path)


@pytest.mark.parametrize(
    ("suffix", "said"),
    [
        ("qweight", "GPTQ or AWQ"),
        ("weight_packed", "compressed-tensors"),
        ("weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("SCB", "bitsandbytes"),
        ("weight_scale_inv", "FP8"),
    ],
)
def test_another_quantisation_that_the_config_is_silent_about_is_named(tmp_path: Path, suffix: str, said: str) -> None:
    name = f"model.layers.0.self_attn.q_proj.{suffix}"
    path = written(tmp_path / "base", lambda tensors: tensors.update({name: tensors[INPUT_NORM]}), mxfp4=False)
    assert f"tensor {name!r} is of weights stored as {said}, which cannot be read" in refusal(path)
