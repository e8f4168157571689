"""The cases of a gate run: which modules of the suite have any, and test id -> parameter for each kind of case."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from eaftgate.gate.cells import BASE, NOOP, ULP, Cell
from eaftgate.gate.plan import Plan
from eaftgate.visible import visible

MODULES = (
    "test_served",
    "test_artifact",
    "test_collection",
    "test_generations",
    "test_evaluations",
    "test_behaviour",
    "test_tasks",
    "test_near_lossless",
    "test_must_decide",
    "test_something_decides",
    "test_noise_floor",
    "test_noop",
    "test_stability",
    "test_unchanged",
)
"""The modules of the suite in the order they run, but for what `order_of` says."""


def has_cases(plan: Plan, module: str) -> bool:
    if module in ("test_near_lossless", "test_artifact"):
        return bool(plan.checkpoints)
    if module == "test_served":
        return plan.is_served
    if module == "test_noop":
        return not plan.is_served
    if module == "test_must_decide":
        return bool(plan.checkpoints and plan.must_decide)
    if module in ("test_generations", "test_behaviour"):
        return bool(plan.turn_packs)
    if module in ("test_evaluations", "test_tasks"):
        return bool(plan.task_cells)
    if module == "test_something_decides":
        return bool(plan.checkpoints) and plan.may_be_silent
    if module == "test_stability":
        return plan.plans_stability
    return True


def cases(plan: Plan, kind: str) -> dict[str, Any]:
    """Test id -> parameter, in the plan's order; names in an id are safe to print. Raises ValueError for a kind that is
    none."""
    return {visible(name): parameter for name, parameter in _cases(plan, kind).items()}


def _cases(plan: Plan, kind: str) -> dict[str, Any]:
    metrics = plan.policy.metrics
    match kind:
        case "collection_case":
            further = [cell for _, *cells in plan.seed_cells for cell in cells]
            shapes = {(cell.pack, cell.seq_len, cell.seed): cell for cell in (*plan.cells, *further)}.values()
            base = [replace(cell, checkpoint=BASE) for cell in shapes]
            measured = [*base, *(plan.cells if plan.checkpoints else ()), *further]
            return {_collection_id(plan, cell): cell for cell in measured}
        case "writing_case":
            models = (*plan.checkpoints, BASE) if plan.turn_packs else ()
            return {f"{name}-{pack}-turns": (name, pack) for name in models for pack in plan.turn_packs}
        case "turns_case":
            metrics = plan.behaviour.metrics if plan.turn_packs else ()
            return {f"{cell.id}-{metric}": (cell, metric) for cell in plan.turn_cells for metric in metrics}
        case "turns_rule_case":
            return {
                f"{name}-turns-{metric}": (tuple(cell for cell in plan.turn_cells if cell.checkpoint == name), metric)
                for name in plan.checkpoints
                for metric in plan.turns_must_decide
            }
        case "evaluation_case":
            models = (*plan.checkpoints, BASE) if plan.task_cells else ()
            return {f"{name}-{task}-task": (name, task) for name in models for task in plan.tasks}
        case "task_case":
            return {cell.id: cell for cell in plan.task_cells}
        case "cell_case":
            return {f"{cell.id}-{metric}": (cell, metric) for cell in plan.cells for metric in metrics}
        case "rule_case":
            return {
                f"{name}-{metric}": (tuple(cell for cell in plan.cells if cell.checkpoint == name), metric)
                for name in plan.checkpoints
                for metric in plan.must_decide
            }
        case "deciding_case":
            return {cell.id: cell for cell in plan.cells if plan.cell_decides(cell) and plan.may_be_silent}
        case "floor_case":
            return {
                f"{cell.id}-{tier}-{metric}": (cell, tier, metric)
                for tier in plan.floor_tiers  # outermost: a model that takes a minute to boot is booted once
                for cell in plan.base_cells(BASE)
                for metric in metrics
            }
        case "halves_case":
            return {cell.id: cell for cell in plan.base_cells(BASE)}
        case "noop_case":
            cells = plan.base_cells(NOOP) if plan.needs.scores_copies else ()  # else its tensors are compared only
            return {f"{c.id}-{metric}": (c, metric) for c in cells for metric in metrics}
        case "checkpoint_case":
            return {name: name for name in plan.checkpoints}
        case "artifact_case":
            return {} if plan.is_served else {name: name for name in plan.checkpoints}
        case "served_case":
            return {name: name for name in (BASE, *plan.checkpoints)} if plan.is_served else {}
        case "model_case":
            return {name: name for name in (BASE, *plan.checkpoints)}
        case "disjoint_case":
            return {name: name for name in plan.checkpoints if name not in plan.rows_unknown}
        case "stability_case":
            return {
                f"{cell.id}-seed{cell.seed}-{metric}": (cell, metric)
                for _, *further in plan.seed_cells
                for cell in further
                for metric in metrics
            }
        case "spread_case":
            return {cells[0].id: cells for cells in plan.seed_cells}
        case "profiling_case":
            return {
                f"{group.name}-{cells[0].pack}-{cells[0].seq_len}": (group, cells)
                for group in plan.profiling_groups
                for cells in plan.group_cells(group)
            }
        case "overlap_case":
            return {group.name: group for group in plan.profiling_groups}
    raise ValueError(f"no such kind of case: {kind}")


def _collection_id(plan: Plan, cell: Cell) -> str:
    return cell.id if cell.seed == plan.options.seed else f"{cell.id}-seed{cell.seed}"


def disjoint_case(checkpoint: str) -> str:
    """`module::function[id]` of the case that no row of a checkpoint's calibration is gated on."""
    return f"test_artifact::test_disjoint[{visible(checkpoint)}]"


def models_of(plan: Plan) -> dict[str, str]:
    """`function[id]` -> the model that the case scores, for those that score one. To load it takes up to a minute."""
    scored = {f"test_collection[{i}]": cell.checkpoint for i, cell in cases(plan, "collection_case").items()}
    scored |= {f"test_engine[{i}]": name for i, name in cases(plan, "checkpoint_case").items()}
    scored |= {f"test_written[{i}]": name for i, (name, _) in cases(plan, "writing_case").items()}
    scored |= {f"test_evaluated[{i}]": name for i, (name, _) in cases(plan, "evaluation_case").items()}
    tiers = cases(plan, "floor_case").items()
    scored |= {f"test_floor[{i}]": ULP if tier == ULP else BASE for i, (_, tier, _) in tiers}
    return scored | {f"test_metrics[{i}]": NOOP for i in cases(plan, "noop_case")}


def order_of(plan: Plan) -> Callable[[str, str], tuple[int, int]]:
    """Sort key of a case, given its module in the suite and its name, `function[id]`.

    What a candidate is and its collections go together, so that it is loaded once, and come before the base's, which
    the noise floor goes on with. With --sequential a candidate is compared while it is scored: the base comes first.
    """
    models = models_of(plan)
    candidates = list(map(visible, plan.checkpoints))
    order = [BASE, *candidates] if plan.options.sequential else [*candidates, BASE]

    def key(module: str, name: str) -> tuple[int, int]:
        if module == MODULES[0]:
            return -1, 0
        if module not in ("test_artifact", "test_collection", "test_generations", "test_evaluations"):
            return MODULES.index(module), 0
        checkpoint = name.partition("[")[2].removesuffix("]")  # the id of every case of test_artifact
        return 0, order.index(visible(models[name]) if name in models else checkpoint)

    return key


def required_cases(plan: Plan) -> list[str]:
    """The cases that must have run for a pass, as `module::function[id]`: all but the advisory ones.

    Collections are not among them: a verdict measures what it needs when nobody did before.
    """
    deciding = [i for i, (cell, metric) in cases(plan, "cell_case").items() if plan.decides(cell, metric)]
    turns = cases(plan, "turns_case").items()
    deciding_turns = [i for i, (cell, metric) in turns if metric in plan.turns_deciding(cell)]
    deciding_tasks = [i for i, cell in cases(plan, "task_case").items() if plan.task_decides(cell)]
    suite = [
        ("test_near_lossless::test_near_lossless", deciding),
        ("test_must_decide::test_must_decide", cases(plan, "rule_case")),
        ("test_something_decides::test_something_decides", cases(plan, "deciding_case")),
        ("test_behaviour::test_behaviour", deciding_turns),
        ("test_behaviour::test_decides", cases(plan, "turns_rule_case")),
        ("test_served::test_served", cases(plan, "served_case")),
        ("test_tasks::test_task", deciding_tasks),
        ("test_artifact::test_integrity", cases(plan, "artifact_case")),
        ("test_artifact::test_engine", cases(plan, "checkpoint_case")),
        ("test_artifact::test_disjoint", cases(plan, "disjoint_case")),
        ("test_noise_floor::test_floor", cases(plan, "floor_case")),
        ("test_noise_floor::test_halves", cases(plan, "halves_case")),
        ("test_noop::test_metrics", cases(plan, "noop_case")),
        ("test_stability::test_stability", cases(plan, "stability_case")),
        ("test_stability::test_spread", cases(plan, "spread_case")),
        ("test_stability::test_profiling_seeds", cases(plan, "profiling_case")),
        ("test_stability::test_keep_overlap", cases(plan, "overlap_case")),
        ("test_unchanged::test_unchanged", cases(plan, "model_case")),
    ]
    with_ids = [f"{test}[{i}]" for test, ids in suite if has_cases(plan, test.split("::")[0]) for i in ids]
    return [*with_ids, *(["test_noop::test_tensors"] if has_cases(plan, "test_noop") else [])]
