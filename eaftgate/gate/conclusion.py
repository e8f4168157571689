"""How a run's verdict follows from what ran, and what parity.json says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, TypeVar, cast

from eaftgate import __version__
from eaftgate.gate.candidates import UNVERIFIED, ServedIdentity, candidates_of
from eaftgate.gate.cases import cases, disjoint_case
from eaftgate.gate.cells import NOOP, Cell, TaskCell, TurnCell
from eaftgate.gate.messages import first_lost
from eaftgate.gate.plan import Plan
from eaftgate.gate.results import (
    Asked,
    CellRecord,
    FailedCase,
    Luck,
    Parity,
    ParityCell,
    ParityTurns,
    Repeated,
    RunVerdict,
    SessionRecord,
    TurnsRecord,
    floor_file,
    read_record,
)
from eaftgate.gate.stability import agreement, describe_stability
from eaftgate.gate.tasks import ParityTask, TaskRecord
from eaftgate.judge.metrics import METRICS
from eaftgate.judge.policy import IntervalPolicy
from eaftgate.judge.verdict import worst
from eaftgate.packs.pack import UNION

_OVERLAP_PROPERTY = "overlap_"


@dataclass(frozen=True)
class CaseOutcome:
    """How one executed test case ended. `reason` is the first line of its failure."""

    id: str
    passed: bool
    reason: str
    properties: Mapping[str, Any]


def case_of(nodeid: str) -> str:
    """`module::function[id]`, as the plan names a case, of what pytest names it."""
    path, _, case = nodeid.partition("::")
    return f"{PurePath(path).stem}::{case}"


def run_verdict(
    failed: Sequence[FailedCase], missing: Sequence[str], cells: Sequence[ParityCell], *, complete: bool
) -> RunVerdict:
    """pass only when the session ended by itself, every planned deciding case ran and every executed case passed."""
    said = [case.verdict for case in failed]
    if "fail" in said:
        return "fail"
    if missing or not complete or any(verdict != "inconclusive" for verdict in said):
        return "incomplete"
    primary = [cell.verdict for cell in cells if cell.severity == "primary"]
    return worst(["pass", *primary, *(verdict for verdict in said if verdict is not None)])


def reason_of(parity: Parity) -> str:
    """One line on why a run is no pass."""
    if parity.failed:
        first = next((case for case in parity.failed if case.verdict == parity.verdict), parity.failed[0])
        more = len(parity.failed) - 1
        further = f" (and {more} further {'case' if more == 1 else 'cases'})" if more else ""
        return f"{case_of(first.case)}: {first.reason}{further}"
    if parity.not_run:
        more = len(parity.not_run) - 1
        return f"{parity.not_run[0]} did not run{f', nor did {more} further planned cases' if more else ''}"
    if not parity.complete:
        return "the session did not end by itself"
    cell = next(cell for cell in parity.cells if cell.severity == "primary" and cell.verdict == parity.verdict)
    return f"{cell.label} is {cell.verdict}"


def verdict_of(parity: Parity, name: str) -> RunVerdict:
    """The verdict of one of a run's checkpoints, by its short name: the run's but for what concerns others alone."""
    return of_checkpoint(parity, name).verdict


def of_checkpoint(parity: Parity, name: str) -> Parity:
    """What a run would have said with one of its checkpoints alone."""
    names = {cell.name for cell in parity.cells} | {candidate.name for candidate in parity.candidates}

    def concerns(case: str) -> bool:
        inside = case.partition("[")[2].rstrip("]")
        owners = [other for other in names if inside == other or inside.startswith((f"{other}-", f"{other}+"))]
        owner = max(owners, key=len, default=name)
        return owner == name or inside.startswith(f"{owner}+")  # several, compared with each other

    failed = tuple(case for case in parity.failed if concerns(case.case))
    not_run = tuple(case for case in parity.not_run if concerns(case))
    cells = tuple(cell for cell in parity.cells if cell.name == name)
    behaviour = tuple(turns for turns in parity.behaviour if turns.name == name)
    verdict = run_verdict(failed, not_run, cells, complete=parity.complete)
    own = {
        "failed": failed,
        "not_run": not_run,
        "cells": cells,
        "behaviour": behaviour,
        "tasks": tuple(task for task in parity.tasks if task.name == name),
    }
    return parity.model_copy(update={**own, "verdict": verdict})


def read_records(plan: Plan, session: str) -> dict[Cell, CellRecord]:
    """What RUN_DIR/cells has of the plan's cells, those of further seeds too, judged in this session."""
    cells = (*plan.cells, *(cell for cells in plan.seed_cells for cell in cells))
    return _read(plan, {cell: cell.record_file for cell in cells}, CellRecord, session)


def read_all_turns(plan: Plan, session: str) -> dict[TurnCell, TurnsRecord]:
    """What RUN_DIR/cells has of the turns that were written, judged in this session."""
    return _read(plan, {cell: cell.record_file for cell in plan.turn_cells}, TurnsRecord, session)


def read_all_tasks(plan: Plan, session: str) -> dict[TaskCell, TaskRecord]:
    """What RUN_DIR/cells has of tasks, judged in this session."""
    return _read(plan, {cell: cell.record_file for cell in plan.task_cells}, TaskRecord, session)


def read_floor(plan: Plan, session: str) -> dict[Cell, CellRecord]:
    """What RUN_DIR/cells has of the base against itself, judged in this session."""
    files = {cell: cell.record_file if cell.checkpoint == NOOP else floor_file(cell) for cell in plan.floor_cells}
    return _read(plan, files, CellRecord, session)


AnyCell = TypeVar("AnyCell", Cell, TurnCell, TaskCell)


def _read(
    plan: Plan, files: Mapping[AnyCell, str], kind: type[SessionRecord], session: str
) -> dict[AnyCell, SessionRecord]:
    found = {cell: read_record(plan.options.results, file, kind, session=session) for cell, file in files.items()}
    return {cell: record for cell, record in found.items() if record is not None}


def served_identities(plan: Plan, outcomes: Sequence[CaseOutcome]) -> list[ServedIdentity]:
    """What the cases found that have asked servers."""
    seen = {case_of(outcome.id): outcome.properties for outcome in outcomes}
    told = {name: seen.get(f"test_served::test_served[{i}]", {}) for i, name in cases(plan, "served_case").items()}
    return [ServedIdentity.from_properties(name, said) for name, said in told.items() if UNVERIFIED in said]


def conclude(
    plan: Plan,
    records: Mapping[Cell, CellRecord],
    *,
    outcomes: Sequence[CaseOutcome],
    missing: Sequence[str],
    complete: bool,
    luck: Sequence[Luck] = (),
    floor: Mapping[Cell, CellRecord] = MappingProxyType({}),
    turns: Mapping[TurnCell, TurnsRecord] = MappingProxyType({}),
    served: Sequence[ServedIdentity] = (),
    tasks: Mapping[TaskCell, TaskRecord] = MappingProxyType({}),
) -> Parity:
    """What parity.json is to say; the plan's cells are in its order, and those of packs that their checkpoint was
    calibrated on are flagged.

    `missing` are the deciding cases that were planned and did not run; `luck` is that of several candidates, `floor`
    what was found of the base against itself, `turns` of what was written, `tasks` of tasks; `served` is what servers
    say of themselves.
    """
    failed = [
        FailedCase(
            case=o.id,
            reason=o.reason,
            verdict=o.properties.get("verdict"),
            blocks_needed=o.properties.get("blocks_needed"),
        )
        for o in outcomes
        if not o.passed
    ]
    seen = {case_of(outcome.id): outcome for outcome in outcomes}
    disjoint = {name: seen.get(disjoint_case(name)) for name in plan.checkpoints}
    overlap = {name: _overlap(outcome) for name, outcome in disjoint.items() if outcome is not None}
    cells = [
        _cell(plan, cell, records[cell], overlap.get(cell.checkpoint, {}).get(cell.pack, 0))
        for cell in plan.cells
        if cell in records
    ]
    v1 = [cell.v1_verdict for cell in cells if cell.severity == "primary"]
    known = [verdict for verdict in v1 if verdict is not None]
    options = plan.options
    return Parity(
        schema_version=3,
        eaftgate=__version__,
        policy=plan.policy_name,
        regime=plan.regime_name,
        verdict=run_verdict(failed, missing, cells, complete=complete),
        v1_verdict=worst(known) if known and len(known) == len(v1) and not missing else "incomplete",
        v2_verdict=_v2_verdict(plan, records, failed, missing, complete=complete),
        cells=tuple(cells),
        lost_messages={
            name: first_lost(
                records[cell].lost for cell in plan.primary_cells if cell.checkpoint == name and cell in records
            )
            for name in plan.checkpoints
        },
        stability=describe_stability(plan, records),
        failed=tuple(failed),
        not_run=tuple(missing),
        complete=complete,
        asked=Asked(
            seeds=options.seeds,
            strict_cells=options.strict_cells,
            sequential=options.sequential,
            allow_overlap=options.allow_overlap,
            best_of=plan.best_of,
            candidate_kind=options.candidate_kind,
            scores_copies=plan.needs.scores_copies,
            generate=plan.turns if plan.turn_packs else 0,
            generate_tokens=plan.turn_tokens if plan.turn_packs else None,
            tasks=plan.tasks,
        ),
        candidates=candidates_of(plan),
        served=tuple(served),
        luck=tuple(luck),
        further=tuple(
            _cell(plan, cell, records[cell], overlap.get(cell.checkpoint, {}).get(cell.pack, 0))
            for _, *further in plan.seed_cells
            for cell in further
            if cell in records
        ),
        repeated=tuple(_repeated(cell, record) for cell, record in floor.items()),
        behaviour=tuple(_turns(plan, cell, turns[cell]) for cell in plan.turn_cells if cell in turns),
        turns_apart={cell.checkpoint: record.apart for cell, record in turns.items() if cell.pack == UNION},
        tasks=tuple(_task(plan, cell, tasks[cell]) for cell in plan.task_cells if cell in tasks),
        gates_sha256=plan.gates_sha256,
    )


def _task(plan: Plan, cell: TaskCell, record: TaskRecord) -> ParityTask:
    return ParityTask(
        checkpoint=plan.checkpoints[cell.checkpoint],
        name=cell.checkpoint,
        task=cell.task,
        documents=record.documents,
        verdict=record.verdict,
        decides=plan.task_decides(cell),
        metrics=dict(record.verdicts),
        details={name: dict(said) for name, said in record.details.items()},
        higher_is_better=dict(record.higher_is_better),
        inputs=record.inputs,
    )


def _turns(plan: Plan, cell: TurnCell, record: TurnsRecord) -> ParityTurns:
    deciding = [verdict.verdict for verdict in record.verdicts.values() if verdict.decides and verdict.verdict]
    return ParityTurns(
        checkpoint=plan.checkpoints[cell.checkpoint],
        name=cell.checkpoint,
        pack=cell.pack,
        turns=record.turns,
        max_tokens=record.inputs.max_tokens,
        verdict=worst(deciding) if deciding else None,
        deciding=tuple(metric for metric, verdict in record.verdicts.items() if verdict.decides),
        metrics=dict(record.verdicts),
        details={name: dict(said) for name, said in record.details.items()},
        inputs=record.inputs,
    )


def _repeated(cell: Cell, record: CellRecord) -> Repeated:
    return Repeated(
        tier=cast(Any, cell.checkpoint),  # of Plan.floor_cells
        pack=cell.pack,
        seq_len=cell.seq_len,
        num_blocks=cell.num_blocks,
        seed=cell.seed,
        inputs=record.inputs,
        metrics=dict(record.verdicts),
    )


def _v2_verdict(
    plan: Plan,
    records: Mapping[Cell, CellRecord],
    failed: Sequence[FailedCase],
    missing: Sequence[str],
    *,
    complete: bool,
) -> RunVerdict | None:
    """What the run would have been under near-lossless-v2: its verdicts take the place of the cases that the policy
    decides."""
    deciding = [cell for cell in plan.cells if plan.cell_decides(cell)]
    deciding += [cell for _, *further in plan.seed_cells for cell in further]
    v2 = {cell: record.v2_verdict for cell in deciding if (record := records.get(cell)) is not None}
    if plan.v2 is None or not v2:
        return None
    known = {cell: verdict for cell, verdict in v2.items() if verdict is not None}
    if len(known) < len(v2):
        return None
    said = list(known.values())
    said += [
        agreement([known[cell] for cell in cells])
        for group in plan.profiling_groups
        for cells in plan.group_cells(group)
        if known.keys() >= set(cells)
    ]
    others = [case for case in failed if not _decided_by_policy(case, plan.v2)]
    others += [FailedCase(case="", reason="", verdict=verdict) for verdict in said if verdict != "pass"]
    return run_verdict(others, missing, [], complete=complete)


def _decided_by_policy(case: FailedCase, other: IntervalPolicy) -> bool:
    """Whether a case fails by a rule of the policy, or measures the floor of a metric that another does not judge."""
    test, metric = case.case.partition("[")[0].rpartition("::")[2], case.case.rpartition("-")[2].rstrip("]")
    if test in (
        "test_near_lossless", "test_must_decide", "test_something_decides", "test_stability", "test_profiling_seeds",
        "test_behaviour", "test_decides", "test_task",
    ):  # fmt: skip
        return case.verdict is not None  # else it could not be judged
    return metric in METRICS and metric not in other.rules


def _overlap(outcome: CaseOutcome) -> dict[str, int]:
    """Rows of every gate pack that were calibrated on, as the case says."""
    return {
        name.removeprefix(_OVERLAP_PROPERTY): rows
        for name, rows in outcome.properties.items()
        if name.startswith(_OVERLAP_PROPERTY)
    }


def _cell(plan: Plan, cell: Cell, record: CellRecord, calibrated_rows: int) -> ParityCell:
    figures = record.metrics
    flags = {
        "underpowered": record.underpowered,
        "sequential": plan.options.sequential,
        "overlap": calibrated_rows > 0,
        UNVERIFIED: plan.is_served,
    }
    return ParityCell(
        checkpoint=plan.checkpoints.get(cell.checkpoint, cell.checkpoint),
        name=cell.checkpoint,
        pack=cell.pack,
        seq_len=cell.seq_len,
        num_blocks=record.num_blocks,
        budget_blocks=cell.num_blocks,
        seed=cell.seed,
        tokens=figures.tokens,
        ppl_base=figures.ppl_base,
        ppl=figures.ppl,
        delta_ppl=figures.delta_ppl,
        cc_base=figures.cc_base,
        cc=figures.cc,
        delta_cc=figures.delta_cc,
        mean_p_base=figures.mean_p_base,
        mean_p=figures.mean_p,
        delta_mean_p=figures.delta_mean_p,
        js2d=figures.js2d,
        js2d_correction=dict(record.details.get("js2d_corrected", {})),
        details={name: dict(said) for name, said in record.details.items() if name != "js2d_corrected"},
        cc_events_base=record.cc_events_base,
        p_thr=figures.thresholds.p,
        h_thr=figures.thresholds.h,
        severity="primary" if plan.cell_decides(cell) else "advisory",
        verdict=record.verdict,
        v1_verdict=record.v1_verdict,
        v2_verdict=record.v2_verdict,
        flags=tuple(flag for flag, holds in flags.items() if holds),
        metrics=dict(record.verdicts),
        inputs=record.inputs,
        calibrated_rows=calibrated_rows,
        messages=record.messages,
        deciding=tuple(
            metric for metric, verdict in record.verdicts.items() if verdict.decides and plan.decides(cell, metric)
        ),
    )
