"""Which process of a pytest-xdist run does what: a collection, or all cases of a cell, at a time, in order."""

import re
from typing import Any

from xdist.scheduler import LoadScopeScheduling

_CASE = re.compile(r"::(?P<test>test_\w+)\[(?P<id>.+)\]$")


def scope_of(nodeid: str) -> str:
    """Cases that read the same collections share a scope: the id less its metric. A collection is its own."""
    match = _CASE.search(nodeid)
    if match is None or match["test"] == "test_collection":
        return nodeid
    return f"{match['test']}:{match['id'].rsplit('-', 1)[0]}"


class GateScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Scopes are handed out in the order of the items, collections first, one at a time."""

    def __init__(self, config: Any, log: Any = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)
