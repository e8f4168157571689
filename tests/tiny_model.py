"""Tiny gpt-oss models that behave like trained ones, and the slow float64 twins that the fast path is held to.

A random checkpoint hardly computes anything: its norms are near 0, so every token is as likely as every other. A
lively one has hidden states of size 1, decided routing, clamped experts and peaked predictions.

Importing this module leaves torch one thread: the tensors are tiny, and other test processes use the same cores.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from tiny_checkpoint import Size, Tensor, build_tensors, build_tokenizer, write_shard, write_tiny_checkpoint
from transformers import GptOssForCausalLM
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts, GptOssMLP
from transformers.utils.quantization_config import Mxfp4Config

from eaftgate.families.gpt_oss_model import GptOssModel
from eaftgate.model.load import ModelSettings, load_model

torch.set_num_threads(1)

CPU = ModelSettings(device="cpu", dtype="float32", dequantize=True)
WINDOW = 8
"""Sliding window of a lively model, short enough to bite in short sequences."""

Selection = tuple[int, float, float]
"""(expert id, gate, L2 norm of the expert's output before the gate)"""


def _bf16_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _float32_to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _enliven(name: str, tensor: Tensor, rng: np.random.Generator) -> Tensor:
    """`tensor`, of standard deviation 0.05, rescaled so that activations are of size 1 and experts clamp."""
    if name.endswith("_blocks"):
        return tensor
    if name.endswith("_scales"):  # biased exponents: expert inputs are amplified, their outputs are not
        low = 122 if "gate_up" in name else 118
        return Tensor("U8", rng.integers(low, low + 4, tensor.array.shape, dtype=np.uint8))
    factors = {"norm.weight": 1, "embed_tokens": 20, "lm_head": 8, "router": 4, "gate_up_proj_bias": 40,
               "gate_up_proj": 10, "down_proj_bias": 10, "sinks": 20}  # fmt: skip
    factor = next((factor for part, factor in factors.items() if part in name), 2)
    offset = 1 if name.endswith("norm.weight") else 0
    return Tensor("BF16", _float32_to_bf16(_bf16_to_float32(tensor.array) * factor + offset))


def write_lively_checkpoint(directory: Path, *, size: Size | None = None, mxfp4: bool = True, seed: int = 0) -> Path:
    size = size or Size()
    write_tiny_checkpoint(directory, size=size, mxfp4=mxfp4)
    vocab_size = build_tokenizer().get_vocab_size()
    rng = np.random.default_rng(seed)
    tensors = build_tensors(size, mxfp4=mxfp4, vocab_size=vocab_size, seed=seed)
    write_shard(directory / "model.safetensors", {name: _enliven(name, t, rng) for name, t in tensors.items()})
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"sliding_window": WINDOW}))
    return directory


TinyModel = GptOssModel
"""What eaftgate makes of these checkpoints."""


def load_lively(directory: Path) -> TinyModel:
    """Through eaftgate, on the CPU in float32."""
    model = load_model(directory, CPU)
    assert isinstance(model, TinyModel)
    return model


Reference = GptOssForCausalLM
"""What the slow twins are computed with: transformers, and none of our code."""


def load_reference(directory: Path) -> Reference:
    """transformers' own model, none of our code in it: eager attention and experts, in float64."""
    quantized = "quantization_config" in json.loads((directory / "config.json").read_text())
    plain: Any = {"quantization_config": Mxfp4Config(dequantize=True)} if quantized else {}
    model: Reference = Reference.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", **plain
    )
    model.double().eval()
    return model


@torch.no_grad()
def reference_logits(model: Reference, token_ids: Sequence[int]) -> list[list[float]]:
    """Full-vocabulary logits at every position of one sequence."""
    logits: torch.Tensor = model(input_ids=torch.tensor([list(token_ids)]), use_cache=False).logits[0]
    return logits.tolist()


@torch.no_grad()
def reference_routing(model: Reference, token_ids: Sequence[int]) -> list[list[list[Selection]]]:
    """What every layer selects at every position of one sequence: [layer][position] -> top_k selections.

    The inputs of the MLPs are captured; router, gate/up halves, clamps and biases are redone by hand.
    """
    captured: list[torch.Tensor] = []
    hooks = [layer.mlp.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0][0]))
             for layer in model.model.layers]  # fmt: skip
    model(input_ids=torch.tensor([list(token_ids)]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return [
        [_route(layer.mlp, hidden.numpy()) for hidden in hidden_SD]
        for layer, hidden_SD in zip(model.model.layers, captured, strict=True)
    ]


def _route(mlp: GptOssMLP, hidden: NDArray[np.float64]) -> list[Selection]:
    router, experts = mlp.router, mlp.experts
    logits = (router.weight.numpy() @ hidden + router.bias.numpy()).tolist()
    chosen = sorted(range(len(logits)), key=lambda expert: -logits[expert])[: router.top_k]
    total = sum(math.exp(logits[expert]) for expert in chosen)
    return [
        (expert, math.exp(logits[expert]) / total, float(np.linalg.norm(slow_expert(experts, expert, hidden))))
        for expert in chosen
    ]


def slow_expert(experts: GptOssExperts, expert: int, hidden: NDArray[np.float64]) -> NDArray[np.float64]:
    """One expert's output for one token, from SPEC section 4: interleaved gate and up, clamps, biases."""
    weight, bias = experts.gate_up_proj[expert].detach(), experts.gate_up_proj_bias[expert].detach()
    gate_up = hidden @ weight.double().numpy() + bias.double().numpy()
    activated = []
    for even in range(0, len(gate_up), 2):
        gate, up = min(gate_up[even], 7.0), max(-7.0, min(gate_up[even + 1], 7.0))
        activated.append(gate / (1.0 + math.exp(-1.702 * gate)) * (up + 1.0))
    weight, bias = experts.down_proj[expert].detach(), experts.down_proj_bias[expert].detach()
    output: NDArray[np.float64] = np.array(activated) @ weight.double().numpy() + bias.double().numpy()
    return output


def slow_token_stats(logits: Sequence[float], token: int) -> tuple[float, float, list[int], list[float]]:
    """(logprob, entropy, top-20 ids, top-20 logprobs) of one token from its full-vocabulary logits: SPEC section 3."""
    top = max(logits)
    log_total = top + math.log(sum(math.exp(x - top) for x in logits))
    logprobs = [x - log_total for x in logits]
    ids = sorted(range(len(logits)), key=lambda i: -logprobs[i])[:20]
    held = sum(math.exp(logprobs[i]) for i in ids)
    shares = [math.exp(logprobs[i]) / held for i in ids]
    entropy = -sum(q * math.log(q) for q in shares if q > 0) / math.log(20)
    return logprobs[token], min(1.0, max(0.0, entropy)), ids, [logprobs[i] for i in ids]


def slow_quantile(values: Sequence[float], q: float) -> float:
    """Linear interpolation between the two nearest order statistics."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def conversation(rng: np.random.Generator) -> str:
    """A short Harmony conversation: a user, one or two assistant messages, now and then a tool result."""

    def words(low: int, high: int) -> str:
        return "".join(rng.choice(list("abcde é\n"), rng.integers(low, high)))

    parts = [f"<|start|>user<|message|>{words(3, 12)}<|end|>"]
    if rng.random() < 0.5:
        parts.append(f"<|start|>assistant<|channel|>commentary to=functions.x<|message|>{words(2, 8)}<|call|>")
        parts.append(f"<|start|>functions.x to=assistant<|message|>{words(2, 8)}<|end|>")
    parts.append(f"<|start|>assistant<|channel|>final<|message|>{words(10, 40)}<|return|>")
    return "".join(parts)


def write_packs(directory: Path, rows_of: Mapping[str, int], *, seed: int = 0) -> Path:
    """Packs of random conversations, `rows_of[name]` rows each."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for name, rows in rows_of.items():
        pq.write_table(pa.table({"text": [conversation(rng) for _ in range(rows)]}), directory / f"{name}.parquet")
    return directory
