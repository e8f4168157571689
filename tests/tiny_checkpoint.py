"""Synthetic gpt-oss checkpoints of a few hundred kilobytes, for tests. No torch, no model library.

The tensors are random bytes with finite values, so a slice taken from the wrong expert never looks right.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

HARMONY_SPECIALS = (
    "<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>",
    "<|message|>", "<|call|>",
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """Dimensions of a tiny model; hidden and intermediate sizes are multiples of 32 for MXFP4."""

    layers: int = 3
    experts: int = 8
    top_k: int = 4
    hidden: int = 64
    intermediate: int = 32
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16


@dataclass(frozen=True)
class Tensor:
    dtype: str
    """safetensors name."""
    array: NDArray[Any] = field(repr=False)
    """BF16 as uint16 bit patterns."""


def build_tokenizer() -> Tokenizer:
    """A byte-level tokenizer with the Harmony special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in HARMONY_SPECIALS])
    return tokenizer


def build_tensors(size: Size, *, mxfp4: bool, vocab_size: int, seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of the model, by its published name."""
    rng = np.random.default_rng(seed)

    def bf16(*shape: int) -> Tensor:
        values = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
        return Tensor("BF16", (values.view(np.uint32) >> 16).astype(np.uint16))

    def u8(*shape: int, low: int = 0, high: int = 256) -> Tensor:
        return Tensor("U8", rng.integers(low, high, shape, dtype=np.uint8))

    e, h, i = size.experts, size.hidden, size.intermediate
    query, key = size.heads * size.head_dim, size.kv_heads * size.head_dim
    tensors = {"model.embed_tokens.weight": bf16(vocab_size, h)}
    for layer in range(size.layers):
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.input_layernorm.weight": bf16(h),
            f"{prefix}.post_attention_layernorm.weight": bf16(h),
            f"{prefix}.self_attn.sinks": bf16(size.heads),
            f"{prefix}.self_attn.o_proj.weight": bf16(h, query),
            f"{prefix}.self_attn.o_proj.bias": bf16(h),
            f"{prefix}.mlp.router.weight": bf16(e, h),
            f"{prefix}.mlp.router.bias": bf16(e),
            f"{prefix}.mlp.experts.gate_up_proj_bias": bf16(e, 2 * i),
            f"{prefix}.mlp.experts.down_proj_bias": bf16(e, h),
        }
        for name, rows in (("q", query), ("k", key), ("v", key)):
            tensors[f"{prefix}.self_attn.{name}_proj.weight"] = bf16(rows, h)
            tensors[f"{prefix}.self_attn.{name}_proj.bias"] = bf16(rows)
        if mxfp4:
            tensors |= {
                f"{prefix}.mlp.experts.gate_up_proj_blocks": u8(e, 2 * i, h // 32, 16),
                f"{prefix}.mlp.experts.gate_up_proj_scales": u8(e, 2 * i, h // 32, low=118, high=124),
                f"{prefix}.mlp.experts.down_proj_blocks": u8(e, h, i // 32, 16),
                f"{prefix}.mlp.experts.down_proj_scales": u8(e, h, i // 32, low=118, high=124),
            }
        else:
            tensors |= {
                f"{prefix}.mlp.experts.gate_up_proj": bf16(e, h, 2 * i),
                f"{prefix}.mlp.experts.down_proj": bf16(e, i, h),
            }
    return tensors | {"model.norm.weight": bf16(h), "lm_head.weight": bf16(vocab_size, h)}


def build_config(size: Size, *, mxfp4: bool, vocab_size: int) -> dict[str, Any]:
    """config.json with the keys of the published one."""
    config: dict[str, Any] = {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "eos_token_id": vocab_size - 1,
        "experts_per_token": size.top_k,
        "head_dim": size.head_dim,
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "initial_context_length": 4096,
        "intermediate_size": size.intermediate,
        "layer_types": [("sliding_attention", "full_attention")[i % 2] for i in range(size.layers)],
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": size.heads,
        "num_experts_per_tok": size.top_k,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.kv_heads,
        "num_local_experts": size.experts,
        "rms_norm_eps": 1e-05,
        "rope_theta": 150000,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "vocab_size": vocab_size,
    }
    if mxfp4:
        config["quantization_config"] = {"modules_to_not_convert": ["lm_head"], "quant_method": "mxfp4"}
    return config


def shard_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file as the library lays it out: wide dtypes first, then by name, header padded."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data: list[bytes] = []
    position = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].array.itemsize, name)):
        tensor = tensors[name]
        data.append(tensor.array.tobytes())
        end = position + len(data[-1])
        shape = list(tensor.array.shape)
        header[name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data)


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.write_bytes(shard_bytes(tensors))


def write_index(directory: Path, shards: Mapping[str, Mapping[str, Tensor]]) -> None:
    total = sum(tensor.array.nbytes for tensors in shards.values() for tensor in tensors.values())
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def write_tiny_checkpoint(
    directory: Path, *, size: Size | None = None, mxfp4: bool = True, num_shards: int = 1, seed: int = 0
) -> dict[str, Tensor]:
    """Write a complete checkpoint directory and return its tensors.

    `num_shards` 1 gives model.safetensors, more give an index; tensors are dealt out round robin by layer, so
    shards hold whole layers.
    """
    size = size or Size()
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    vocab_size = tokenizer.get_vocab_size()
    tensors = build_tensors(size, mxfp4=mxfp4, vocab_size=vocab_size, seed=seed)
    _write_json(directory / "config.json", build_config(size, mxfp4=mxfp4, vocab_size=vocab_size))
    _write_json(directory / "generation_config.json", {"eos_token_id": [vocab_size - 1]})
    _write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    (directory / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    tokenizer.save(str(directory / "tokenizer.json"))
    if num_shards == 1:
        write_shard(directory / "model.safetensors", tensors)
        return tensors
    names = [f"model-{i:05d}-of-{num_shards:05d}.safetensors" for i in range(1, num_shards + 1)]
    shards: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for name, tensor in tensors.items():
        layer = int(name.split(".")[2]) + 1 if name.startswith("model.layers.") else 0
        shards[names[layer % num_shards]][name] = tensor
    for name, held in shards.items():
        write_shard(directory / name, held)
    write_index(directory, shards)
    return tensors


def slice_tensors(tensors: Mapping[str, Tensor], keep: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """The slow oracle of a rewrite: NumPy indexing on dimension 0 of every tensor with an expert axis."""
    sliced = {}
    for name, tensor in tensors.items():
        is_expert = ".mlp.experts." in name or ".mlp.router." in name
        layer = int(name.split(".")[2]) if is_expert else -1
        sliced[name] = Tensor(tensor.dtype, tensor.array[list(keep[layer])] if is_expert else tensor.array)
    return sliced


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
