"""Several devices on a machine with one CPU: tensors know where they are, and what is not together does not meet.

In the mode a tensor on "cpu:N" says so; an operation on tensors of two devices is the error that CUDA makes of it. What
was made on "cpu" is the host's, and goes nowhere by itself, but for numbers and indices, as with CUDA.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DEVICE: Any = torch.Tensor.device
_MOVES: set[Any] = {torch.Tensor.to, torch.Tensor.cpu}
_TAKES_FROM_HOST: set[Any] = {torch.Tensor.__getitem__, torch.Tensor.__setitem__, torch.Tensor.copy_}
_TO_HOST: set[Any] = {torch.Tensor.numpy, torch.Tensor.__array__}


class FakeDevices(TorchFunctionMode):
    """`used`: the numbers of the devices that something was computed on."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[int] = set()
        self._at: dict[int, int | None] = {}
        """By address, for parameters, which are made of tensors behind this mode's back."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == _DEVICE.__get__:
            place = self._place(args[0])
            return func(*args) if place is None else torch.device("cpu", place)
        if func in _MOVES:
            return self._moved(func, args, kwargs)
        if func in _TO_HOST and self._place(args[0]) is not None:
            raise RuntimeError("a tensor of a device has no NumPy array: use Tensor.cpu() first")
        place = self._together(func, list(_tensors([*args, *kwargs.values()])))
        if isinstance(made_on := kwargs.get("device"), (str, torch.device)):
            place = torch.device(made_on).index
        found = func(*args, **kwargs)
        if not (args and found is args[0]):  # in place: it stays where it is
            self._put(found, place)
        return found

    def _together(self, func: Any, tensors: list[torch.Tensor]) -> int | None:
        places = {place for tensor in tensors if (place := self._place(tensor)) is not None}
        if len(places) > 1:
            raise RuntimeError(f"{func}: tensors on devices {sorted(places)}")
        on_host = any(self._place(tensor) is None and tensor.dim() for tensor in tensors)
        if places and on_host and func not in _TAKES_FROM_HOST:
            raise RuntimeError(f"{func}: tensors on device {places} and on the host")
        self.used |= places
        return next(iter(places), None)

    def _moved(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = [*args[1:], *kwargs.values()]
        target = next((a for a in given if isinstance(a, (str, torch.device))), None)
        like = next((a for a in given if isinstance(a, torch.Tensor)), args[0])
        if func is torch.Tensor.cpu:
            place = None
        else:
            place = self._place(like) if target is None else torch.device(target).index
        moved = func(*args, **kwargs)
        if moved is args[0]:
            if place == self._place(moved):
                return moved
            moved = moved.clone()
        self._put(moved, place)
        return moved

    def _place(self, tensor: torch.Tensor) -> int | None:
        if isinstance(tensor, torch.nn.Parameter) and not hasattr(tensor, "place") and not tensor.is_meta:
            tensor.place = self._at.get(tensor.data_ptr())  # type: ignore[attr-defined]
        return getattr(tensor, "place", None)

    def _put(self, found: Any, place: int | None) -> None:
        for tensor in _tensors([found]):
            if not tensor.is_meta:
                tensor.place = place  # type: ignore[attr-defined]
                self._at[tensor.data_ptr()] = place


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
