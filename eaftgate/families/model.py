"""What is asked of a loaded mixture-of-experts model, whatever its parts are called.

Its family wraps transformers' model in a class that satisfies `MoeModel` (`family.Family.model_class`). Scoring,
observing, masking and every search go through it, and `search.prefix` through one layer after the other, those without
experts too.

Shapes: B blocks, S positions a block, T tokens, D hidden size, V vocabulary, E experts, K selections a token (top_k).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

Observe = Callable[[Tensor, Tensor, Tensor], None]
"""Called with (expert_ids_TK, gate_TK, norm_TK): norm is the float32 L2 norm of each output before its gate."""


class Moe(Protocol):
    """The mixture of experts of one layer. A token's gates are the softmax over its top_k router logits."""

    @property
    def width(self) -> int:
        """The most numbers that one expert holds of one token at a time."""
        ...

    def router_logits(self, hidden_TD: Tensor) -> Tensor:
        """[T, E], in the model's dtype."""
        ...

    def outputs(self, hidden_TD: Tensor) -> Tensor:
        """What every expert makes of every token, biases included, before the gates: [E, T, D]."""
        ...

    def seeing(self, see: Callable[[Tensor], None]) -> AbstractContextManager[None]:
        """Call `see` with what router and experts see, [B, S, D], in every forward pass, while the context is open."""
        ...


class MoeModel(Protocol):
    """A causal language model in evaluation mode on its device. Gradients are the caller's business."""

    experts_implementation: ClassVar[str]
    """Name, in transformers' experts dispatch, of what runs plain experts and tells observers."""

    def __init__(self, module: Any) -> None:
        """`module` is transformers' model."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its head is. Layers may be on others: what goes from one to the next goes along, `embed`, `run_layer`
        and `normalised` see to that."""
        ...

    @property
    def num_layers(self) -> int:
        """All transformer layers."""
        ...

    @property
    def moe_layers(self) -> Sequence[int]:
        """Those with experts, ascending."""
        ...

    @property
    def num_experts(self) -> int:
        """Experts per layer that has them."""
        ...

    @property
    def top_k(self) -> int:
        """Experts per token."""
        ...

    @property
    def has_plain_experts(self) -> bool:
        """Whether the experts are plain tensors, which `observing` and `Moe.outputs` need; not so as MXFP4."""
        ...

    @property
    def head_VD(self) -> Tensor:
        """The output matrix: logits are the normalised last hidden states times it, transposed."""
        ...

    def hidden_states(self, token_ids_BS: Tensor) -> Tensor:
        """Last hidden states, normalised, [B, S, D], of whole sequences; no logits are computed."""
        ...

    def embed(self, token_ids_BS: Tensor) -> Tensor:
        """What enters the first layer, [B, S, D]."""
        ...

    def run_layer(self, layer: int, hidden_BSD: Tensor) -> Tensor:
        """What leaves the layer. One after the other, the layers give `hidden_states` bit for bit."""
        ...

    def normalised(self, hidden_BSD: Tensor) -> Tensor:
        """What leaves the last layer as the head sees it."""
        ...

    def moe(self, layer: int) -> Moe:
        """The mixture of a layer of `moe_layers`."""
        ...

    def observing(self, observers: Sequence[Observe]) -> AbstractContextManager[None]:
        """Call `observers[l]` in every forward pass of the experts of `moe_layers[l]`, while the context is open."""
        ...

    def keeping(self, keep: Sequence[Sequence[int]]) -> AbstractContextManager[None]:
        """Soft pruning: only the experts `keep[l]` of `moe_layers[l]` can be selected while the context is open.

        The next-ranked expert steps in for one that is gone and the softmax runs over the survivors: the same function
        as the structurally pruned checkpoint's.
        """
        ...


@runtime_checkable
class WritingModel(Protocol):
    """What is asked besides of a MoeModel that is to write. A family without it is scored only."""

    @property
    def device(self) -> torch.device: ...

    def continued(self, token_ids_BS: Tensor, position_ids_BS: Tensor, kept: Any) -> Tensor:
        """Last hidden states, normalised, [B, S, D], of tokens that follow those `kept` (model.kept), as whose they are
        kept in turn."""
        ...


@runtime_checkable
class LentModel(Protocol):
    """What is asked besides of a MoeModel that others are to run, as they run any of transformers' models."""

    def lent(self) -> AbstractContextManager[Any]:
        """transformers' own model, with its own attention, which knows padding and keeps what it has read, while the
        context is open."""
        ...
