"""What the benchmarks measure with and say: batches of blocks, timed rounds, figures against a target."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.alternation import Rounds
from eaftgate.packs.blocks import BoolArray, IntArray

Compare = Callable[..., Rounds]


@dataclass(frozen=True)
class Batch:
    """What a collector gets, and the same token ids where the model is."""

    token_ids_BS: IntArray
    scored_BS: BoolArray
    device_ids_BS: torch.Tensor


@dataclass(frozen=True)
class Figure:
    """One row of the table; `at_least` or `at_most` is its target, if it has one."""

    subject: str
    reference: str
    value: float
    unit: str = "x"
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    @property
    def missed(self) -> bool:
        below = self.at_least is not None and not self.value >= self.at_least
        return below or (self.at_most is not None and not self.value <= self.at_most)


Report = Callable[[Figure], None]
