"""What to say of a name that is none of those there are."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'NAME'?` for the one of `names` that is close to `name`; empty when none is."""
    by_folded = {one.casefold(): one for one in reversed(list(names))}
    close = get_close_matches(name[:200].casefold(), by_folded, n=1)
    return f"; did you mean {by_folded[close[0]]!r}?" if close else ""


def listed(names: Iterable[str], *, meant: str) -> str:
    """All of `names`, and which of them `meant` may be."""
    known = list(names)
    return f"{', '.join(known)}{did_you_mean(meant, known)}"
