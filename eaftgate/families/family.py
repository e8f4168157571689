"""What has to be known of a family of models to read, judge and rewrite its checkpoints. No torch.

A family is one `model_type` of config.json: how its tensors are named, which of them hold experts, what its model class
needs. `registry` lists them. What running such a model takes is the other Protocol,
`model.MoeModel`.

Layers may lack experts (dense layers among the others). Keep sets have a row for every layer that has them, and so does
a trace: wherever layers are counted, the l-th is the l-th with experts, `Dimensions.moe_layers[l]` of the model. Only
tensor names and expert_mapping.json number the layers of the model, which is why `Family.kept` is given those.

This room lies below checkpoint/, so a stored tensor is a Protocol here; `checkpoint.header.TensorEntry` is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # torch; only those who run a model wait for it
    from eaftgate.families.model import MoeModel


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes of a model."""

    num_layers: int
    """All transformer layers."""
    moe_layers: Sequence[int]
    """Those with experts, ascending."""
    num_experts: int
    """Experts per layer that has them."""
    top_k: int
    """Experts per token."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    """Of one expert."""


class StoredTensor(Protocol):
    """One tensor as a safetensors header describes it."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str:
        """safetensors name: "BF16", "U8", ..."""
        ...

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def shard(self) -> str:
        """File name without directories."""
        ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one stored tensor."""

    name: str
    """In the rewritten checkpoint."""
    shape: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """Byte ranges (begin, end) within the stored tensor, in the order in which they are written."""

    @property
    def nbytes(self) -> int:
        return sum(end - begin for begin, end in self.spans)


def kept_whole(tensor: StoredTensor) -> Kept:
    """All of it, under its own name."""
    return Kept(tensor.name, tensor.shape, ((0, tensor.nbytes),))


def kept_rows(tensor: StoredTensor, rows: Sequence[int]) -> Kept:
    """`rows` of dimension 0, under its own name: of a tensor that holds every expert of a layer, or the router."""
    stride = tensor.nbytes // tensor.shape[0]
    spans = tuple((row * stride, (row + 1) * stride) for row in rows)
    return Kept(tensor.name, (len(rows), *tensor.shape[1:]), spans)


@dataclass(frozen=True, slots=True)
class ExpertWeight:
    """Weights of experts: the plain tensor that the model class loads, and where they are stored."""

    name: str
    """Of the plain tensor."""
    shape: tuple[int, ...]
    input_axis: int
    """Dimension of `shape` that the product with a token's hidden state sums over."""
    stored: str
    """Name of the stored tensor: the plain one, or MXFP4 blocks [experts, outputs, inputs / 32, 16], of which the plain
    tensor is [experts, inputs, outputs]."""
    scales: str | None = None
    """Those of MXFP4 blocks, [experts, outputs, inputs / 32]."""


class Family(Protocol):
    """One family of mixture-of-experts models. Names are those of stored tensors."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def model_type(self) -> str:
        """As config.json says it."""
        ...

    @property
    def architecture(self) -> str:
        """The model class's name, in transformers and in SGLang alike."""
        ...

    @property
    def sglang_module(self) -> str:
        """The module of SGLang that serves it."""
        ...

    @property
    def sglang_defaults(self) -> Mapping[str, Any]:
        """Values of config.json that transformers has a default for and SGLang needs to be told."""
        ...

    def dimensions(self, config: Mapping[str, Any], *, where: Path) -> Dimensions:
        """The sizes that `config` (of the file `where`) states. Raises UserError when one is missing or no size."""
        ...

    def foreign_storage(self, config: Mapping[str, Any]) -> str | None:
        """The format in which config.json says that the weights are stored, where it is none that `check` takes: of
        such tensors only the loader of that format knows what they are. None where it takes it."""
        ...

    def check(
        self, path: Path, config: Mapping[str, Any], dimensions: Dimensions, tensors: Mapping[str, StoredTensor]
    ) -> bool:
        """Check what the family alone knows of the checkpoint in `path`: how its experts are stored, what dtypes its
        tensors may have, and that none is taken for one of an expert. Whether all that are `needed` are there, in
        their shapes, is checked after this, for every family alike.

        Returns whether the experts are stored as MXFP4 (blocks and scales) or plain. Raises UserError.
        """
        ...

    def needed(
        self, config: Mapping[str, Any], dimensions: Dimensions, *, is_mxfp4: bool, where: Path
    ) -> dict[str, tuple[int, ...]]:
        """Every tensor that the model class loads, with the shape that `config` (of the file `where`) says. Raises
        UserError when a size is missing or no size."""
        ...

    def twins(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """Tensors that may be stored though the model class takes another that is needed for them (tied)."""
        ...

    def is_passed_over(self, name: str) -> bool:
        """Whether a stored tensor is one that every loader knows and leaves out: a buffer that it computes itself."""
        ...

    def kept(self, tensor: StoredTensor, keep: Mapping[int, Sequence[int]]) -> Kept | None:
        """What is kept of a tensor when the layer `l` of the model keeps the experts `keep[l]` (ascending ids); None
        when it goes with an expert that does."""
        ...

    def shard_group(self, name: str) -> tuple[int, int, str]:
        """In a rewritten checkpoint tensors follow this key (and then their names); those with the same lie in one
        shard."""
        ...

    def parted(self, tensors: Mapping[str, StoredTensor]) -> list[str]:
        """Which tensors lie in different shards though a loader wants them in one; one sentence each."""
        ...

    def pruned_config(self, config: Mapping[str, Any], keep_n: int) -> dict[str, Any]:
        """config.json of the checkpoint whose layers keep `keep_n` experts each."""
        ...

    def plain_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """config.json of the checkpoint whose experts are stored plain."""
        ...

    def expert_weights(self, dimensions: Dimensions, tensors: Mapping[str, StoredTensor]) -> Sequence[ExpertWeight]:
        """The weights of every expert, without biases and routers."""
        ...

    def layer_of(self, name: str) -> int | None:
        """The layer of the model that the tensor belongs to; None for what comes before the first or after the last."""
        ...

    def holds_experts(self, name: str) -> bool:
        """Whether the tensor shrinks in proportion with the experts."""
        ...

    def is_scales(self, name: str) -> bool:
        """Whether the tensor holds E8M0 scales (value 255 is NaN), whatever its dtype says."""
        ...

    def is_norm(self, name: str) -> bool:
        """Whether the tensor is the weight of a norm that opens an attention or a mixture of experts."""
        ...

    def model_class(self) -> "type[MoeModel]":
        """What transformers' model of `architecture` is wrapped in. Imports torch."""
        ...
