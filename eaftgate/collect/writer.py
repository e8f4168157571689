"""What a writer is: a model that goes on with prompts by itself, greedily.

Imports nothing that is slow, as `collector` does not.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from eaftgate.collect.collector import ScoredModel

if TYPE_CHECKING:  # NumPy
    from eaftgate.packs.turns import Ending, IntArray


class Writer(Protocol):
    """Made cheaply: the model loads when the first token is asked for."""

    def settings(self) -> dict[str, Any]:
        """Everything besides model and prompts that decides what is written; part of the cache key."""
        ...

    def write(
        self, prompts: "Sequence[IntArray]", *, ending: "Ending", max_tokens: int
    ) -> "Iterator[tuple[int, list[int]]]":
        """(number of the prompt, what follows it), in any order. It ends with the first token at which `ending` says
        so, which is the last of it, or after `max_tokens`."""
        ...


@runtime_checkable
class WritingScorer(Protocol):
    """A Scorer (`collector`) whose models write, too. One that is none can be asked for no generations."""

    def writer(self, model: ScoredModel) -> Writer: ...
