"""Rows to choose on and rows to score on: disjoint by identity, a share of every pack, the same for every budget."""

from pathlib import Path

import numpy as np
import pytest
from content import content_blocks

from eaftgate.errors import UserError
from eaftgate.packs.blocks import Blocks
from eaftgate.packs.harmony import TokenClass
from eaftgate.profile.profile import Profile, ProfileDescription
from eaftgate.profile.trace import Trace, TraceShard
from eaftgate.search.search import packs_of_rows
from eaftgate.study.holdout import HeldOut, hold_out

ROWS, TOKENS, SEQ_LEN = 12, 5, 8
PACK_R = np.array([0, 1] * 4 + [0] * 4)
"""Eight rows of pack 0, four of pack 1; row 3 has no answer, row 8 is row 0 again."""
IDENTITIES = tuple(f"row {0 if row == 8 else row}" for row in range(ROWS))


@pytest.fixture(scope="module")
def blocks() -> Blocks:
    row_BS = np.repeat(np.arange(ROWS, dtype=np.int32), TOKENS)[: ROWS * TOKENS // SEQ_LEN * SEQ_LEN]
    row_BS = row_BS.reshape(-1, SEQ_LEN)
    scored_BS = row_BS != 3
    scored_BS[:, 0] = False
    return content_blocks("UNION", SEQ_LEN, np.zeros_like(row_BS), scored_BS, row_BS, IDENTITIES)


@pytest.fixture(scope="module")
def profile(blocks: Blocks) -> Profile:
    """Its trace, in two shards, has the number of a token as its p."""
    row_T = blocks.row_BS[blocks.scored_BS]
    at = np.arange(len(row_T), dtype=np.int32)

    def shard(T: slice) -> TraceShard:
        own = at[: len(at[T])]
        none = np.zeros((len(own), 1, 1), np.float16)
        pack_T = PACK_R[row_T[T]].astype(np.uint8)
        return TraceShard(
            none.astype(np.uint8),
            none,
            none,
            at[T].astype(np.float32),
            (at[T] / 100).astype(np.float32),
            own,
            own,
            row_T[T],
            pack_T,
            at[T],
            np.full(len(own), TokenClass.FINAL, np.uint8),
            np.ones(len(own), bool),
        )

    return Profile(
        Path("profile"),
        ProfileDescription.model_construct(),
        Trace((shard(slice(0, 17)), shard(slice(17, None))), 1, 1, 1),
    )


def rows_of(blocks: Blocks) -> set[str]:
    return {blocks.identities[row] for row in np.unique(blocks.row_BS[blocks.scored_BS]).tolist()}


@pytest.fixture(scope="module")
def half(blocks: Blocks, profile: Profile) -> HeldOut:
    return hold_out(blocks, profile, 0.5)


def test_every_second_row_of_a_pack_is_scored(half: HeldOut, blocks: Blocks) -> None:
    # Pack 0: rows 0 2 4 6 (8) 9 10 11, of which the last tokens are cut off; pack 1: rows 1 5 7.
    assert half.choosing_rows == (0, 1, 4, 7, 9, 11)
    assert rows_of(half.scored) == {"row 2", "row 6", "row 10", "row 5"}
    assert half.num_scored_rows == 4
    assert rows_of(half.calibration(6).blocks) | rows_of(half.scored) == rows_of(blocks)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.7, 0.9])
def test_no_text_is_chosen_on_and_scored_on(blocks: Blocks, profile: Profile, share: float) -> None:
    if share == 0.1:
        with pytest.raises(UserError, match=r"leaves no row to score on: the profile has 10 rows"):
            hold_out(blocks, profile, share)
        return
    held_out = hold_out(blocks, profile, share)
    chosen = held_out.calibration(len(held_out.choosing_rows)).blocks
    assert not rows_of(chosen) & rows_of(held_out.scored)
    assert chosen.num_scored + held_out.scored.num_scored == blocks.num_scored


def test_a_smaller_budget_is_a_part_of_a_larger_one_and_scored_on_the_same(half: HeldOut) -> None:
    seen: set[str] = set()
    for rows in range(1, 7):
        now = rows_of(half.calibration(rows).blocks)
        assert len(now) == rows
        assert seen < now
        seen = now
    assert half.calibration(1).blocks.num_blocks < half.calibration(6).blocks.num_blocks


def test_equal_rows_stay_together(half: HeldOut) -> None:
    """Row 8 is row 0: both count for a budget of one row, and neither is scored."""
    row_T = half.calibration(1).profile.trace.column("row_T")
    assert set(row_T.tolist()) == {0, 8}


@pytest.mark.parametrize("rows", [1, 3, 6])
def test_the_trace_holds_the_tokens_of_the_blocks(half: HeldOut, blocks: Blocks, rows: int) -> None:
    found = half.calibration(rows)
    trace = found.profile.trace
    assert trace.column("row_T").tolist() == found.blocks.row_BS[found.blocks.scored_BS].tolist()
    number_BS = np.zeros(blocks.scored_BS.shape)
    number_BS[blocks.scored_BS] = np.arange(blocks.num_scored)
    mine = np.isin(blocks.row_BS, np.unique(trace.column("row_T"))) & blocks.scored_BS
    assert trace.column("p_T").tolist() == number_BS[mine].tolist()
    assert found.blocks.scored_BS.any(axis=1).all()  # a block that is not needed is not run


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 2.0, float("nan")])
def test_a_share_that_is_none(blocks: Blocks, profile: Profile, share: float) -> None:
    with pytest.raises(UserError, match="must lie between 0 and 1"):
        hold_out(blocks, profile, share)


@pytest.mark.parametrize("budget", [1, 3, 6])
def test_rows_keep_their_packs_under_every_budget(half: HeldOut, budget: int) -> None:
    seen = half.calibration(budget)
    row_R = np.unique(seen.blocks.row_BS[seen.blocks.scored_BS])
    pack_R = packs_of_rows(seen.blocks, seen.profile.trace)
    assert pack_R[row_R].tolist() == PACK_R[row_R].tolist()
    assert len(pack_R) == len(seen.blocks.identities)
