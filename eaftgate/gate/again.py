"""A finished run judged again from the collections it left: what parity.json says is believed of what they cannot show
alone (that an engine loaded the checkpoint, that its tensors are the base's), and compared for the rest.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from eaftgate.behaviour.paired import pair_turns
from eaftgate.collect.collection import Collection, restored
from eaftgate.collect.collector import Needs
from eaftgate.errors import UserError
from eaftgate.files import sha256_file
from eaftgate.gate.cases import cases, disjoint_case
from eaftgate.gate.cells import BATCH, NOOP, RERUN, Cell, TaskCell, TurnCell
from eaftgate.gate.conclusion import CaseOutcome, case_of, conclude
from eaftgate.gate.judging import (
    Order,
    judge_look_by_look,
    judge_planned_task,
    judge_planned_turns,
    judge_tokens,
    order_of_blocks,
)
from eaftgate.gate.luck import luck_of
from eaftgate.gate.plan import V1, V2, Plan
from eaftgate.gate.profiling_seeds import ProfilingGroup
from eaftgate.gate.request import GateOptions
from eaftgate.gate.results import (
    GATES_FILE,
    CellInputs,
    CellRecord,
    Parity,
    ParityCell,
    ParityTurns,
    Repeated,
    TurnsRecord,
    saved_collection,
)
from eaftgate.gate.stability import GroupStability, agreement
from eaftgate.gate.tasks import ParityTask, TaskRecord
from eaftgate.gate.turns import turns_apart
from eaftgate.judge.cell import JudgedCell
from eaftgate.judge.policy import DEFAULT_TOKENS, IntervalPolicy, PointPolicy, is_primary, load_gates
from eaftgate.judge.verdict import MetricVerdict
from eaftgate.packs.pack import UNION
from eaftgate.parity.paired import PairedTokens, pair
from eaftgate.tasks.paired import pair_task

NOT_JUDGED = frozenset({"eaftgate", "lost_messages", "sha256", "keep_jaccard", "run"})
"""Keys of parity.json that no collection can show."""
_RELATIVE, _ABSOLUTE = 1e-6, 1e-9
"""Another version of NumPy may add in another order."""


def judged_again(results: Path, told: Parity, gates: Path | None = None) -> Parity:
    """What parity.json has to say, from the collections and the gates file that the run was judged by: the copy that it
    has kept, or `gates`.

    Raises UserError when a collection is gone, damaged or of something else, when `gates` is another file, or when what
    the run was judged on is not told whole.
    """
    if told.gates_sha256 is None:
        raise UserError(f"{results} was judged by an earlier version, which does not say on what: run the gate again")
    gates = gates or results / GATES_FILE
    if not gates.is_file():
        raise UserError(f"{results} has lost its {GATES_FILE}: say with --gates by which gates file it was judged")
    if sha256_file(gates) != told.gates_sha256:
        raise UserError(f"{results} was judged by another gates file than {gates}: say with --gates which it was")
    try:
        plan = _plan(results, told, gates)
        records = {_cell(cell, plan): _judged(results, plan, cell) for cell in (*told.cells, *told.further)}
        floor = {_floor_cell(repeated): _repeated(results, plan, repeated) for repeated in told.repeated}
        turns = {TurnCell(of.name, of.pack): _turns(results, plan, of) for of in told.behaviour}
        tasks = {TaskCell(of.name, of.task): _task(results, plan, of) for of in told.tasks}
    except ValueError as error:  # collections of different tokens
        raise UserError(f"{results}: {error}; run the gate again") from None
    _check_told(results, plan, told, records, floor)
    _check_turns(results, plan, told, turns)
    _check_tasks(results, plan, told, tasks)
    overlap = {
        name: {f"overlap_{cell.pack}": cell.calibrated_rows for cell in told.cells if cell.name == name}
        for name in plan.checkpoints
    }
    disjoint = {disjoint_case(name): rows for name, rows in overlap.items()}
    failed = [
        CaseOutcome(
            case.case,
            False,
            case.reason,
            {
                "verdict": case.verdict,
                "blocks_needed": case.blocks_needed,
                **disjoint.get(case_of(case.case), {}),
            },
        )
        for case in told.failed
    ]
    elsewhere = {case_of(outcome.id) for outcome in failed}
    passed = [
        CaseOutcome(case.replace("::", ".py::", 1), True, "", rows)
        for case, rows in disjoint.items()
        if case not in elsewhere
    ]
    return conclude(
        plan,
        records,
        outcomes=[*failed, *passed],
        missing=told.not_run,
        complete=told.complete,
        luck=luck_of(plan, records) if told.luck else (),
        floor=floor,
        turns=turns,
        served=told.served,
        tasks=tasks,
    )


def _plan(results: Path, told: Parity, path: Path) -> Plan:
    """What the run planned, as far as it was judged."""
    gates = load_gates(path)
    policy_name, policy = gates.policy(told.policy)
    regime, asked = gates.regime(told.regime), told.asked
    # One that could not be judged has no cell, and was a candidate all the same.
    checkpoints = {candidate.name: candidate.name for candidate in told.candidates}
    checkpoints |= {turns.name: turns.checkpoint for turns in told.behaviour}
    checkpoints |= {task.name: task.checkpoint for task in told.tasks}
    checkpoints |= {cell.name: cell.checkpoint for cell in told.cells}
    if asked.sequential and not isinstance(policy, IntervalPolicy):
        raise UserError(f"{results} says that it stopped early, which {policy_name} cannot: run the gate again")
    none_primary = not {cell.seq_len for cell in told.cells} & set(regime.primary.seq_lens)
    v1, v2 = gates.policies.get(V1), gates.policies.get(V2)
    plan = Plan(
        options=GateOptions(
            results=results,
            checkpoints=tuple(checkpoints.values()),
            candidate_kind=asked.candidate_kind,
            seed=told.cells[0].seed if told.cells else None,
            seeds=asked.seeds,
            strict_cells=asked.strict_cells,
            sequential=asked.sequential,
            allow_overlap=asked.allow_overlap,
            best_of=asked.best_of,
            generate=asked.generate,
            generate_tokens=asked.generate_tokens,
            tasks=asked.tasks,
        ),
        policy_name=policy_name,
        policy=policy,
        v1=v1 if isinstance(v1, PointPolicy) else None,
        v2=v2 if isinstance(v2, IntervalPolicy) else None,
        regime_name=told.regime,
        regime=regime,
        checkpoints=checkpoints,
        cells=(),
        needs=Needs(scores_copies=asked.scores_copies),
        profiling_groups=tuple(
            _group(group, checkpoints) for group in (told.stability.profiling_groups if told.stability else ())
        ),
        rows_unknown=frozenset(candidate.name for candidate in told.candidates if not candidate.rows_known),
        gates_sha256=told.gates_sha256,
        turns=asked.generate,
        turn_tokens=asked.generate_tokens or DEFAULT_TOKENS,
        turn_packs=tuple(dict.fromkeys(turns.pack for turns in told.behaviour if turns.pack != UNION)),
        tasks=asked.tasks,
        yardsticks={c.name: c.yardstick_bits for c in told.candidates if c.yardstick_bits is not None},
    )

    def planned(cell: ParityCell) -> Cell:
        primary = is_primary(regime, cell.pack, cell.seq_len, any_seq_len=none_primary)
        return Cell(cell.name, cell.pack, cell.seq_len, cell.budget_blocks, primary, cell.seed)

    return replace(plan, cells=tuple(map(planned, told.cells)))


def _group(told: GroupStability, checkpoints: Mapping[str, str]) -> ProfilingGroup:
    names = {source: name for name, source in checkpoints.items()}
    layers = [layer.mean for layer in told.keep_jaccard]
    return ProfilingGroup(
        checkpoints=tuple(names.get(source, source) for source in told.checkpoints),
        seeds=told.seeds,
        jaccard_PL=(tuple(layers),),
        rows_jaccard=told.rows_jaccard,
    )


def _cell(told: ParityCell, plan: Plan) -> Cell:
    shapes = {(cell.checkpoint, cell.pack, cell.seq_len): cell for cell in plan.cells}
    cell = shapes.get((told.name, told.pack, told.seq_len))
    if cell is None:
        raise UserError(f"{plan.options.results} tells of {told.label} in another order alone: run the gate again")
    return replace(cell, seed=told.seed)


def _judged(results: Path, plan: Plan, told: ParityCell) -> CellRecord:
    cell, inputs = _cell(told, plan), told.inputs
    base = inputs.saved(results, "base")
    if plan.options.sequential:

        def look(number: int, blocks: Order) -> Collection:
            if number >= len(inputs.looks):
                raise UserError(f"{results} does not say what {told.label} was judged on: run the gate again")
            of = {"checkpoint": inputs.checkpoint_digest, "replicate": ""}
            return _in_order(saved_collection(results, inputs.looks[number], of), blocks)

        judged, _ = judge_look_by_look(plan, cell, base, look)
    else:
        judged = judge_tokens(plan, cell, _pair(base, inputs.saved(results, "checkpoint"), told.label))
    return _record(judged, inputs, told)


def _record(judged: JudgedCell, inputs: CellInputs, told: ParityCell | None = None) -> CellRecord:
    return CellRecord(**vars(judged), session="", inputs=inputs, messages=() if told is None else told.messages)


def _floor_cell(told: Repeated) -> Cell:
    return Cell(told.tier, told.pack, told.seq_len, told.num_blocks, True, told.seed)


def _repeated(results: Path, plan: Plan, told: Repeated) -> CellRecord:
    """The base against itself. That it was measured anew is what its collection says of itself."""
    cell, inputs, label = _floor_cell(told), told.inputs, f"{told.tier} {told.pack} {told.seq_len}"
    copied = told.tier not in (RERUN, BATCH)
    if copied == (inputs.checkpoint_digest == inputs.base.digest) and told.tier != NOOP:
        raise UserError(f"{results} says of {label} that it is of another model: run the gate again")
    of: dict[str, Any] = {
        "checkpoint": inputs.checkpoint_digest,
        "replicate": told.tier if told.tier in (RERUN, NOOP) else "",
    }
    if told.tier != BATCH:
        of |= {"blocks": inputs.blocks_digest}
    if told.tier == RERUN:
        of |= {"settings": inputs.collector}
    repeated = saved_collection(results, inputs.collections.get("checkpoint", ""), of)
    if told.tier == BATCH:
        repeated = _in_order(repeated, order_of_blocks(plan, cell))
    return _record(judge_tokens(plan, cell, _pair(inputs.saved(results, "base"), repeated, label)), inputs)


def _turns(results: Path, plan: Plan, told: ParityTurns) -> TurnsRecord:
    inputs = told.inputs
    packs = plan.turn_packs if told.pack == UNION else (told.pack,)
    if inputs.packs != packs:
        raise UserError(f"{results} tells of {told.label} on other packs: run the gate again")
    base, candidate = (inputs.saved(results, role) for role in ("base", "checkpoint"))
    paired = pair_turns(base, candidate)
    judged = judge_planned_turns(plan, TurnCell(told.name, told.pack), paired)
    apart = turns_apart(paired, base, candidate) if told.pack == UNION else ()
    return TurnsRecord(**vars(judged), session="", inputs=inputs, apart=apart)


def _task(results: Path, plan: Plan, told: ParityTask) -> TaskRecord:
    base, candidate = (told.inputs.saved(results, role, told.task) for role in ("base", "checkpoint"))
    judged = judge_planned_task(plan, TaskCell(told.name, told.task), pair_task(base, candidate))
    return TaskRecord(**vars(judged), session="", inputs=told.inputs)


def _in_order(collection: Collection, order: Order) -> Collection:
    if collection.block_T.max(initial=-1) >= len(order):
        raise ValueError("a collection is of more blocks than were asked")
    return restored(collection, order)


def _pair(base: Collection, other: Collection, label: str) -> PairedTokens:
    try:
        return pair(base, other)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None


# What must have failed


def _check_told(
    results: Path, plan: Plan, told: Parity, records: Mapping[Cell, CellRecord], floor: Mapping[Cell, CellRecord]
) -> None:
    """Raises UserError when a case fails by the collections of which parity.json does not say so, or which it does not
    tell enough of to be judged."""
    measured: dict[tuple[object, ...], tuple[str, ...]] = {}
    entries: list[ParityCell | Repeated] = [*told.cells, *told.further, *told.repeated]
    for entry in entries:
        shape, inputs = (entry.pack, entry.seq_len, entry.seed), entry.inputs
        on = (inputs.base.digest, inputs.blocks_digest, inputs.collections.get("base", ""))
        if measured.setdefault(shape, on) != on:
            raise UserError(f"{results} tells of {entry.pack} {entry.seq_len} on other blocks each: run the gate again")
    named = {*(case_of(case.case) for case in told.failed), *told.not_run}
    for case, fails in _cases(plan, records, floor):
        if fails is not False and case not in named:
            said = "fails by the collections" if fails else "cannot be judged from what it tells"
            raise UserError(f"{results}: {case} {said}, and is not among what failed: run the gate again")


def _check_turns(results: Path, plan: Plan, told: Parity, turns: Mapping[TurnCell, TurnsRecord]) -> None:
    """The same of what was written. Turns that are not told of are among those that did not run."""
    measured: dict[str, tuple[str, ...]] = {}
    for of in told.behaviour:
        for pack, digest, file in zip(of.inputs.packs, of.inputs.turns, of.inputs.generations["base"], strict=True):
            on = (of.inputs.base.digest, digest, file)
            if measured.setdefault(pack, on) != on:
                raise UserError(f"{results} tells of turns of {pack} that are others each: run the gate again")
    if plan.turns and not plan.turn_packs and not told.not_run:
        raise UserError(f"{results} was asked for turns, and tells of none: run the gate again")
    named = {*(case_of(case.case) for case in told.failed), *told.not_run}
    for i, (cell, metric) in cases(plan, "turns_case").items():
        case, record = f"test_behaviour::test_behaviour[{i}]", turns.get(cell)
        verdict = None if record is None else record.verdicts.get(metric)
        decides = metric in plan.turns_deciding(cell)
        red = decides and (verdict is None or (verdict.decides and verdict.verdict != "pass"))
        if red and case not in named:
            raise UserError(f"{results}: {case} fails by what was written, and is not among what failed: run it again")
    for i, (of_checkpoint, metric) in cases(plan, "turns_rule_case").items():
        case = f"test_behaviour::test_decides[{i}]"
        judged = [turns[c].verdicts[metric] for c in of_checkpoint if c in turns and metric in plan.turns_deciding(c)]
        found = [verdict for verdict in judged if verdict.verdict is not None]
        if found and not any(verdict.decides for verdict in found) and case not in named:
            raise UserError(f"{results}: {case} fails by what was written, and is not among what failed: run it again")


def _check_tasks(results: Path, plan: Plan, told: Parity, tasks: Mapping[TaskCell, TaskRecord]) -> None:
    """The same of tasks. One that is not told of is among those that did not run."""
    measured: dict[str, tuple[str, ...]] = {}
    for of in told.tasks:
        on = (of.inputs.base.digest, of.inputs.asked, of.inputs.evaluations["base"])
        if measured.setdefault(of.task, on) != on:
            raise UserError(f"{results} tells of several tasks {of.task}: run the gate again")
    named = {*(case_of(case.case) for case in told.failed), *told.not_run}
    for i, cell in cases(plan, "task_case").items():
        case, record = f"test_tasks::test_task[{i}]", tasks.get(cell)
        if plan.task_decides(cell) and (record is None or record.verdict != "pass") and case not in named:
            raise UserError(
                f"{results}: {case} fails by what was evaluated, and is not among what failed: run it again"
            )


def _cases(
    plan: Plan, records: Mapping[Cell, JudgedCell], floor: Mapping[Cell, JudgedCell]
) -> Iterator[tuple[str, bool | None]]:
    """The cases that collections decide, and whether they fail; None where a collection is not told of."""

    def red(cell: Cell, metric: str) -> bool | None:
        return None if cell not in records else _turns_red(plan, cell, metric, records[cell].verdicts.get(metric))

    for i, (cell, metric) in cases(plan, "cell_case").items():
        yield f"test_near_lossless::test_near_lossless[{i}]", red(cell, metric)
    for i, (cell, metric) in cases(plan, "stability_case").items():
        yield f"test_stability::test_stability[{i}]", red(cell, metric)
    for i, (cells, metric) in cases(plan, "rule_case").items():
        judged = [records[cell].verdicts[metric] for cell in cells if cell in records and plan.decides(cell, metric)]
        found = [verdict for verdict in judged if verdict.verdict is not None]
        yield f"test_must_decide::test_must_decide[{i}]", bool(found) and not any(v.decides for v in found)
    for i, cell in cases(plan, "deciding_case").items():
        verdicts = records[cell].verdicts.values() if cell in records else ()
        silent = not any(verdict.decides and verdict.verdict for verdict in verdicts)
        yield f"test_something_decides::test_something_decides[{i}]", silent
    for i, (cell, tier, metric) in cases(plan, "floor_case").items():
        yield f"test_noise_floor::test_floor[{i}]", _moves(plan, metric, floor.get(replace(cell, checkpoint=tier)))
    for i, (cell, metric) in cases(plan, "noop_case").items():
        yield f"test_noop::test_metrics[{i}]", _moves(plan, metric, floor.get(cell))
    for i, (_, cells) in cases(plan, "profiling_case").items():
        known = [records[cell].verdict for cell in cells if cell in records]
        yield f"test_stability::test_profiling_seeds[{i}]", agreement(known) != "pass"


def _turns_red(plan: Plan, cell: Cell, metric: str, verdict: MetricVerdict | None) -> bool:
    return verdict is not None and plan.decides(cell, metric) and verdict.decides and verdict.verdict != "pass"


def _moves(plan: Plan, metric: str, judged: JudgedCell | None) -> bool | None:
    return None if judged is None else plan.floor_problem(metric, judged.verdicts[metric]) is not None


# What differs


def differences(told: object, found: object, where: str = "") -> list[str]:
    """Where two values as JSON differ, one sentence each: what is told, and what was found."""
    if isinstance(told, dict) and isinstance(found, dict):
        keys = [key for key in {**told, **found} if key not in NOT_JUDGED]
        return [d for key in keys for d in differences(told.get(key), found.get(key), f"{where}.{key}".lstrip("."))]
    if isinstance(told, list) and isinstance(found, list):
        if len(told) != len(found):
            return [f"{where} has {len(told)} entries, and the collections give {len(found)}"]
        pairs = enumerate(zip(told, found, strict=True))
        return [d for place, both in pairs for d in differences(*both, f"{where}[{_name(both[0], place)}]")]
    if isinstance(told, int | float) and isinstance(found, int | float) and type(told) is not bool:
        same = math.isclose(told, found, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    else:
        same = type(told) is type(found) and told == found
    return [] if same else [f"{where} is {told!r}, and the collections give {found!r}"]


def _name(entry: object, place: int) -> str:
    """Of an entry of a list: what a reader knows it by."""
    if not isinstance(entry, dict) or "pack" not in entry:
        return str(place)
    return " ".join(
        str(entry[key]) for key in ("name", "tier", "pack", "seq_len", "seed") if entry.get(key) is not None
    )
