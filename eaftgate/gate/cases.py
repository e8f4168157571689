"""The cases of a gate run: which modules of gates/ have any, and test id -> parameter for each kind of case."""

from dataclasses import replace
from typing import Any

from eaftgate.gate.plan import BASE, NOOP, Plan
from eaftgate.gate.policy import METRICS

MODULES = (
    "test_collection",
    "test_near_lossless",
    "test_artifact",
    "test_noise_floor",
    "test_noop",
    "test_stability",
)
"""The modules of gates/ in the order they run."""


def has_cases(plan: Plan, module: str) -> bool:
    if module in ("test_near_lossless", "test_artifact"):
        return bool(plan.checkpoints)
    if module == "test_stability":
        return bool(plan.checkpoints) and bool(plan.options.seeds)
    return True


def cases(plan: Plan, kind: str) -> dict[str, Any]:
    """Test id -> parameter, in the plan's order. Raises ValueError for a kind that is none."""
    match kind:
        case "collection_case":
            shapes = {(cell.pack, cell.seq_len): cell for cell in plan.cells}.values()
            base = [replace(cell, checkpoint=BASE) for cell in shapes]
            return {cell.id: cell for cell in [*base, *(plan.cells if plan.checkpoints else ())]}
        case "cell_case":
            return {f"{cell.id}-{metric}": (cell, metric) for cell in plan.cells for metric in METRICS}
        case "rerun_case":
            return {f"{c.id}-{metric}": (c, metric) for c in plan.base_cells(BASE) for metric in METRICS}
        case "halves_case":
            return {cell.id: cell for cell in plan.base_cells(BASE)}
        case "noop_case":
            return {f"{c.id}-{metric}": (c, metric) for c in plan.base_cells(NOOP) for metric in METRICS}
        case "checkpoint_case":
            return {name: name for name in plan.checkpoints}
        case "stability_case":
            return {
                f"{cell.id}-seed{seed}": replace(cell, seed=seed)
                for cell in plan.primary_cells
                for seed in plan.options.seeds
            }
    raise ValueError(f"no such kind of case: {kind}")


def required_cases(plan: Plan) -> list[str]:
    """The cases without which a run says nothing, as `module[id]`: all must have run for a pass."""
    if not plan.checkpoints:
        reruns, noops = cases(plan, "rerun_case"), cases(plan, "noop_case")
        return [*(f"test_noise_floor[{i}]" for i in reruns), *(f"test_noop[{i}]" for i in noops)]
    deciding = (i for i, (cell, metric) in cases(plan, "cell_case").items() if plan.decides(cell, metric))
    return [f"test_near_lossless[{i}]" for i in deciding]
