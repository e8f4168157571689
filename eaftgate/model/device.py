"""Where a model runs, and in what: the words for a device and a dtype, and whether this machine has it. torch is
imported when a GPU is asked for, not before."""

import re

from eaftgate.choices import listed
from eaftgate.errors import UserError

DTYPE_NAMES = ("float32", "bfloat16")


def check_dtype(dtype: str) -> None:
    """Raises UserError for a word that names none."""
    if dtype not in DTYPE_NAMES:
        raise UserError(f"dtype {dtype!r} is not one of {listed(DTYPE_NAMES, meant=dtype)}")


def check_named(device: str) -> None:
    """Raises UserError for a word that names no device."""
    if not re.fullmatch(r"cpu|cuda(:(0|[1-9][0-9]*))?", device):
        raise UserError(f"device {device!r} is none of cpu, cuda, cuda:N")


def check_there(device: str) -> None:
    """Raises UserError for a word that names no device, and for a GPU that torch does not see."""
    check_named(device)
    if device == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        raise UserError(f"device {device} was asked for, but torch {torch.__version__} sees no CUDA GPU")
    if number_of(device) >= (found := torch.cuda.device_count()):
        raise UserError(f"device {device} was asked for, and the last that torch sees is cuda:{found - 1}")


def number_of(device: str) -> int:
    """Of a GPU, among those that a process sees."""
    return int(device.partition(":")[2] or 0)
