"""A model of which one part at a time is in memory: the embedding, one layer, what comes after the last.

transformers' model is made without weights. Those of a part are read when its context opens, MXFP4 experts dequantised
one after another by transformers' own operation, and gone when it closes; bit for bit they are those of `load_model`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.integrations.mxfp4 import Mxfp4Dequantize

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.checkpoint.header import TensorEntry
from eaftgate.checkpoint.read import read_all
from eaftgate.errors import UserError
from eaftgate.families.family import ExpertWeight
from eaftgate.families.model import MoeModel
from eaftgate.model.load import DTYPES, ModelSettings, module_without_weights

CHUNK_BYTES = 1 << 26
"""Read at a time, of a tensor that is no expert's."""
_STORED = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "U8": torch.uint8}


class StreamedModel:
    """`model` can do what the part that is open can do: embed, run one layer, or normalise and be asked for its head.

    One part is open at a time. All contexts raise UserError for a file that cannot be read, and for a part that does
    not fit into memory.
    """

    def __init__(self, checkpoint: Checkpoint, settings: ModelSettings) -> None:
        """Raises UserError when transformers makes no model of config.json, or one that needs other tensors."""
        self.device, self._dtype = torch.device(settings.device), DTYPES[settings.dtype]
        self._settings, self._checkpoint = settings, checkpoint
        self._module = module_without_weights(checkpoint.path, settings.dtype)
        self.model: MoeModel = checkpoint.family.model_class()(self._module)
        weights = checkpoint.family.expert_weights(checkpoint.dimensions, checkpoint.tensors)
        self._packed = {weight.name: (weight, weight.scales) for weight in weights if weight.scales is not None}
        names = {parameter: name for name, parameter in self._module.named_parameters()}
        self._empty = {name: parameter for parameter, name in names.items()}
        self._holders: dict[str, list[tuple[nn.Module, str]]] = defaultdict(list)
        for part in self._module.modules():
            for attribute, parameter in part.named_parameters(recurse=False):
                self._holders[names[parameter]].append((part, attribute))  # a tied one has several
        self._check_stored()
        self._make_buffers()
        self._embedding = {names[parameter] for parameter in self._module.get_input_embeddings().parameters()}

    @contextmanager
    def embedding(self) -> Iterator[None]:
        with self._holding(self._embedding):
            yield

    @contextmanager
    def layer(self, number: int) -> Iterator[None]:
        with self._holding(name for name in self._holders if self._checkpoint.family.layer_of(name) == number):
            yield

    @contextmanager
    def head(self) -> Iterator[None]:
        outside = [name for name in self._holders if self._checkpoint.family.layer_of(name) is None]
        with self._holding(n for n in outside if n not in self._embedding or len(self._holders[n]) > 1):
            yield

    def spread(self, layer_devices: Sequence[str], *, outside: str) -> MoeModel:
        """The whole model for good, every layer on its device, what is outside them on one.

        Raises UserError for a file that cannot be read, torch.OutOfMemoryError where something does not fit.
        """
        for name in list(self._holders):
            layer = self._checkpoint.family.layer_of(name)
            self._fill(name, torch.device(outside if layer is None else layer_devices[layer]))
        return self.model

    def _check_stored(self) -> None:
        for name, parameter in self._empty.items():
            stored = self._packed[name][0] if name in self._packed else self._checkpoint.tensors.get(name)
            shape = stored and stored.shape
            if shape != tuple(parameter.shape):
                raise UserError(
                    f"{self._checkpoint.path}: the model of transformers needs tensor {name!r} of shape "
                    f"{list(parameter.shape)}, which is not what is stored; take a complete copy of the checkpoint"
                )

    def _make_buffers(self) -> None:
        """Those that no file holds (rotary frequencies), as transformers makes them when it loads a model."""
        for part in self._module.modules():
            if any(buffer.is_meta for buffer in part.buffers(recurse=False)):
                part.to_empty(device=self.device, recurse=False)
                self._module._init_weights(part)

    @contextmanager
    def _holding(self, names: Iterable[str]) -> Iterator[None]:
        held = list(names)
        try:
            self._load(held)
            yield
        finally:
            for name in held:
                self._put(name, self._empty[name])

    def _load(self, names: Iterable[str]) -> None:
        try:
            for name in names:
                self._fill(name, self.device)
        except torch.OutOfMemoryError:
            raise UserError(
                f"not even one layer at a time of {self._checkpoint.path} fits into the memory of "
                f"{self._settings.device} as {self._settings.dtype}; use another device"
            ) from None

    def _fill(self, name: str, device: torch.device) -> None:
        self._put(name, nn.Parameter(self._read(name, device), requires_grad=False))

    def _put(self, name: str, parameter: nn.Parameter) -> None:
        for part, attribute in self._holders[name]:
            setattr(part, attribute, parameter)

    def _read(self, name: str, device: torch.device) -> Tensor:
        """The weights as the model has them, in its dtype."""
        out = torch.empty(self._empty[name].shape, dtype=self._dtype, device=device)
        if name in self._packed:
            for expert, weights in enumerate(self._dequantised(*self._packed[name], device)):
                out[expert] = weights
            return out
        entry = self._checkpoint.tensors[name]
        rows = max(1, CHUNK_BYTES * len(out) // entry.nbytes)
        for begin in range(0, len(out), rows):
            out[begin : begin + rows] = self._rows(entry, begin, min(begin + rows, len(out)), device)
        return out

    def _dequantised(self, weight: ExpertWeight, scales: str, device: torch.device) -> Iterator[Tensor]:
        """Expert after expert: what transformers needs beside the weights is several times as much as they are."""
        operation = Mxfp4Dequantize(None)
        for expert in range(weight.shape[0]):
            parts = {
                name.rpartition(".")[2]: self._rows(self._checkpoint.tensors[name], expert, expert + 1, device)
                for name in (weight.stored, scales)
            }
            found = operation.convert(parts, model=self._module, full_layer_name=weight.name)
            yield found[weight.name].detach()[0]

    def _rows(self, entry: TensorEntry, begin: int, end: int, device: torch.device) -> Tensor:
        """Rows of dimension 0 as they are stored, on the device. A GPU may be busy with the layer before meanwhile: it
        is not waited for, and pinned memory is used again when the copy from it is done."""
        stride = entry.nbytes // entry.shape[0]
        stored = torch.empty((end - begin) * stride, dtype=torch.uint8, pin_memory=device.type == "cuda")
        shard = self._checkpoint.path / entry.shard
        try:
            with shard.open("rb", buffering=0) as file:
                read_all(file, entry.begin + begin * stride, stored.numpy().data)
        except OSError as error:
            raise UserError(f"shard {shard} cannot be read ({error.strerror}); check the checkpoint") from None
        rows = stored.view(_STORED[entry.dtype]).view(end - begin, *entry.shape[1:])
        return rows.to(device, non_blocking=True)
