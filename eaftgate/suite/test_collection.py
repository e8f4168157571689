"""The unit of parallel work: one model on one pack at one seq_len. Verdicts only read what is measured here."""

from collections.abc import Callable
from typing import Any

from eaftgate.gate.cells import Cell
from eaftgate.gate.run import GateRun


def test_collection(collection_case: Cell, run: GateRun, record_property: Callable[[str, Any], None]) -> None:
    if run.stops_early(collection_case):
        judged = run.cell(collection_case)
        record_property("tokens", judged.metrics.tokens)
        record_property("num_blocks", judged.num_blocks)
        assert 0 < judged.num_blocks <= collection_case.num_blocks
        return
    collection = run.collection(collection_case.checkpoint, collection_case)
    speed = collection.meta["speed"]
    record_property("tokens", len(collection.stats))
    record_property("tokens_per_second", round(speed["tokens"] / max(speed["seconds"], 1e-9)))
    assert len(collection.stats) == run.blocks(collection_case).num_scored
