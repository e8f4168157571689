"""What a lender is: a scorer whose model others may run as they run any of transformers' models.

Imports nothing that is slow, as `collector` does not.
"""

from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from eaftgate.collect.collector import ScoredModel


@runtime_checkable
class Lender(Protocol):
    """A Scorer (`collector`) with its model in this process. One that is none can be asked for no tasks."""

    def lent_settings(self, model: ScoredModel) -> dict[str, Any]:
        """Everything of how the model runs that decides what is made of it; part of the cache key."""
        ...

    def lent(self, model: ScoredModel) -> AbstractContextManager[Any]:
        """transformers' model, loaded, in evaluation mode on its device, with the checkpoint's generation_config.json,
        while the context is open. Raises UserError where its family lends none."""
        ...
