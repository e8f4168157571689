"""Checkpoints whose attention is stored as FP8 in blocks, as DeepSeek published it and transformers reads it without a
further package; on a CPU it dequantises them."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

BLOCK = 32
Tensors = dict[str, torch.Tensor]


def in_fp8(path: Path, change: Callable[[Tensors], object] = lambda _: None, *, method: str = "fp8") -> Tensors:
    """Rewrite the plain checkpoint in `path`, in one shard, and return what its tensors mean: those of attention by
    their values, not their bits. `change` is done to the stored ones; `method` is what config.json calls the format."""
    # Copied: what is loaded lies in the file, which is written anew.
    plain = {name: tensor.clone() for name, tensor in load_file(path / "model.safetensors").items()}
    stored, meant = dict(plain), dict(plain)
    for name, weight in plain.items():
        if not name.endswith("_proj.weight"):
            continue
        rows, columns = (size // BLOCK for size in weight.shape)
        tiled = weight.float().reshape(rows, BLOCK, columns, BLOCK)
        scale = tiled.abs().amax((1, 3)) / 448
        values = (tiled / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        stored |= {name: values.reshape(weight.shape).contiguous(), f"{name}_scale_inv": scale.contiguous()}
        meant[name] = (values.float() * scale[:, None, :, None]).reshape(weight.shape)
    change(stored)
    save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {
        "quant_method": method, "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK],
        "modules_to_not_convert": ["lm_head", *(f"model.layers.{n}.mlp" for n in range(config["num_hidden_layers"]))],
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return meant
