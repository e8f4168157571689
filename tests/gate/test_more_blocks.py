"""What would decide a run that could not: the fewest blocks that make every rule decide somewhere, and never more than
the packs hold."""

from typing import Any

import pytest
from results import parity_cell, parity_of

from eaftgate.gate.identity import PackIdentity, RunIdentity
from eaftgate.gate.more_blocks import MoreBlocks, more_blocks
from eaftgate.gate.results import FailedCase, Parity
from eaftgate.judge.verdict import MetricVerdict

RUN = RunIdentity(
    started="2026-01-02T03:04:05+00:00", ended="2026-01-02T04:04:05+00:00", directory="/somewhere", results="run",
    command="eaftgate gate --base=base --checkpoint=keep24 --num-blocks 8", host="box", system="Linux", processors=2,
    python="3.11", libraries={}, packs=(), checkpoints=(),
)  # fmt: skip


def lacking(blocks: int | None, **changes: Any) -> MetricVerdict:
    values: dict[str, Any] = {"underpowered": True, "decides": False, "blocks_needed": blocks, "lacks": "too few"}
    return MetricVerdict(0.01, 0.0, 0.02, 0.05, "inconclusive", **(values | changes))


def silent(metric: str, blocks: int | None) -> FailedCase:
    case = f"eaftgate/suite/test_must_decide.py::test_must_decide[keep24-{metric}]"
    return FailedCase(case=case, reason="decides nowhere", verdict="inconclusive", blocks_needed=blocks)


def run(*failed: FailedCase, tokens: int | None = None, by_recipe: bool = False, **metrics: MetricVerdict) -> Parity:
    """Two lengths, of which the shorter one needs more than twice as many blocks of everything."""
    cells = [
        parity_cell(seq_len=length, verdict="pass", metrics=metrics, deciding=tuple(m for m in metrics if m == "ppl"))
        for length in (256, 512)
    ]
    packs = (PackIdentity(name="chat", rows=1000, tokens=tokens),)
    identity = RUN.model_copy(update={"packs": packs, "by_recipe": by_recipe})
    return parity_of(*cells, verdict="inconclusive", failed=failed, run=identity)


def of(parity: Parity) -> MoreBlocks:
    found = more_blocks(parity)
    assert found is not None
    return found


def test_the_most_demanding_cell_is_not_asked_for() -> None:
    """By 1,061 blocks the rule would decide at both lengths, by 486 at one: one is enough."""
    found = of(run(silent("nll_call", 479), silent("exact_calls", 486), exact_calls=lacking(1061)))
    assert "About 486 blocks would" in found.said
    assert found.words == "eaftgate gate --base=base --checkpoint=keep24 --num-blocks=535"


def test_what_need_not_decide_is_not_asked_for() -> None:
    assert "About 479 blocks" in of(run(silent("nll_call", 479), exact_finals=lacking(9000))).said


def test_an_open_bound_where_a_rule_decides_is() -> None:
    """Its number has its power already, and nothing on top."""
    open_ = MetricVerdict(0.04, 0.0, 0.06, 0.05, "inconclusive", blocks_needed=700)
    found = of(run(silent("nll_call", 479), ppl=open_))
    assert found.words.endswith(" --num-blocks=700")


def test_a_recipe_is_told_in_its_own_words() -> None:
    found = of(run(silent("exact_calls", 486), by_recipe=True))
    assert found.words == "gate: {num_blocks: 535}"
    assert "In the recipe, then the same command again:" in found.said


@pytest.mark.parametrize(("held", "asked"), [(2000, 535), (500, 500), (486, 486)])
def test_never_more_than_the_packs_hold(held: int, asked: int) -> None:
    found = of(run(silent("exact_calls", 486), tokens=held * 512 + 511))
    assert found.words.endswith(f" --num-blocks={asked}")
    assert "the packs hold as many" not in found.said


def test_packs_that_hold_too_few_are_said_to_need_rows() -> None:
    found = of(run(silent("exact_calls", 486), tokens=243 * 512))
    assert found.words == ""
    assert "the packs hold 243: it needs about 1,000 more rows of chat" in found.said


def test_what_no_number_would_decide_is_said() -> None:
    assert "nor how many blocks would" in of(run(silent("exact_calls", None))).said
    assert "About 479 blocks or more would" in of(run(silent("nll_call", 479), silent("exact_calls", None))).said
    open_ = MetricVerdict(0.04, 0.0, 0.06, 0.05, "inconclusive", blocks_needed=None)
    hopeless = of(run(silent("nll_call", 479), ppl=open_))
    assert hopeless.said.startswith("No number of blocks")
    assert hopeless.words == ""


def test_a_run_of_an_earlier_version_did_not_say_which_cell_comes_nearest() -> None:
    parity = run(silent("exact_calls", None), exact_calls=lacking(486))
    short = parity.cells[0].model_copy(update={"metrics": {"exact_calls": lacking(1061)}})
    assert "About 486 blocks" in of(parity.model_copy(update={"cells": (short, parity.cells[1])})).said


def test_a_run_that_has_decided_needs_none() -> None:
    assert more_blocks(parity_of(parity_cell())) is None
