"""What memory there is for a model, and whether it is enough for all of it."""

from pathlib import Path

import torch

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.model.load import DTYPES, ModelSettings
from eaftgate.model.weights import whole_bytes

_OF_LINUX = Path("/proc/meminfo")
_OF_GROUP = Path("/sys/fs/cgroup")


def lack_of_memory(checkpoint: Checkpoint, settings: ModelSettings) -> str | None:
    """Why the whole model with plain experts cannot be had on the device; None where it can, or nobody knows."""
    free = free_bytes(settings.device)
    needed = whole_bytes(checkpoint, DTYPES[settings.dtype].itemsize)
    if free is None or needed <= free:
        return None
    return f"{checkpoint.name} takes {needed / 1e9:.1f} GB as {settings.dtype}, and {free / 1e9:.1f} GB are free"


def free_bytes(device: str) -> int | None:
    """Of the device's memory; None where the system does not say."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":", 1) for line in _OF_LINUX.read_text(encoding="ascii").splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None
    try:  # a container's own limit; what of its memory is a file's can be had back
        told = dict(line.split() for line in (_OF_GROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        limit = int((_OF_GROUP / "memory.max").read_text(encoding="ascii"))
        used = int((_OF_GROUP / "memory.current").read_text(encoding="ascii")) - int(told["file"])
        return min(free, max(0, limit - used))
    except (OSError, ValueError, KeyError):
        return free
