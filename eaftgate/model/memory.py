"""What memory there is for a model, and whether it is enough for all of it."""

from collections.abc import Sequence
from pathlib import Path

import torch

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.model.load import DTYPES, ModelSettings
from eaftgate.model.weights import loading_bytes, spread_layers, whole_bytes

_OF_LINUX = Path("/proc/meminfo")
_OF_GROUP = Path("/sys/fs/cgroup")
ANY_ROOM = 1 << 60


def lack_of_memory(checkpoint: Checkpoint, settings: ModelSettings, *, held: int = 0) -> str | None:
    """Why the whole model with plain experts cannot be had on the device, with `held` bytes besides when it is loaded;
    None where it can, or nobody knows."""
    item_bytes, free = DTYPES[settings.dtype].itemsize, free_bytes(settings.device)
    weights, loading = whole_bytes(checkpoint, item_bytes), loading_bytes(checkpoint, item_bytes)
    if free is None or weights + max(held, loading) <= free:
        return None
    where = f"{free / 1e9:.1f} GB are free"
    if loading > held:
        return _sentence(checkpoint, settings, weights + loading, 0, where)
    return _sentence(checkpoint, settings, weights, held, where)


def lack_of_memory_on(
    devices: Sequence[str], checkpoint: Checkpoint, settings: ModelSettings, *, held: int = 0
) -> str | None:
    """The same with the layers on several devices, as `eaftgate.model.spread` has them, and `held` bytes on any."""
    item_bytes = DTYPES[settings.dtype].itemsize
    free = rooms(devices)
    _, shares = spread_layers(checkpoint, item_bytes, free)
    if all(share + held <= room for share, room in zip(shares, free, strict=True)):
        return None
    where = f"{sum(free) / 1e9:.1f} GB are free" + (f" on {len(devices)} devices" if len(devices) > 1 else "")
    return _sentence(checkpoint, settings, whole_bytes(checkpoint, item_bytes), held, where)


def rooms(devices: Sequence[str]) -> list[int]:
    """What is free of each; a device that does not say has room for anything."""
    return [ANY_ROOM if free is None else free for free in map(free_bytes, devices)]


def _sentence(checkpoint: Checkpoint, settings: ModelSettings, weights: int, held: int, where: str) -> str:
    besides = f", and {held / 1e9:.1f} GB of hidden states and the like are held besides" if held else ""
    return f"{checkpoint.name} takes {weights / 1e9:.1f} GB as {settings.dtype}{besides}, and {where}"


def free_bytes(device: str) -> int | None:
    """Of the device's memory; None where the system does not say."""
    if torch.device(device).type == "cuda":  # what torch keeps for later is free, too
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
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
