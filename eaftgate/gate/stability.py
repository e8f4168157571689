"""Whether a verdict holds over seeds, and how far every metric moves with them. Pure: no files, no model, no pytest.

Evaluation seeds draw other gate rows for the same checkpoint, profiling seeds other calibration rows for the same
recipe (eaftgate/gate/profiling_seeds.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from eaftgate.gate.plan import Cell, Plan
from eaftgate.gate.profiling_seeds import ProfilingGroup
from eaftgate.judge.verdict import Verdict
from eaftgate.judge.wording import deviation_shown, shown

Record = Mapping[str, Any]
"""A judged cell as RUN_DIR/cells has it; of it, `verdict` and `verdicts` (metric -> estimate) are read."""


@dataclass(frozen=True)
class Spread:
    """Of a metric's estimates over seeds, of which `count` have one; `std` is the sample standard deviation."""

    count: int
    min: float | None
    max: float | None
    std: float | None


def spread_of(estimates: Sequence[float | None]) -> Spread:
    known = [estimate for estimate in estimates if estimate is not None]
    return Spread(
        count=len(known),
        min=min(known, default=None),
        max=max(known, default=None),
        std=stdev(known) if len(known) > 1 else None,
    )


def spreads(estimates: Sequence[Mapping[str, float | None]]) -> dict[str, Spread]:
    """Metric -> spread; `estimates[i]` are the i-th seed's, every one of the same metrics."""
    return {metric: spread_of([seed[metric] for seed in estimates]) for metric in estimates[0]}


def agreement(verdicts: Sequence[Verdict]) -> Verdict:
    """pass: all the same, and decided. fail: one passes where another fails. inconclusive: that cannot be told."""
    said = set(verdicts)
    if {"pass", "fail"} <= said:
        return "fail"
    return "inconclusive" if "inconclusive" in said else "pass"


def disagreement(group: ProfilingGroup, verdicts: Sequence[Verdict]) -> str:
    """One sentence about a group that is not stable."""
    said = ", ".join(
        f"seed {seed} ({name}) {verdict}"
        for name, seed, verdict in zip(group.checkpoints, group.seeds, verdicts, strict=True)
    )
    if agreement(verdicts) == "fail":
        return f"the verdict depends on the profiling seed: {said}"
    return f"whether the verdict depends on the profiling seed is not decided: {said}"


# What is written and said of a run


def stability_note(plan: Plan) -> str:
    """One sentence: over which seeds the verdict was to hold, or that this was not planned."""
    groups = ", ".join(f"{group.name} (seeds {seeds_shown(group.seeds)})" for group in plan.profiling_groups)
    if not plan.checkpoints:
        return "stability was not planned: there is no checkpoint to judge"
    if not plan.plans_stability:
        return (
            "stability was not planned: --seeds=A,B judges further row orders, and checkpoints that differ only in "
            "their profiling seed are compared when given together"
        )
    over_orders = (
        f"over evaluation seeds {seeds_shown(plan.evaluation_seeds)}"
        if plan.seed_cells
        else "not planned over evaluation seeds (--seeds=A,B)"
    )
    over_profiles = (
        f"over profiling seeds of {groups}"
        if groups
        else "not planned over profiling seeds (no two checkpoints differ only in theirs)"
    )
    return f"stability: {over_orders}; {over_profiles}"


def describe_stability(plan: Plan, records: Mapping[Cell, Record]) -> dict[str, Any]:
    """The `stability` of parity.json. `records` are the session's judged cells: what was not judged is left out.

    An evaluation seed of None is the file order.
    """
    rows = []
    for cells in plan.seed_cells:
        seen = [cell for cell in cells if cell in records]
        if seen:
            named = {"checkpoint": plan.checkpoints[cells[0].checkpoint], "name": cells[0].checkpoint}
            rows.append({**named, "seeds": [cell.seed for cell in seen], **_over(seen, records)})
    return {
        "planned": plan.plans_stability,
        "note": stability_note(plan),
        "evaluation_seeds": list(plan.evaluation_seeds),
        "spread": rows,
        "profiling_groups": [_group(plan, group, records) for group in plan.profiling_groups],
    }


def _group(plan: Plan, group: ProfilingGroup, records: Mapping[Cell, Record]) -> dict[str, Any]:
    judged = []
    for cells in plan.group_cells(group):
        if all(cell in records for cell in cells):
            over = _over(cells, records)
            judged.append({**over, "verdict": agreement(over["verdicts"])})
    return {
        "name": group.name,
        "checkpoints": [plan.checkpoints[name] for name in group.checkpoints],
        "seeds": list(group.seeds),
        "cells": judged,
        "keep_jaccard": [
            {"mean": mean, "min": least} for mean, least in zip(group.mean_jaccard_L, group.min_jaccard_L, strict=True)
        ],
        "rows_jaccard": group.rows_jaccard,
    }


def _over(cells: Sequence[Cell], records: Mapping[Cell, Record]) -> dict[str, Any]:
    """Cells of one pack and seq_len, that differ in a seed."""
    found = [records[cell] for cell in cells]
    estimates = [{metric: verdict["estimate"] for metric, verdict in record["verdicts"].items()} for record in found]
    return {
        "pack": cells[0].pack,
        "seq_len": cells[0].seq_len,
        "verdicts": [record["verdict"] for record in found],
        "metrics": {metric: asdict(spread) for metric, spread in spreads(estimates).items()},
    }


def stability_lines(stability: Mapping[str, Any], *, interval: bool) -> list[str]:
    """The note, then one line for every cell and group that was judged. ppl stands for the metrics: it moves most."""
    rows = [(row["name"], row) for row in stability["spread"]]
    rows += [(group["name"], cell) for group in stability["profiling_groups"] for cell in group["cells"]]
    lines = [
        f"{name} {row['pack']} {row['seq_len']}: {', '.join(row['verdicts'])}; "
        f"ppl {range_shown('ppl', row['metrics']['ppl'], interval=interval)}, "
        f"sd {deviation_shown('ppl', row['metrics']['ppl']['std'], interval=interval)}"
        for name, row in rows
    ]
    overlaps = [overlap_line(group) for group in stability["profiling_groups"]]
    return [stability["note"], *lines, *overlaps]


def overlap_line(group: Mapping[str, Any]) -> str:
    layers = [layer["mean"] for layer in group["keep_jaccard"]]
    least = min(layers)
    return (
        f"{group['name']}: keep sets overlap by {fmean(layers):.2f} (Jaccard, mean of layers), least in layer "
        f"{layers.index(least)}, by {least:.2f}; calibration rows by {group['rows_jaccard']:.2f}"
    )


def range_shown(metric: str, spread: Mapping[str, Any], *, interval: bool) -> str:
    if not spread["count"]:
        return "-"
    return " .. ".join(shown(metric, spread[end], interval=interval) for end in ("min", "max"))


def seeds_shown(seeds: Sequence[int | None]) -> str:
    return ", ".join("file order" if seed is None else str(seed) for seed in seeds)
