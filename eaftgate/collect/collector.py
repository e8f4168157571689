"""What a collector is, and what a gate asks of a kind of collector that --collector may name.

Imports nothing that is slow: what kinds there are is asked before anything else is.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # NumPy
    from eaftgate.collect.collection import TokenStats
    from eaftgate.packs.blocks import Blocks


LIBRARIES = ("numpy", "safetensors", "scipy", "tokenizers", "torch", "transformers")
"""What numbers depend on besides our own version."""


class Collector(Protocol):
    """Token statistics of one model, batch after batch. Made cheaply: the model loads when the first is asked for."""

    def settings(self) -> dict[str, Any]:
        """Everything besides model and blocks that decides the numbers; part of the cache key."""
        ...

    def batches(self, blocks: "Blocks", first_block: int) -> "Iterator[tuple[int, TokenStats]]":
        """Yield (number of blocks, their token statistics) from `first_block` on, in block order."""
        ...


@dataclass(frozen=True)
class ScoredModel:
    """`name` is what the run calls it, like "base"; `source` is what its user does: a directory, a hub id, or the URL
    of its server, where there is nothing of it at `path` but its tokenizer."""

    name: str
    source: str
    path: Path
    digest: str
    is_mxfp4: bool
    foreign: str | None = None
    """The format of its weights, where the family knows nothing of it."""
    vocab_size: int | None = None
    """The tokenizer's, where there is nothing of the model at `path`."""


class Scorer(Protocol):
    """The collectors of a process. It may hold a loaded model or an engine: one at a time, two do not fit on a GPU."""

    def collector(self, model: ScoredModel, *, other_batches: bool = False) -> Collector:
        """`other_batches`: in others than it would take by itself, for the noise floor."""
        ...

    def close(self) -> None:
        """Give the memory back, end what was started."""
        ...


Said = dict[str, str | float | None]
"""What a server says of itself, by its own names."""


@runtime_checkable
class ServingScorer(Scorer, Protocol):
    """A Scorer of servers, which knows a model by its server's URL. All raise UserError where one does not answer."""

    def said(self, url: str, *, patient: bool = False) -> Said:
        """What tells its `model`, its settings, and that it was not started again. `patient`: it is asked again where
        it has not answered."""
        ...

    def tokens(self, url: str, text: str) -> list[int] | None:
        """`text` as the server's tokenizer has it; None where it does not tell."""
        ...


@dataclass(frozen=True)
class Served:
    """What a run compares that has nothing of its models but the tokenizer, in a directory or under a hub id: URLs."""

    base: str
    candidates: tuple[str, ...]
    tokenizer: str


@dataclass(frozen=True)
class Needs:
    """What a run must know of its collector before anything is scored.

    `gpus` of a process, which the options `lowered_by` say; `starts_engines`: they are taken by engines of its own.
    `scores_copies`: whether it scores any directory, so that the base can be compared with rewritten copies of itself.
    `writes`, `lends`: whether its Scorer is a WritingScorer (`collect.writer`), a Lender (`collect.lender`).
    `loads_foreign`: whether it loads weights stored in whatever format transformers knows, and hears of missing ones.
    `served`: the models are behind servers alone, and its Scorer is a ServingScorer.
    """

    gpus: int = 1
    lowered_by: tuple[str, ...] = ()
    starts_engines: bool = False
    scores_copies: bool = True
    writes: bool = False
    loads_foreign: bool = False
    served: Served | None = None
    lends: bool = False


class CollectorKind(Protocol):
    """What --collector=NAME names. `given` are the options of its own that were given, by name without dashes and with
    underscores within, and the gate's `device` and `dtype`, which may be None."""

    name: str

    def add_options(self, option: Callable[..., object]) -> None:
        """Its own, by calls like those of ArgumentParser.add_argument; none has a default of its own."""
        ...

    def needs(self, given: Mapping[str, Any]) -> Needs:
        """Raises UserError for options that contradict each other."""
        ...

    def open(self, given: Mapping[str, Any], *, batch_size: int, logs: Path) -> Scorer:
        """`batch_size` is the number of blocks at a time, for those that do not batch by themselves; `logs` a directory
        for what engines print."""
        ...
