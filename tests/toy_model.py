"""The toy family's model: each layer adds an MLP, or a mixture of them, of what entered it and its mean so far."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from torch import Tensor

from eaftgate.families.model import Observe


class ToyMoe:
    def __init__(self, router_ED: Tensor, experts: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.router_ED, self.experts = router_ED, experts
        self.kept_E = torch.ones(len(experts), dtype=torch.bool)
        self.observe: Observe | None = None
        self.see: Callable[[Tensor], None] | None = None

    @property
    def width(self) -> int:
        return max(self.experts[0][0].shape)

    def router_logits(self, hidden_TD: Tensor) -> Tensor:
        return (hidden_TD @ self.router_ED.T).masked_fill(~self.kept_E, -torch.inf)

    def outputs(self, hidden_TD: Tensor) -> Tensor:
        return torch.stack([mlp(hidden_TD, *weights) for weights in self.experts])

    @contextmanager
    def seeing(self, see: Callable[[Tensor], None]) -> Iterator[None]:
        self.see = see
        try:
            yield
        finally:
            self.see = None

    def forward(self, hidden_BSD: Tensor, top_k: int) -> Tensor:
        if self.see is not None:
            self.see(hidden_BSD)
        hidden_TD = hidden_BSD.flatten(0, 1)
        top_TK, ids_TK = self.router_logits(hidden_TD).topk(top_k)
        gate_TK = top_TK.softmax(dim=-1)
        output_TED = self.outputs(hidden_TD).transpose(0, 1)
        chosen_TKD = output_TED.gather(1, ids_TK[..., None].expand(-1, -1, hidden_TD.shape[1]))
        if self.observe is not None:
            self.observe(ids_TK, gate_TK, chosen_TKD.float().norm(dim=-1))
        return (gate_TK[..., None] * chosen_TKD).sum(dim=1).view(hidden_BSD.shape)


def mlp(hidden: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return torch.tanh(hidden @ up.T) @ down.T


class ToyModel:
    """`module` is the configuration, and the tensors by name."""

    experts_implementation: ClassVar[str] = "toy"
    has_plain_experts = True

    def __init__(self, module: Any) -> None:
        self.config, self.tensors = module
        self.device = self.tensors["head"].device
        self.num_layers: int = self.config["layers"]
        self.moe_layers: list[int] = self.config["moe_layers"]
        self.num_experts: int = self.config["experts"]
        self.top_k: int = self.config["top_k"]
        self._moe = {
            layer: ToyMoe(
                self.tensors[f"layers.{layer}.router"],
                [
                    (self.tensors[f"layers.{layer}.experts.{e}.up"], self.tensors[f"layers.{layer}.experts.{e}.down"])
                    for e in range(self.num_experts)
                ],
            )
            for layer in self.moe_layers
        }

    @property
    def head_VD(self) -> Tensor:
        head_VD: Tensor = self.tensors["head"]
        return head_VD

    def hidden_states(self, token_ids_BS: Tensor) -> Tensor:
        hidden_BSD = self.embed(token_ids_BS)
        for layer in range(self.num_layers):
            hidden_BSD = self.run_layer(layer, hidden_BSD)
        return self.normalised(hidden_BSD)

    def embed(self, token_ids_BS: Tensor) -> Tensor:
        embedded_BSD: Tensor = self.tensors["embedding"][token_ids_BS]
        return embedded_BSD

    def run_layer(self, layer: int, hidden_BSD: Tensor) -> Tensor:
        seen_S1 = torch.arange(1, hidden_BSD.shape[1] + 1)[:, None]
        attended_BSD = hidden_BSD + hidden_BSD.cumsum(dim=1) / seen_S1
        mixed_BSD = self.normalised(attended_BSD * self.tensors[f"layers.{layer}.norm"])
        if layer in self._moe:
            return hidden_BSD + self._moe[layer].forward(mixed_BSD, self.top_k)
        weights = self.tensors[f"layers.{layer}.up"], self.tensors[f"layers.{layer}.down"]
        return hidden_BSD + mlp(mixed_BSD, *weights)

    def normalised(self, hidden_BSD: Tensor) -> Tensor:
        length_BS1: Tensor = hidden_BSD.norm(dim=-1, keepdim=True)
        return hidden_BSD / length_BS1

    def moe(self, layer: int) -> ToyMoe:
        return self._moe[layer]

    @contextmanager
    def observing(self, observers: Sequence[Observe]) -> Iterator[None]:
        for moe, observe in zip(self._moe.values(), observers, strict=True):
            moe.observe = observe
        try:
            yield
        finally:
            for moe in self._moe.values():
                moe.observe = None

    @contextmanager
    def keeping(self, keep: Sequence[Sequence[int]]) -> Iterator[None]:
        before = [moe.kept_E for moe in self._moe.values()]
        for moe, kept in zip(self._moe.values(), keep, strict=True):
            moe.kept_E = torch.zeros(self.num_experts, dtype=torch.bool).scatter(0, torch.tensor(kept), True)
        try:
            yield
        finally:
            for moe, kept_E in zip(self._moe.values(), before, strict=True):
                moe.kept_E = kept_E


def read(directory: Path) -> ToyModel:
    tensors: dict[str, Tensor] = {}
    for shard in directory.glob("*.safetensors"):
        tensors |= safetensors.torch.load_file(shard)
    return ToyModel((json.loads((directory / "config.json").read_text(encoding="utf-8")), tensors))
