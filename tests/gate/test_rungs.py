"""near-lossless-v3 on the command that users run, on candidates that go wrong in one thing only (tests/rungs.py).

What is beyond a margin passes at no budget, what lies well inside fails at none that may decide, and where there is too
little to decide on the run says what is missing.
"""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from gate_command import BASE, GATE_PACKS, Run, gate
from prepared import once, run_once
from rungs import breach, call_specific_keep_sets, pairs_of, said_at, write_rungs
from shipped_policies import V3

from eaftgate.gate.again import differences, judged_again
from eaftgate.gate.more_blocks import more_blocks
from eaftgate.gate.results import read_parity
from eaftgate.judge.policy import DEFAULT_GATES, load_gates
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import UNION, named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.profile.profile import Profile

PACK, SEQ_LEN, BLOCKS, ROWS = "tool_agentic", 256, 496, 308
"""The pack that has calls, and as many of its shortest rows as make 300 documents: even so it takes a minute."""
BUDGETS = (8, 32, 128, 384, BLOCKS)
MUST_DECIDE = V3.must_decide(load_gates().regimes["fixture"].must_decide)
BY_V3 = (f"--base={BASE}", "--policy=near-lossless-v3", "--candidate-kind=other")


@pytest.fixture(scope="module")
def rungs(made: Path, profile: Profile) -> dict[str, Path]:
    tokenizer = load_tokenizer(BASE)
    union = named_packs(GATE_PACKS, seed=None)[UNION]
    shape = {"eos_id": tokenizer.eos_id, "seq_len": SEQ_LEN, "num_blocks": 256}
    blocks: Blocks = build_blocks(union, tokenizer.backend, **shape)
    keep = call_specific_keep_sets(profile.trace, drop=1, of=4)
    out = once(made / "rungs", lambda path: write_rungs(BASE, blocks, keep, path))
    return {path.name: path for path in out.iterdir() if path.is_dir()}


def options(rungs: dict[str, Path]) -> list[str]:
    return [f"--checkpoint={path}" for _, path in sorted(rungs.items())]


def test_where_there_is_too_little_to_decide_on_nothing_passes_and_the_run_says_what_is_missing(
    rungs: dict[str, Path], tmp_path: Path
) -> None:
    small = (f"--packs={GATE_PACKS}", "--regime=fixture", "--seq-lens=64", "--num-blocks=8", "--generate=0")
    some = {name: rungs[name] for name in ("copy", "names", "open")}
    run = gate(tmp_path / "run", *BY_V3, *options(some), *small)
    assert V3.evidence is not None
    assert run.code == 1
    assert run.parity["verdict"] == "inconclusive", run.output
    for name in some:
        case = run.junit[f"test_must_decide::test_must_decide[{name}-nll_header]"]
        assert (case.outcome, case.properties["verdict"]) == ("failure", "inconclusive")
        assert "decides nowhere: nll_header is underpowered:" in case.reason
        assert f" of {V3.evidence.min_documents} documents" in case.reason
        case = run.junit[f"test_something_decides::test_something_decides[{name}-UNION-64]"]
        assert (case.outcome, case.properties["verdict"]) == ("failure", "inconclusive")
        assert "no rule decides in this cell: ppl has " in case.reason
        assert not any(metric["decides"] for cell in run.cells(name).values() for metric in cell["metrics"].values())
    parity = read_parity(run.results)
    asked = next(case for case in parity.failed if case.case.endswith("[copy-nll_header]")).blocks_needed
    cells = [cell for cell in parity.cells if cell.name == "copy"]
    assert asked == min(cell.metrics["nll_header"].blocks_needed or math.inf for cell in cells)
    assert parity.run is not None
    assert all(pack.tokens is not None and pack.tokens > 64 * 1000 for pack in parity.run.packs)
    needed = more_blocks(parity)
    assert needed is not None
    assert f"{needed.said} {needed.words}" in run.output
    assert differences(parity.model_dump(), judged_again(run.results, parity).model_dump()) == []


@pytest.fixture(scope="module")
def whole(made: Path, rungs: dict[str, Path]) -> Run:
    gates = json.loads(DEFAULT_GATES.read_text(encoding="utf-8"))
    regime = {"packs": [PACK], "primary": {"packs": [PACK], "seq_lens": [SEQ_LEN]}, "seq_lens": [SEQ_LEN]}
    gates["regimes"]["ladder"] = gates["regimes"]["fixture"] | regime | {"num_blocks": BLOCKS}
    path = made / "ladder.json"
    path.write_text(json.dumps(gates), encoding="utf-8")
    where = (f"--packs={once(made / 'short', shortest_rows)}", f"--gates={path}", "--regime=ladder")
    cases = ("-k", "near_lossless or must_decide")
    return run_once(made / "ladder-run", *BY_V3, *options(rungs), *where, *cases, timeout=1_200)


def shortest_rows(out: Path) -> None:
    rows = pq.read_table(GATE_PACKS / f"{PACK}.parquet")
    shortest = np.argsort([len(text) for text in rows["text"].to_pylist()], kind="stable")[:ROWS]
    out.mkdir()
    pq.write_table(rows.take(np.sort(shortest)), out / f"{PACK}.parquet")


FAILS = {"calls", "names", "open", "finals"}


@pytest.mark.slow
@pytest.mark.long
def test_no_budget_passes_what_is_outside_or_fails_what_is_well_inside(whole: Run, rungs: dict[str, Path]) -> None:
    parity = read_parity(whole.results)
    for name in rungs:
        pairs = pairs_of(whole.results, name)
        path = {budget: said_at(V3, MUST_DECIDE, pairs, budget, primary=PACK) for budget in BUDGETS}
        assert not breach(path, canonical=BLOCKS), (name, breach(path, canonical=BLOCKS))
        last = path[BLOCKS]
        assert (last.verdict == "fail") == (name in FAILS), (name, last.verdict, last.by, last.share)
        assert path[8].verdict == "inconclusive"
        assert path[8].silent
        for cell in (cell for cell in parity.cells if cell.name == name):  # what is judged here is what the run said
            judged = last.cells[cell.pack, cell.seq_len]
            assert (cell.verdict, dict(cell.metrics)) == (judged.verdict, dict(judged.verdicts))


@pytest.mark.slow
@pytest.mark.long
def test_every_rung_goes_wrong_in_what_it_should(whole: Run) -> None:
    """And in nothing else: perplexity moves by less than what near-lossless-v2 allows."""

    def losses(name: str) -> dict[str, float]:
        metrics = whole.cells(name)[f"{PACK}-{SEQ_LEN}"]["metrics"]
        return {
            metric: metrics[metric]["estimate"] for metric in metrics if metric.startswith(("ppl", "nll_", "exact_"))
        }

    def beyond(name: str) -> set[str]:
        found = losses(name)
        return {
            metric for metric in ("nll_header", "nll_call", "nll_final", "nll_close") if np.expm1(found[metric]) > 0.05
        }

    assert {name: beyond(name) for name in FAILS} == {
        "calls": {"nll_call"}, "names": {"nll_header"}, "open": {"nll_close"}, "finals": {"nll_final"},
    }  # fmt: skip
    for name in FAILS:
        assert np.expm1(losses(name)["ppl"]) < 0.04
    v2 = {name: whole.cells(name)[f"{PACK}-{SEQ_LEN}"]["v2_verdict"] for name in FAILS}
    assert v2 == {"calls": "pass", "names": "pass", "open": "fail", "finals": "pass"}, v2
    calls = losses("calls")
    assert np.expm1(calls["ppl"]) < 0.02
    assert calls["exact_calls"] > 0.1
    assert losses("names")["exact_calls"] > 0.9
