"""A plan's cells judged from collections, wherever those come from: measured in a run, or read again afterwards."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from eaftgate.behaviour.paired import PairedTurns
from eaftgate.collect.collection import Collection
from eaftgate.gate.cells import Cell, TaskCell, TurnCell
from eaftgate.gate.plan import Plan
from eaftgate.judge.behaviour import JudgedTurns, judge_turns
from eaftgate.judge.cell import JudgedCell, judge_cell, judge_in_looks, plan_looks
from eaftgate.judge.policy import IntervalPolicy
from eaftgate.judge.tasks import JudgedTask, judge_task
from eaftgate.parity.paired import PairedTokens, concatenate_pairs, pair
from eaftgate.tasks.paired import PairedTask

Order = NDArray[np.intp]


def order_of_blocks(plan: Plan, cell: Cell) -> Order:
    """Of --sequential, and of the noise floor."""
    return np.random.default_rng(plan.order_seed).permutation(cell.num_blocks)


def judge_tokens(plan: Plan, cell: Cell, tokens: PairedTokens) -> JudgedCell:
    """All of a cell's tokens at once."""
    return judge_cell(
        plan.policy,
        plan.v1,
        tokens,
        cell.num_blocks,
        strict=plan.options.strict_cells,
        primary_pack=plan.is_primary_pack(cell.pack),
        best_of=plan.best_of,
        v2=plan.v2 if cell.checkpoint in plan.checkpoints else None,
    )


def judge_planned_turns(plan: Plan, cell: TurnCell, turns: PairedTurns) -> JudgedTurns:
    """By the policy's block behaviour."""
    policy = plan.policy
    assert isinstance(policy, IntervalPolicy)  # as Plan.behaviour has seen
    return judge_turns(policy, plan.behaviour, turns, deciding=plan.turns_deciding(cell), best_of=plan.best_of)


def judge_planned_task(plan: Plan, cell: TaskCell, task: PairedTask) -> JudgedTask:
    """By the policy's block tasks."""
    policy = plan.policy
    assert isinstance(policy, IntervalPolicy)  # as Plan.tasks_policy has seen
    return judge_task(policy, plan.tasks_policy.rule_of(cell.task), task, best_of=plan.best_of)


def judge_look_by_look(
    plan: Plan, cell: Cell, base: Collection, look: Callable[[int, Order], Collection]
) -> tuple[JudgedCell, PairedTokens]:
    """The candidate on blocks in random order until the cell is decided; and what was seen of it.

    `look(n, blocks)` is its collection of the n-th look, on those blocks of the cell alone.
    """
    policy = plan.policy
    assert isinstance(policy, IntervalPolicy)  # make_plan has refused --sequential otherwise
    order = order_of_blocks(plan, cell)
    looks = plan_looks(policy.sequential, cell.num_blocks)
    ends = [look.num_blocks for look in looks]
    seen: list[PairedTokens] = []

    def parts() -> Iterator[PairedTokens]:
        for number, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            chosen = np.sort(order[begin:end])
            candidate = look(number, chosen)
            seen.append(pair(base.select(np.isin(base.block_T, chosen)), candidate))
            yield seen[-1]

    judged = judge_in_looks(
        policy,
        plan.v1,
        pair(base, base),
        looks,
        parts(),
        strict=plan.options.strict_cells,
        primary_pack=plan.is_primary_pack(cell.pack),
        best_of=plan.best_of,
    )
    return replace(judged, v2_verdict=judged.verdict if policy == plan.v2 else None), concatenate_pairs(seen)
