"""The unit of parallel work: what one model writes for the turns of one pack. Verdicts only read it."""

from collections.abc import Callable
from typing import Any

from eaftgate.gate.run import GateRun


def test_written(writing_case: tuple[str, str], run: GateRun, record_property: Callable[[str, Any], None]) -> None:
    generations = run.generations(*writing_case)
    tokens = sum(len(turn.tokens) for turn in generations.written)
    record_property("turns", len(generations))
    record_property("too_long", generations.too_long)
    record_property("ended", sum(turn.ended for turn in generations.written))
    record_property("tokens", tokens)
    record_property("tokens_per_second", round(generations.seconds_tokens / max(generations.seconds, 1e-9)))
    assert 0 < len(generations) <= run.plan.turns
