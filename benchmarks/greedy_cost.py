"""What one layer of the greedy search costs at the 20B's shape, with random weights: seconds and peak memory.

    PYTHONPATH=. python benchmarks/greedy_cost.py --device cuda --out cost.json

One decoder layer of 2880 x 32 experts, `--positions` sampled positions out of `--tokens` block tokens: the pass
of the layer over all blocks, the experts' outputs and their Gram matrix, the elimination and the swaps. A search does
that for each of 24 layers, so 24 times the total is its time without loading.

Shapes: T tokens, D hidden size.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GptOssConfig, GptOssForCausalLM

from eaftgate.families.gpt_oss_model import GROUPED_EXPERTS, GptOssModel
from eaftgate.files import write_json
from eaftgate.model.attention import SINK_ATTENTION
from eaftgate.search.prefix import Prefix, through_layer
from eaftgate.search.reroute import Kept, eliminated, routed_tokens, swapped

LAYERS = 24


def one_layer(device: str, dtype: torch.dtype) -> GptOssModel:
    """The 20B's dimensions with a single layer and a small vocabulary; weights random, outputs of size 1."""
    config = GptOssConfig(
        num_hidden_layers=1, num_local_experts=32, num_experts_per_tok=4, hidden_size=2880, intermediate_size=2880,
        num_attention_heads=64, num_key_value_heads=8, head_dim=64, vocab_size=1024, layer_types=["full_attention"],
    )  # fmt: skip
    with torch.device(device):
        model: Any = GptOssForCausalLM(config)  # whose .to is declared to take no dtype
    model.to(dtype).eval()
    model.set_attn_implementation(SINK_ATTENTION)
    model.set_experts_implementation(GROUPED_EXPERTS)
    generator = torch.Generator(device=device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.model.layers[0].parameters():
            parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
    return GptOssModel(model)


def timed(what: str, seconds: dict[str, float], function: Callable[[], Any], device: str) -> Any:
    started = time.perf_counter()
    result = function()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    seconds[what] = time.perf_counter() - started
    print(f"{what}: {seconds[what]:.2f} s", flush=True)
    return result


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--positions", type=int, default=65_536)
    parser.add_argument("--tokens", type=int, default=229_376, help="29 %% of a UNION's tokens count")
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--keep-n", type=int, default=20)
    given = parser.parse_args()
    on_gpu = given.device.startswith("cuda")
    dtype = torch.bfloat16 if on_gpu else torch.float32
    model = one_layer(given.device, dtype)
    blocks = max(1, given.tokens // given.seq_len)
    states = Prefix(tuple(torch.randn(1, given.seq_len, 2880, device=given.device, dtype=dtype) for _ in range(blocks)))
    through_layer(model, 0, Prefix(states.states[:1]))  # warm up
    seconds: dict[str, float] = {}
    timed("layer over all blocks", seconds, lambda: through_layer(model, 0, states),
          given.device)  # fmt: skip
    hidden_TD = torch.randn(given.positions, 2880, device=given.device, dtype=dtype)
    weight_WT = torch.ones(1, given.positions)
    moe = model.moe(0)
    routed = timed(
        "outputs and Gram matrix",
        seconds,
        lambda: routed_tokens(moe, hidden_TD, weight_WT, top_k=model.top_k),
        given.device,
    )
    experts = model.num_experts

    def errors_without(kept: Kept) -> NDArray[np.float64]:
        error_E: NDArray[np.float64] = routed.errors_without(kept)[0]
        return error_E

    kept = timed("elimination", seconds, lambda: eliminated(errors_without, experts, given.keep_n), given.device)
    timed("swaps", seconds, lambda: swapped(errors_without, experts, kept), given.device)
    total = sum(seconds.values())
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    print(f"{name}: {total:.1f} s a layer, {LAYERS * total / 60:.1f} min for {LAYERS} layers"
          + ("" if peak is None else f", {peak / 1e9:.1f} GB at most with one layer's weights"))  # fmt: skip
    arguments = {key: str(value) for key, value in vars(given).items()}
    write_json(given.out, {"device": name, "arguments": arguments, "seconds": seconds, "peak_bytes": peak})


if __name__ == "__main__":
    main()
