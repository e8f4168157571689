"""What differs between the kinds of servers: what is asked, and what comes back."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eaftgate.collect.collection import TokenStats
from eaftgate.collect.collector import Said
from eaftgate.collect.servers.exchange import Bounds, Place, ask
from eaftgate.errors import UserError
from eaftgate.packs.turns import Ending
from eaftgate.strict_json import shown

DESCRIBING = Bounds(idle=30.0, total=60.0, nbytes=1 << 22)
_MAX_CHARACTERS = 300
Question = tuple[str, dict[str, Any]]
"""A path, and what is asked there."""


class Dialect(Protocol):
    """Of one kind of server. `name` is that of --collector, `engine` what people call it; `entry_bytes` bound what a
    log-probability with its token takes in an answer, `token_bytes` a token that was written.

    What reads an answer raises UserError for one that is not of this form, or contradicts itself; it is at `where`.
    """

    name: str
    engine: str
    entry_bytes: int
    token_bytes: int

    def model(self, place: Place, *, waits: Sequence[float] = ()) -> Said:
        """What it says it serves, `model` first."""
        ...

    def settings(self, place: Place, *, waits: Sequence[float] = ()) -> Said:
        """What of its own description decides the numbers."""
        ...

    def start(self, place: Place, *, waits: Sequence[float] = ()) -> Said:
        """What tells a start of it from another, as far as it tells, and its `context`, the longest it takes."""
        ...

    def scoring(self, token_ids_BS: NDArray[Any]) -> Question:
        """Asks for the top 20 of every token."""
        ...

    def each(self, answer: Any) -> list[Any] | None:
        """Of every block, in order; None for what is no such answer."""
        ...

    def stats(
        self, answer: Any, token_ids_S: NDArray[Any], scored_S: NDArray[np.bool_], *, vocab_size: int, largest: int,
        where: str,
    ) -> TokenStats:  # fmt: skip
        """Of a block. `vocab_size` is the tokenizer's at least, and `largest` how many ids there may be."""
        ...

    def writing(self, tokens: Sequence[int], ending: Ending, max_tokens: int) -> Question: ...

    def written(self, answer: Any, *, max_tokens: int, vocab_size: int, where: str) -> list[int]: ...


def described(place: Place, path: str, keys: Sequence[str], *, engine: str, waits: Sequence[float] = ()) -> Said:
    """What a server says of itself at `path`, under `keys`. Raises UserError."""
    remedy = f"is {engine} running there?"
    found = ask(place, path, bounds=DESCRIBING, waits=waits, remedy=remedy)
    values = {key: found.get(key) for key in keys} if isinstance(found, dict) else {"": found}
    return plain_values(values, place, path, engine=engine)


def plain_values(values: dict[str, Any], place: Place, path: str, *, engine: str) -> Said:
    """Raises UserError for one that is no short text and no number."""
    for value in values.values():
        if not isinstance(value, str | int | float | None) or len(str(value)) > _MAX_CHARACTERS:
            raise UserError(f"{place.url}{path} answers {shown(value)}: is {engine} running there?")
    return values
