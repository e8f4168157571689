"""Weights in formats of which the family knows nothing: loaded as transformers loads them, or refused in a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_checkpoint import Tensors, in_fp8
from safetensors.torch import load_file, save_file
from tiny_checkpoint import Size
from tiny_model import CPU, load_lively, write_lively_checkpoint
from transformers.quantizers import quantizer_awq, quantizer_fbgemm_fp8

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.collect.transformers import LoadedModel, TransformersCollector
from eaftgate.errors import UserError
from eaftgate.families.gpt_oss_model import GROUPED_EXPERTS, GptOssModel
from eaftgate.model.foreign import make_ready
from eaftgate.model.load import load_model

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
TOKENS = torch.arange(3, 40)[None]


def plain(path: Path) -> Path:
    return write_lively_checkpoint(path, size=Size(layers=2), mxfp4=False)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model(open_checkpoint(path, foreign=True).path, CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@torch.no_grad()
def test_fp8_gives_what_its_values_give_with_our_attention_and_our_experts(tmp_path: Path) -> None:
    """The oracle is the plain checkpoint of the values that the stored bits mean."""
    foreign, same = plain(tmp_path / "fp8"), plain(tmp_path / "same")
    save_file(in_fp8(foreign), same / "model.safetensors", metadata={"format": "pt"})
    assert open_checkpoint(foreign, foreign=True).foreign == "fp8"
    model = load_model(foreign, CPU)
    assert isinstance(model, GptOssModel)
    assert model.module.config._experts_implementation == GROUPED_EXPERTS
    hidden = model.hidden_states(TOKENS)
    assert torch.equal(hidden, load_lively(same).hidden_states(TOKENS))
    logits = model.module(input_ids=TOKENS, use_cache=False).logits
    torch.testing.assert_close(hidden @ model.head_VD.T, logits)


def test_its_format_and_loaders_are_part_of_what_decides_the_numbers() -> None:
    told = [
        TransformersCollector(LoadedModel(), Path("x"), "d", CPU, batch_size=1, foreign=storage).settings()
        for storage in (None, "fp8")
    ]
    assert told[1].pop("storage") == "fp8"
    assert told[1].pop("loaders").keys() >= {"accelerate"}
    assert told[0] == told[1]


def without(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(f"{Q_PROJ}_scale_inv"), f"tensor '{Q_PROJ}' is of 8-bit floats and its scale is missing"),
        (without(Q_PROJ), f"tensor '{Q_PROJ}' is missing"),
        (without("model.norm.weight"), "tensor 'model.norm.weight' is missing"),
        (lambda tensors: tensors.update({"model.layers.0.x": torch.zeros(2)}), "'model.layers.0.x' is none that"),
    ],
)
def test_a_weight_that_would_be_invented_or_left_out_is_named(
    tmp_path: Path, change: Callable[[Tensors], object], said: str
) -> None:
    """transformers 5.24 takes 8-bit floats without a scale as they are, and is silent."""
    in_fp8(plain(tmp_path / "x"), change)
    assert said in refusal(tmp_path / "x")


def test_a_scale_of_activations_is_none_of_weights(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors[Q_PROJ.replace("weight", "input_scale")] = tensors.pop(f"{Q_PROJ}_scale_inv")

    in_fp8(plain(tmp_path / "x"), change)
    assert "its scale is missing" in refusal(tmp_path / "x")


def test_a_format_that_nobody_knows_is_named(tmp_path: Path) -> None:
    in_fp8(plain(tmp_path / "x"), method="fp3\nof mine")
    assert "x is stored as 'fp3\\nof mine', says quantization_config, which transformers 5." in refusal(tmp_path / "x")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    del config["quantization_config"]["quant_method"]
    (tmp_path / "x" / "config.json").write_text(json.dumps(config))
    assert "is stored as a format without quant_method" in refusal(tmp_path / "x")


def test_a_missing_loader_is_named_with_the_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer_awq, "is_gptqmodel_available", lambda: False)
    in_fp8(plain(tmp_path / "x"), method="awq")
    said = refusal(tmp_path / "x")
    assert "x (stored as awq) cannot be loaded by transformers 5." in said
    assert "requires gptqmodel; " in said


def test_a_loader_that_needs_a_gpu_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer_fbgemm_fp8, "is_torch_cuda_available", lambda: False)
    in_fp8(plain(tmp_path / "x"), method="fbgemm_fp8")
    assert "(stored as fbgemm_fp8) cannot be loaded" in (said := refusal(tmp_path / "x"))
    assert "requires a GPU" in said


def test_unless_asked_for_it_is_not_opened(tmp_path: Path) -> None:
    in_fp8(plain(tmp_path / "x"))
    with pytest.raises(UserError, match=r"stored as .fp8., says quantization_config.* --candidate-kind=other"):
        open_checkpoint(tmp_path / "x")


class Packed(torch.Tensor):
    """Not plain, as loaders' own classes of tensors are."""


def packed(weight: torch.Tensor) -> Any:
    return torch.nn.Parameter(weight.detach().as_subclass(Packed))


@torch.no_grad()
def test_experts_that_are_not_plain_run_by_transformers_own_forward(tmp_path: Path) -> None:
    model = load_lively(plain(tmp_path / "x"))
    hidden = model.hidden_states(TOKENS)
    experts = model.module.model.layers[1].mlp.experts
    experts.down_proj = packed(experts.down_proj)
    make_ready(model, model.module, torch.float32, tmp_path)
    assert model.module.config._experts_implementation == "eager"
    torch.testing.assert_close(model.hidden_states(TOKENS).as_subclass(torch.Tensor), hidden)


def test_an_output_matrix_that_is_not_plain_is_refused(tmp_path: Path) -> None:
    model = load_lively(plain(tmp_path / "x"))
    model.module.lm_head.weight = packed(model.module.lm_head.weight)
    with pytest.raises(UserError, match="x: its embedding or output matrix is quantised, which cannot be scored"):
        make_ready(model, model.module, torch.float32, tmp_path / "x")


def test_what_a_loader_leaves_in_half_precision_becomes_float32(tmp_path: Path) -> None:
    """bitsandbytes' leaves norms and embeddings as they are stored, and their products with float32 fail."""
    model = load_lively(plain(tmp_path / "x"))
    model.module.model.norm.bfloat16()
    make_ready(model, model.module, torch.float32, tmp_path)
    assert model.module.model.norm.weight.dtype == torch.float32
    assert torch.equal(
        model.module.model.norm.weight, load_file(tmp_path / "x/model.safetensors")["model.norm.weight"].float()
    )
