"""Which process of a pytest-xdist run does what: a collection, or all cases of a cell, at a time."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from xdist.scheduler import LoadScopeScheduling

from eaftgate.gate.cells import BASE

_CASE = re.compile(r"::(?P<test>test_\w+)\[(?P<id>.+)\]$")


def scope_of(nodeid: str, model: str | None = None) -> str:
    """Cases that read the same collections share a scope: the id less its metric. A collection is its own.

    With `model`, what a case scores that is no collection, all such cases of the model share one: they are few, and a
    second process that helped would load the model for its share of them.
    """
    match = _CASE.search(nodeid)
    if match is None or match["test"] == "test_collection":
        return nodeid
    return f"{match['test']}:{model or match['id'].rpartition('-')[0]}"


def next_scope(queue: Iterable[tuple[str, str | None]], own: str | None, taken: Collection[str | None]) -> str:
    """The scope for a process that has the model `own` loaded, of (scope, model it scores) in order.

    That model's next; else of a model that no other process has loaded (`taken`); else of any; else what scores none.
    """

    def rank(item: tuple[str, str | None]) -> int:
        _, model = item
        return 3 if model is None else 0 if model == own else 2 if model in taken else 1

    return min(queue, key=rank)[0]


class GateScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Every process stays with a model while it can, because to load one takes as long as to score two million tokens.

    `models` maps `function[id]` to the model that a case scores. With `in_order` all processes share the base until it
    is measured: everything else needs it then.
    """

    def __init__(self, config: Any, log: Any, *, models: Mapping[str, str], in_order: bool) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)
        self._models, self._in_order = models, in_order
        self._loaded: dict[Any, str] = {}

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid, self._model(nodeid))

    def _assign_work_unit(self, node: Any) -> None:
        queue = [(scope, self._model(next(iter(unit)))) for scope, unit in self.workqueue.items()]
        base_first = self._in_order and any(model == BASE for _, model in queue)
        others = [] if base_first else [self._loaded.get(other) for other in self.nodes if other != node]
        scope = next_scope(queue, self._loaded.get(node), others)
        if model := dict(queue)[scope]:
            self._loaded[node] = model
        self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _model(self, nodeid: str) -> str | None:
        return self._models.get(nodeid.partition("::")[2])
