"""A checkpoint holds the tensors that its model class loads, no fewer, no more, in the shapes of its config.json."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import Size, build_config, write_shard, write_tiny_checkpoint
from transformers import GptOssConfig, GptOssForCausalLM

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.complete import tensor_problems
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


@pytest.mark.parametrize("mxfp4", [True, False])
def test_a_whole_checkpoint_has_no_problem(tmp_path: Path, mxfp4: bool) -> None:
    write_tiny_checkpoint(tmp_path / "whole", mxfp4=mxfp4, num_shards=2)
    assert tensor_problems(open_checkpoint(tmp_path / "whole")) == []


def test_each_tensor_that_is_not_as_needed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken"
    tensors = write_tiny_checkpoint(path)
    del tensors["model.norm.weight"]
    tensors["model.norm.scale"] = tensors["model.layers.0.input_layernorm.weight"]
    tensors["model.layers.1.self_attn.q_proj.bias"] = tensors["model.layers.1.self_attn.k_proj.bias"]
    write_shard(path / "model.safetensors", tensors)
    assert sorted(tensor_problems(open_checkpoint(path))) == [
        "tensor 'model.layers.1.self_attn.q_proj.bias' has shape [32] where config.json says [64]",
        "tensor 'model.norm.scale' is none that the model has",
        "tensor 'model.norm.weight' is missing, which the model needs",
    ]


def test_a_size_that_config_lacks_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "unsized"
    write_tiny_checkpoint(path)
    config = json.loads((path / "config.json").read_text())
    del config["num_key_value_heads"]
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json: num_key_value_heads is missing"):
        tensor_problems(open_checkpoint(path))
