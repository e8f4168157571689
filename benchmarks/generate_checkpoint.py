"""A gpt-oss checkpoint of random weights at a published shape, for measuring speed where no download is allowed.

    python benchmarks/generate_checkpoint.py --shape 20b --out DIR

Needs NumPy only. Every tensor has its own random stream, so the bytes depend on shape and seed alone; every shard is
written by its own thread, a chunk at a time, so that 13.8 GB take seconds and little memory.

Random weights say nothing about quality. They are scaled so that a forward pass stays sane: inputs of a layer are
about unit normal after the norm, a sublayer adds a fraction of the residual stream's size to it, and router logits
have a standard deviation of ROUTER_STD, so that a rounding error seldom changes which experts are picked.

Shapes: E experts, H hidden size, I intermediate size, V vocabulary.
"""

import argparse
import json
import math
import os
import shutil
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

LAYERS = {"20b": 24, "wide": 4, "120b": 36}
EXPERTS = {"20b": 32, "wide": 32, "120b": 128}
"""Shape name -> number of layers; everything else is the published 20B configuration."""
SHARD_BYTES = 2_000_000_000
CHUNK_ITEMS = 1 << 22
INDEX_FILE = "model.safetensors.index.json"

ROUTER_STD = 2.0
SUBLAYER_GAIN = 0.25
HEAD_STD = 1.5
"""Standard deviation of the logits: the distribution over tokens is neither flat nor one spike."""

E2M1_RMS = math.sqrt(sum(v * v for v in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)) / 8)
"""Root mean square of uniformly random FP4 codes."""
E8M0_BIAS = 127
MXFP4_GROUP = 32

HARMONY_SPECIALS = (
    "<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>",
    "<|message|>", "<|call|>",
)  # fmt: skip
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class RandomTensor:
    """One tensor to be made. `kind` says what the bytes mean, `std` the spread of the values they stand for."""

    name: str
    shape: tuple[int, ...]
    kind: Literal["normal", "fp4", "e8m0"]
    std: float = 0.0
    mean: float = 0.0

    @property
    def dtype(self) -> str:
        return "BF16" if self.kind == "normal" else "U8"

    @property
    def items(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.items * (2 if self.kind == "normal" else 1)


def published_config(layers: int, experts: int = 32) -> dict[str, Any]:
    """config.json of gpt-oss-20b, with another number of layers."""
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": 200002,
        "experts_per_token": 4,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2880,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 2880,
        "layer_types": [("sliding_attention", "full_attention")[i % 2] for i in range(layers)],
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": 8,
        "num_local_experts": experts,
        "output_router_logits": False,
        "pad_token_id": 199999,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": 201088,
    }


def layers_for(nbytes: int) -> int:
    """Layers of the checkpoint of the 20B shape that comes closest to `nbytes`.

    Raises ValueError when one layer is already more than 10 % too large.
    """
    one, two = (sum(t.nbytes for t in list_tensors(published_config(layers))) for layers in (1, 2))
    if nbytes < one / 1.1:
        raise ValueError(f"a checkpoint of the 20B shape has at least {one:,} bytes (one layer), not {nbytes:,}")
    return 1 + max(0, round((nbytes - one) / (two - one)))


def list_tensors(config: dict[str, Any]) -> list[RandomTensor]:
    """Every tensor of the model in the order of the forward pass, in the published layout."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    experts, vocabulary = config["num_local_experts"], config["vocab_size"]
    heads, head_dim = config["num_attention_heads"], config["head_dim"]
    query, key = heads * head_dim, config["num_key_value_heads"] * head_dim

    def matrix(name: str, rows: int, columns: int, gain: float) -> RandomTensor:
        return RandomTensor(name, (rows, columns), "normal", gain / math.sqrt(columns))

    def norm(name: str) -> RandomTensor:
        return RandomTensor(name, (hidden,), "normal", std=0.1, mean=1.0)

    tensors = [RandomTensor("model.embed_tokens.weight", (vocabulary, hidden), "normal", std=1.0)]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        tensors += [norm(f"{prefix}.input_layernorm.weight"), norm(f"{prefix}.post_attention_layernorm.weight")]
        for name, rows, columns, gain in (
            ("q_proj", query, hidden, 1.0),
            ("k_proj", key, hidden, 1.0),
            ("v_proj", key, hidden, 1.0),
            ("o_proj", hidden, query, SUBLAYER_GAIN),
        ):
            tensors.append(matrix(f"{attention}.{name}.weight", rows, columns, gain))
            tensors.append(RandomTensor(f"{attention}.{name}.bias", (rows,), "normal", std=0.05))
        tensors += [
            RandomTensor(f"{attention}.sinks", (heads,), "normal", std=1.0),
            matrix(f"{mlp}.router.weight", experts, hidden, ROUTER_STD),
            RandomTensor(f"{mlp}.router.bias", (experts,), "normal", std=0.1),
        ]
        for name, rows, columns, gain in (
            ("gate_up_proj", 2 * inner, hidden, 1.0),
            ("down_proj", hidden, inner, SUBLAYER_GAIN),
        ):
            groups, tensor = columns // MXFP4_GROUP, f"{mlp}.experts.{name}"
            tensors += [
                RandomTensor(f"{tensor}_blocks", (experts, rows, groups, MXFP4_GROUP // 2), "fp4"),
                RandomTensor(f"{tensor}_scales", (experts, rows, groups), "e8m0", gain / math.sqrt(columns)),
                RandomTensor(f"{tensor}_bias", (experts, rows), "normal", std=0.05),
            ]
    return [*tensors, norm("model.norm.weight"), matrix("lm_head.weight", vocabulary, hidden, HEAD_STD)]


def random_chunks(tensor: RandomTensor, rng: np.random.Generator) -> Iterator[NDArray[Any]]:
    """The tensor's stored values, CHUNK_ITEMS at a time; BF16 as uint16 bit patterns."""
    for begin in range(0, tensor.items, CHUNK_ITEMS):
        count = min(CHUNK_ITEMS, tensor.items - begin)
        if tensor.kind == "normal":
            values = rng.standard_normal(count, dtype=np.float32)
            values *= np.float32(tensor.std)
            values += np.float32(tensor.mean)
            yield values.view(np.uint16)[1::2]  # the upper half of a little-endian float32 is its bfloat16
        elif tensor.kind == "fp4":
            yield np.frombuffer(rng.bytes(count), np.uint8)
        else:
            # The exponent is rounded up or down at random, so that the scales vary and have the right mean.
            exponent = E8M0_BIAS + math.log2(tensor.std / E2M1_RMS)
            upper = np.frombuffer(rng.bytes(count), np.uint8) < round(256 * (exponent % 1))
            yield upper + np.uint8(math.floor(exponent))


def generate(
    out: Path,
    *,
    layers: int,
    experts: int = 32,
    tokenizer: Path | None = None,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Write a checkpoint to the new directory `out` and return the bytes of its tensors.

    Its tokenizer is copied from the directory `tokenizer`, or is one that knows bytes and Harmony's specials. The
    index is written last: a directory that has one is complete.
    """
    config = published_config(layers, experts)
    out.mkdir(parents=True)
    shards = _split(list_tensors(config), shard_bytes)
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    with ThreadPoolExecutor(min(len(shards), os.cpu_count() or 1)) as pool:
        list(pool.map(lambda item: _write_shard(out / item[0], item[1], seed), zip(names, shards, strict=True)))
    _write_tokenizer(out, tokenizer)
    (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    total = sum(tensor.nbytes for shard in shards for tensor in shard)
    weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / INDEX_FILE).write_text(json.dumps(index, indent=2), encoding="utf-8")
    return total


def _split(tensors: list[RandomTensor], shard_bytes: int) -> list[list[RandomTensor]]:
    """Consecutive tensors into shards of up to `shard_bytes`; blocks stay with the scales and bias after them."""
    shards: list[list[RandomTensor]] = [[]]
    filled = 0
    for i, tensor in enumerate(tensors):
        together = sum(t.nbytes for t in tensors[i : i + 3]) if tensor.kind == "fp4" else tensor.nbytes
        follows_blocks = any(t.kind == "fp4" for t in tensors[max(0, i - 2) : i])
        if shards[-1] and not follows_blocks and filled + together > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    return shards


def _write_shard(path: Path, tensors: list[RandomTensor], seed: int) -> None:
    tensors = sorted(tensors, key=lambda tensor: tensor.dtype != "BF16")  # wide elements first, so all are aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        end = position + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            _write_tensor(stream, tensor, seed)


def _write_tensor(stream: BinaryIO, tensor: RandomTensor, seed: int) -> None:
    rng = np.random.Generator(np.random.SFC64([seed, *tensor.name.encode()]))
    for chunk in random_chunks(tensor, rng):
        stream.write(np.ascontiguousarray(chunk).data)


def _write_tokenizer(out: Path, source: Path | None) -> None:
    if source is not None:
        for name in TOKENIZER_FILES:
            shutil.copyfile(source / name, out / name)
        return
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in HARMONY_SPECIALS])
    tokenizer.save(str(out / "tokenizer.json"))
    config = {"eos_token": "<|return|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a gpt-oss checkpoint of random weights.")
    parser.add_argument("--shape", choices=LAYERS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="new directory")
    parser.add_argument("--layers", type=int, help="another number of layers")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="copy the tokenizer of this checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    layers = options.layers or LAYERS[options.shape]
    experts = EXPERTS[options.shape]
    total = generate(options.out, layers=layers, experts=experts, tokenizer=options.tokenizer, seed=options.seed)
    print(f"{options.out}: {layers} layers, {total / 1e9:.2f} GB in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
