"""--whole-text: what all tokens lose is shown, and nothing else moves by one bit."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from gate_command import BASE, GATE_PACKS, Run, gate
from prepared import TINY

from eaftgate.collect.collection import load_collection
from eaftgate.errors import UserError
from eaftgate.gate.planning import make_plan
from eaftgate.gate.request import GateOptions

V3 = ("--policy=near-lossless-v3", "--generate=0")


def judged(results: Path, candidate: Path, *options: str) -> Run:
    return gate(results, f"--base={BASE}", f"--checkpoint={candidate}", f"--packs={GATE_PACKS}", *TINY, *V3, *options)


def slow_loss(results: Path, cell: dict[str, Any]) -> float:
    """Candidate less base, over all tokens that were scored, one after the other."""
    base, candidate = (
        load_collection(results / "collections" / cell["inputs"]["collections"][role]).stats.logprob_T.tolist()
        for role in ("base", "checkpoint")
    )
    assert len(base) == len(candidate) == cell["num_blocks"] * (cell["seq_len"] - 1)
    return math.fsum(b - c for b, c in zip(base, candidate, strict=True)) / len(base)


def test_all_tokens_are_shown_and_every_other_figure_is_the_same_to_the_bit(random8: Path, tmp_path: Path) -> None:
    without = judged(tmp_path / "without", random8)
    before = without.cells("random8")
    with_prompts = judged(tmp_path / "with", random8, "--whole-text")
    # In the directory of the one without: other collections, and the same figures as in one of its own.
    again = judged(without.results, random8, "--whole-text")
    assert without.code == with_prompts.code == again.code == 1
    assert re.search(r"^all tokens +64 +378 ", with_prompts.output, re.M)
    assert not re.search(r"^all tokens", without.output, re.M)
    assert re.search(r"^header +64 ", without.output, re.M)
    for run in (with_prompts, again):
        for place, cell in run.cells("random8").items():
            everything = cell["metrics"].pop("ppl_all")
            assert everything["estimate"] == pytest.approx(slow_loss(run.results, cell), rel=1e-12)
            assert (everything["verdict"], everything["decides"]) == (None, False)
            tokens = cell["details"].pop("ppl_all")["tokens"]
            assert tokens == cell["num_blocks"] * (cell["seq_len"] - 1) > cell["tokens"]
            changed = {"inputs", "metrics"}
            assert {k: v for k, v in cell.items() if k not in changed} == {
                k: v for k, v in before[place].items() if k not in changed
            }
            others = {name: metric for name, metric in before[place]["metrics"].items() if name != "ppl_all"}
            assert cell["metrics"] == others
            assert cell["inputs"]["collections"].keys() == {"base", "checkpoint"}
            assert not set(cell["inputs"]["collections"].values()) & set(
                before[place]["inputs"]["collections"].values()
            )
    for cell in before.values():
        assert cell["metrics"]["ppl_all"]["lacks"] == "all tokens do not occur"


def test_a_policy_that_does_not_judge_all_tokens_is_a_usage_error(tmp_path: Path) -> None:
    options = GateOptions(
        results=tmp_path, base=str(BASE), packs=GATE_PACKS, whole_text=True, policy="near-lossless-v2"
    )
    with pytest.raises(UserError, match="--whole-text needs a policy with a rule for ppl_all: near-lossless-v2 has"):
        make_plan(options, fixture_packs=GATE_PACKS)
