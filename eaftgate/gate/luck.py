"""What choosing the best of a run's candidates makes of its error rate: parity.json's `luck`."""

from collections.abc import Mapping

import numpy as np

from eaftgate.collect.collection import Collection
from eaftgate.gate.cells import Cell
from eaftgate.gate.plan import Plan
from eaftgate.gate.results import CellRecord, Luck, Parity
from eaftgate.judge.luck import METRIC, passes_by_luck
from eaftgate.judge.policy import IntervalPolicy
from eaftgate.parity.clusters import FloatArray, clusters_by

DRAWS = 2_000
SEED = 3407
LEAST_DOCUMENTS = 30
"""Fewer say nothing of how others would differ."""


def luck_of(plan: Plan, records: Mapping[Cell, CellRecord]) -> tuple[Luck, ...]:
    """Of every primary pack x seq_len that two candidates or more were judged on, in full and by enough documents."""
    if not isinstance(plan.policy, IntervalPolicy) or METRIC not in plan.policy.deciding:
        return ()
    found = []
    for shape in plan.base_cells("") if len(plan.checkpoints) > 1 else ():
        cells = [
            c for c in plan.primary_cells if (c.pack, c.seq_len, c.seed) == (shape.pack, shape.seq_len, shape.seed)
        ]
        judged = [records[cell] for cell in cells if cell in records]
        if len(judged) == len(plan.checkpoints) and all(map(_can_be_drawn, judged)):
            found.append(_luck(plan, plan.policy, shape, judged))
    return tuple(luck for luck in found if luck is not None)


def _can_be_drawn(record: CellRecord) -> bool:
    """Not where a run stopped early, which leaves no whole collection."""
    return "checkpoint" in record.inputs.collections and not record.verdicts[METRIC].underpowered


def _luck(plan: Plan, policy: IntervalPolicy, shape: Cell, records: list[CellRecord]) -> Luck | None:
    results = plan.options.results
    base = records[0].inputs.saved(results, "base")
    content_T = base.roles.content
    documents = clusters_by(base.row_T[content_T])
    if len(documents) < LEAST_DOCUMENTS:
        return None

    def sums_C(candidate: Collection) -> FloatArray:
        nll_delta_T = base.stats.logprob_T.astype(np.float64) - candidate.stats.logprob_T
        return documents.sums(nll_delta_T[content_T])

    delta_KC = np.stack([sums_C(record.inputs.saved(results, "checkpoint")) for record in records])
    passes_KB = passes_by_luck(policy, delta_KC, documents.size_C, best_of=plan.best_of, draws=DRAWS, seed=SEED)
    return Luck(
        pack=shape.pack,
        seq_len=shape.seq_len,
        candidates=len(records),
        documents=len(documents),
        draws=DRAWS,
        passes=float(passes_KB.any(axis=0).mean()),
        alone=float(passes_KB.mean()),
    )


def luck_line(parity: Parity) -> str | None:
    """One sentence about the cell where luck is greatest, and what to do about it; None where there is none."""
    if not parity.luck:
        return None
    luck, best_of = max(parity.luck, key=lambda luck: luck.passes), parity.asked.best_of
    said = (
        f"if all {luck.candidates} candidates lay at the margin of {METRIC}, one would pass by luck in "
        f"{luck.passes:.1%} of such runs ({luck.pack} {luck.seq_len}, {luck.documents} documents drawn "
        f"{luck.draws:,} times)"
    )
    if best_of >= luck.candidates:
        return f"{said}, judged as the best of {best_of}"
    return f"{said}: to choose the best, give --best-of={luck.candidates} or gate the winner on fresh rows"
