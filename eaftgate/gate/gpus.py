"""Which GPUs a worker of pytest-xdist uses: its share of those the caller may see, taken before CUDA is initialised."""

import os
from collections.abc import Sequence
from pathlib import Path


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES names, or every GPU of the machine by number."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    devices = [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()]
    return [str(number) for number in range(len(devices))]


def share_of(worker: int, each: int, gpus: Sequence[str]) -> list[str]:
    """The `each` GPUs of a worker; workers beyond the last GPU start again at the first."""
    return [gpus[(worker * each + place) % len(gpus)] for place in range(min(each, len(gpus)))] if gpus else []


def pin_gpus(worker: int, each: int) -> None:
    """Indexes into the caller's CUDA_VISIBLE_DEVICES, which may hold any selection, UUIDs too."""
    if share := share_of(worker, each, visible_gpus()):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(share)
