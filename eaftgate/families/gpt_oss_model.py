"""gpt-oss as transformers runs it, and its experts' forward pass, sorted by expert.

The forward pass is registered in transformers' experts dispatch and tells an observer what every selected expert put
out, so observing costs no second matmul. Experts are removed softly by masking their router's logits: a bias of minus
infinity is never among the top.

Shapes: B blocks, S positions a block, T tokens, K selections a token (top_k), N = T * K, E experts, D hidden size,
V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GptOssForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts, GptOssMLP

from eaftgate.families.model import Observe

GROUPED_EXPERTS = "eaftgate_grouped"
LENT_ATTENTION = "eager"
"""transformers' default for this family, so that others find what they load by themselves."""


class GptOssMoe:
    """See `model.Moe`. The experts must be plain tensors (loaded with dequantize)."""

    def __init__(self, mlp: GptOssMLP) -> None:
        self._mlp = mlp

    @property
    def width(self) -> int:
        _, hidden_size, gate_up_size = self._mlp.experts.gate_up_proj.shape
        return max(hidden_size, gate_up_size)

    def router_logits(self, hidden_TD: Tensor) -> Tensor:
        return F.linear(hidden_TD, self._mlp.router.weight, self._mlp.router.bias)

    def outputs(self, hidden_TD: Tensor) -> Tensor:
        experts = self._mlp.experts
        input_ETD = hidden_TD.expand(experts.num_experts, -1, -1)
        gated = experts._apply_gate(torch.baddbmm(experts.gate_up_proj_bias[:, None], input_ETD, experts.gate_up_proj))
        return torch.baddbmm(experts.down_proj_bias[:, None], gated, experts.down_proj)

    @contextmanager
    def seeing(self, see: Callable[[Tensor], None]) -> Iterator[None]:
        hook = self._mlp.register_forward_pre_hook(lambda _, given: see(given[0]))
        try:
            yield
        finally:
            hook.remove()


class GptOssModel:
    """See `model.MoeModel`."""

    experts_implementation: ClassVar[str] = GROUPED_EXPERTS

    def __init__(self, module: GptOssForCausalLM) -> None:
        self.module = module

    @property
    def device(self) -> torch.device:
        return self.head_VD.device

    @property
    def num_layers(self) -> int:
        return len(self.module.model.layers)

    @property
    def moe_layers(self) -> Sequence[int]:
        return range(self.num_layers)

    @property
    def num_experts(self) -> int:
        return self.module.config.num_local_experts

    @property
    def top_k(self) -> int:
        return self.module.config.num_experts_per_tok

    @property
    def has_plain_experts(self) -> bool:
        modules = expert_modules(self.module)  # MXFP4 experts are of another class
        return bool(modules) and all(type(weights.data) is Tensor for part in modules for weights in part.parameters())

    @property
    def head_VD(self) -> Tensor:
        weight: Tensor = self.module.lm_head.weight
        return weight

    def hidden_states(self, token_ids_BS: Tensor) -> Tensor:
        hidden_BSD = self.embed(token_ids_BS)
        for layer in range(self.num_layers):
            hidden_BSD = self.run_layer(layer, hidden_BSD)
        return self.normalised(hidden_BSD)

    def continued(self, token_ids_BS: Tensor, position_ids_BS: Tensor, kept: Any) -> Tensor:
        hidden_BSD = self.embed(token_ids_BS)
        for layer in range(self.num_layers):
            hidden_BSD = self._run(layer, hidden_BSD, position_ids_BS, kept=kept)
        return self.normalised(hidden_BSD)

    def embed(self, token_ids_BS: Tensor) -> Tensor:
        embedding = self.module.model.embed_tokens
        embedded: Tensor = embedding(token_ids_BS.to(embedding.weight.device))
        return embedded

    def run_layer(self, layer: int, hidden_BSD: Tensor) -> Tensor:
        return self._run(layer, hidden_BSD, torch.arange(hidden_BSD.shape[1], device=hidden_BSD.device)[None])

    def _run(self, layer: int, hidden_BSD: Tensor, position_ids: Tensor, **for_attention: Any) -> Tensor:
        """transformers hands what it does not know through to the attention, which is ours."""
        decoder = self.module.model.layers[layer]
        hidden_BSD = hidden_BSD.to(decoder.input_layernorm.weight.device)
        position_ids = position_ids.to(hidden_BSD.device)
        rotary = self.module.model.rotary_emb(hidden_BSD, position_ids)
        # No mask tensor is built: the attention knows its patterns.
        output: Tensor = decoder(
            hidden_BSD,
            attention_mask=None,
            position_embeddings=rotary,
            position_ids=position_ids,
            use_cache=False,
            **for_attention,
        )
        return output

    def normalised(self, hidden_BSD: Tensor) -> Tensor:
        norm = self.module.model.norm
        normalised: Tensor = norm(hidden_BSD.to(norm.weight.device))
        return normalised

    @contextmanager
    def lent(self) -> Iterator[GptOssForCausalLM]:
        ours = self.module.config._attn_implementation
        self.module.set_attn_implementation(LENT_ATTENTION)
        try:
            yield self.module
        finally:
            self.module.set_attn_implementation(ours)

    def moe(self, layer: int) -> GptOssMoe:
        return GptOssMoe(self.module.model.layers[layer].mlp)

    @contextmanager
    def observing(self, observers: Sequence[Observe]) -> Iterator[None]:
        modules = expert_modules(self.module)
        for module, observe in zip(modules, observers, strict=True):
            module.observe = observe  # type: ignore[assignment]
        try:
            yield
        finally:
            for module in modules:
                del module.observe

    @contextmanager
    def keeping(self, keep: Sequence[Sequence[int]]) -> Iterator[None]:
        biases = [layer.mlp.router.bias for layer in self.module.model.layers]
        saved = [bias.detach().clone() for bias in biases]
        try:
            with torch.no_grad():
                for bias, kept in zip(biases, keep, strict=True):
                    removed = torch.ones(len(bias), dtype=torch.bool)
                    removed[list(kept)] = False
                    bias[removed.to(bias.device)] = -torch.inf
            yield
        finally:
            with torch.no_grad():
                for bias, original in zip(biases, saved, strict=True):
                    bias.copy_(original)


def expert_modules(module: nn.Module) -> list[GptOssExperts]:
    """The experts of every layer, in layer order; none where they are MXFP4."""
    return [part for part in module.modules() if isinstance(part, GptOssExperts)]


class _Experts(Protocol):
    gate_up_proj: Tensor
    gate_up_proj_bias: Tensor
    down_proj: Tensor
    down_proj_bias: Tensor
    num_experts: int

    def _apply_gate(self, gate_up: Tensor) -> Tensor: ...


def grouped_experts_forward(experts: _Experts, hidden_TD: Tensor, expert_ids_TK: Tensor, gate_TK: Tensor) -> Tensor:
    """Sum over a token's selections of gate * expert(hidden). Returns [T, D] in the input's dtype."""
    tokens, top_k = expert_ids_TK.shape
    sorted_N, order_N = torch.sort(expert_ids_TK.reshape(-1), stable=True)
    input_ND = hidden_TD.index_select(0, order_N // top_k)  # whole rows: several times faster on a CPU than [...]
    if hidden_TD.is_cuda and hidden_TD.dtype == torch.bfloat16:
        output_ND = _grouped_matmul(experts, input_ND, sorted_N)
    else:
        counts = torch.bincount(sorted_N, minlength=experts.num_experts).tolist()
        output_ND = _expert_by_expert(experts, input_ND, counts)
    place_N = torch.empty_like(order_N)
    place_N[order_N] = torch.arange(len(order_N), device=order_N.device)
    output_TKD = output_ND.index_select(0, place_N).view(tokens, top_k, -1)
    observe: Observe | None = getattr(experts, "observe", None)
    if observe is not None:
        observe(expert_ids_TK, gate_TK, torch.linalg.vector_norm(output_TKD, dim=-1, dtype=torch.float32))
    return torch.bmm(gate_TK[:, None, :].to(output_TKD.dtype), output_TKD)[:, 0].to(hidden_TD.dtype)


def _grouped_matmul(experts: _Experts, input_ND: Tensor, sorted_N: Tensor) -> Tensor:
    expert_E = torch.arange(experts.num_experts, device=sorted_N.device)
    # Where each expert's rows end; unlike bincount this does not make the host wait for the device.
    offset_E = torch.searchsorted(sorted_N, expert_E, right=True, out_int32=True)
    gate_up = F.grouped_mm(input_ND, experts.gate_up_proj, offs=offset_E)
    gated = experts._apply_gate(gate_up.add_(experts.gate_up_proj_bias[sorted_N]))
    return F.grouped_mm(gated, experts.down_proj, offs=offset_E).add_(experts.down_proj_bias[sorted_N])


def _expert_by_expert(experts: _Experts, input_ND: Tensor, counts: Sequence[int]) -> Tensor:
    output_ND = torch.empty_like(input_ND)
    for expert, (rows, out) in enumerate(zip(input_ND.split(counts), output_ND.split(counts), strict=True)):
        if len(rows):
            gate_up = torch.addmm(experts.gate_up_proj_bias[expert], rows, experts.gate_up_proj[expert])
            gated = experts._apply_gate(gate_up)
            torch.addmm(experts.down_proj_bias[expert], gated, experts.down_proj[expert], out=out)
    return output_ND


ALL_EXPERTS_FUNCTIONS.register(GROUPED_EXPERTS, grouped_experts_forward)
