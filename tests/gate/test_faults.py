"""A ladder of planted faults on the embedded checkpoint: where the damage of all blocks exceeds a margin, no budget
passes it; where it lies well inside, the whole budget does.

The faults are planted in the loaded model, which is what a rewritten file would load to.
"""

from collections.abc import Callable
from functools import cache

import pytest
from gate_command import BASE, GATE_PACKS
from planted import FAULTS, Usage, collected, excess, planted, usage_of
from shipped_policies import V2

from eaftgate.collect.collection import Collection
from eaftgate.families.model import MoeModel
from eaftgate.judge.cell import JudgedCell, judge_cell
from eaftgate.model.load import default_settings, load_model
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.paired import pair
from eaftgate.profile.profile import Profile

SEQ_LEN, BLOCKS = 256, 64
BUDGETS = (4, 8, 16, 32, BLOCKS)


@pytest.fixture(scope="module")
def blocks() -> Blocks:
    tokenizer = load_tokenizer(BASE)
    packs = named_packs(GATE_PACKS, seed=3407)
    return build_blocks(packs["UNION"], tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=SEQ_LEN, num_blocks=BLOCKS)


@pytest.fixture(scope="module")
def usage(profile: Profile) -> Usage:
    return usage_of(profile.trace)


@pytest.fixture(scope="module")
def loaded() -> MoeModel:
    return load_model(BASE, default_settings(device="cpu"))


@pytest.fixture(scope="module")
def base(loaded: MoeModel, blocks: Blocks) -> Collection:
    return collected(loaded, blocks)


def judged_at(base: Collection, candidate: Collection, budget: int) -> JudgedCell:
    tokens = pair(base, candidate)
    return judge_cell(V2, None, tokens.select(tokens.block_T < budget), budget, strict=False)


@pytest.fixture(scope="module")
def under_fault(loaded: MoeModel, blocks: Blocks, usage: Usage) -> Callable[[str], Collection]:
    @cache
    def measured(name: str) -> Collection:
        with planted(loaded, FAULTS[name], usage):
            return collected(loaded, blocks)

    return measured


@pytest.mark.parametrize("name", FAULTS)
def test_no_budget_passes_what_all_blocks_show_to_be_outside(
    name: str, base: Collection, under_fault: Callable[[str], Collection]
) -> None:
    candidate = under_fault(name)
    path = {budget: judged_at(base, candidate, budget) for budget in BUDGETS}
    verdicts = [path[budget].verdict for budget in BUDGETS]
    share = excess(V2, path[BLOCKS])
    assert not ("pass" in verdicts and "fail" in verdicts), (share, verdicts)
    if share > 1:
        assert "pass" not in verdicts, (share, verdicts)
    if share > 2:
        assert verdicts[-1] == "fail", (share, verdicts)
    if share < 0.5:
        assert "fail" not in verdicts, (share, verdicts)
        assert verdicts[-1] == "pass", (share, verdicts)


def test_the_ladder_reaches_from_far_inside_to_far_outside(
    base: Collection, under_fault: Callable[[str], Collection]
) -> None:
    names = ("fp8 rounding", "the most used expert of the first layer is zero", "scales raised")
    shares = {name: excess(V2, judged_at(base, under_fault(name), BLOCKS)) for name in names}
    assert shares["fp8 rounding"] < 0.5
    assert 1 < shares["the most used expert of the first layer is zero"] < 2
    assert shares["scales raised"] > 2


def test_small_budgets_wait_and_larger_ones_decide(
    loaded: MoeModel, base: Collection, blocks: Blocks, profile: Profile
) -> None:
    """Keep 24 by the default at 4 to 64 nested blocks: from inconclusive to pass, and never back."""
    from eaftgate.select.keep import select_keep_sets

    keep = select_keep_sets(profile.trace, method="eaft-reap", keep_n=24, alignment="predicting")
    with loaded.keeping(keep):
        candidate = collected(loaded, blocks)
    verdicts = [judged_at(base, candidate, budget).verdict for budget in BUDGETS]
    assert verdicts[0] == "inconclusive"
    assert verdicts[-1] == "pass"
    assert verdicts == sorted(verdicts), verdicts  # "inconclusive" < "pass"
