"""The experts' forward pass, sorted by expert, with a place to observe what every selected expert put out.

Registered in transformers' experts dispatch, so observing costs no second matmul.

Shapes: T tokens, K selections a token (top_k), S = T * K, E experts, D hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts, GptOssForCausalLM

GROUPED_EXPERTS = "eaftgate_grouped"

Observe = Callable[[Tensor, Tensor, Tensor], None]
"""Called with (expert_ids_TK, gate_TK, norm_TK): norm is the float32 L2 norm of each output before its gate."""


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
    sorted_S, order_S = torch.sort(expert_ids_TK.reshape(-1), stable=True)
    input_SD = hidden_TD[order_S // top_k]
    if hidden_TD.is_cuda and hidden_TD.dtype == torch.bfloat16:
        output_SD = _grouped_matmul(experts, input_SD, sorted_S)
    else:
        counts = torch.bincount(sorted_S, minlength=experts.num_experts).tolist()
        output_SD = _expert_by_expert(experts, input_SD, counts)
    unsorted_SD = torch.empty_like(output_SD)
    unsorted_SD[order_S] = output_SD
    output_TKD = unsorted_SD.view(tokens, top_k, -1)
    observe: Observe | None = getattr(experts, "observe", None)
    if observe is not None:
        observe(expert_ids_TK, gate_TK, torch.linalg.vector_norm(output_TKD, dim=-1, dtype=torch.float32))
    return torch.bmm(gate_TK[:, None, :].to(output_TKD.dtype), output_TKD)[:, 0].to(hidden_TD.dtype)


def _grouped_matmul(experts: _Experts, input_SD: Tensor, sorted_S: Tensor) -> Tensor:
    expert_E = torch.arange(experts.num_experts, device=sorted_S.device)
    # Where each expert's rows end; unlike bincount this does not make the host wait for the device.
    offset_E = torch.searchsorted(sorted_S, expert_E, right=True, out_int32=True)
    gate_up = F.grouped_mm(input_SD, experts.gate_up_proj, offs=offset_E)
    gated = experts._apply_gate(gate_up.add_(experts.gate_up_proj_bias[sorted_S]))
    return F.grouped_mm(gated, experts.down_proj, offs=offset_E).add_(experts.down_proj_bias[sorted_S])


def _expert_by_expert(experts: _Experts, input_SD: Tensor, counts: Sequence[int]) -> Tensor:
    output_SD = torch.empty_like(input_SD)
    for expert, (rows, out) in enumerate(zip(input_SD.split(counts), output_SD.split(counts), strict=True)):
        if len(rows):
            gate_up = torch.addmm(experts.gate_up_proj_bias[expert], rows, experts.gate_up_proj[expert])
            gated = experts._apply_gate(gate_up)
            torch.addmm(experts.down_proj_bias[expert], gated, experts.down_proj[expert], out=out)
    return output_SD


def expert_modules(model: nn.Module) -> list[GptOssExperts]:
    """The experts of every layer, in layer order."""
    return [module for module in model.modules() if isinstance(module, GptOssExperts)]


@contextmanager
def observing(model: GptOssForCausalLM, observers: Sequence[Observe]) -> Iterator[None]:
    """Call `observers[layer]` in every forward pass of that layer's experts, while the context is open."""
    modules = expert_modules(model)
    for module, observe in zip(modules, observers, strict=True):
        module.observe = observe  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in modules:
            del module.observe


ALL_EXPERTS_FUNCTIONS.register(GROUPED_EXPERTS, grouped_experts_forward)
