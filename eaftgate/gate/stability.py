"""Whether a verdict holds over seeds, and how far every metric moves with them. Pure: no files, no model, no pytest.

Evaluation seeds draw other gate rows for the same checkpoint, profiling seeds other calibration rows for the same
recipe (eaftgate/gate/profiling_seeds.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from eaftgate.gate.cells import Cell
from eaftgate.gate.plan import Plan
from eaftgate.gate.profiling_seeds import ProfilingGroup
from eaftgate.judge.cell import JudgedCell
from eaftgate.judge.verdict import Verdict
from eaftgate.judge.wording import deviation_shown, shown
from eaftgate.records import Record


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


class OverSeeds(Record):
    """Cells of one pack and seq_len that differ in a seed: the verdict of each, and every metric's spread."""

    pack: str
    seq_len: int
    verdicts: tuple[Verdict, ...]
    metrics: dict[str, Spread]


class EvaluationSpread(OverSeeds):
    """A checkpoint on the row orders of `seeds`; None is the file order."""

    checkpoint: str
    name: str
    seeds: tuple[int | None, ...]


class GroupCell(OverSeeds):
    """The checkpoints of a profiling group; `verdict` says whether theirs agree."""

    verdict: Verdict


class KeepJaccard(Record):
    """The overlap of a layer's keep sets over the pairs of a group."""

    mean: float
    min: float


class GroupStability(Record):
    """A profiling group: `keep_jaccard` by layer."""

    name: str
    checkpoints: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: tuple[GroupCell, ...]
    keep_jaccard: tuple[KeepJaccard, ...]
    rows_jaccard: float


class Stability(Record):
    """The `stability` of parity.json."""

    planned: bool
    note: str
    evaluation_seeds: tuple[int | None, ...]
    spread: tuple[EvaluationSpread, ...]
    profiling_groups: tuple[GroupStability, ...]


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


def describe_stability(plan: Plan, judged: Mapping[Cell, JudgedCell]) -> Stability:
    """`judged` are the session's cells: what was not judged is left out."""
    rows = []
    for cells in plan.seed_cells:
        if seen := [cell for cell in cells if cell in judged]:
            name = cells[0].checkpoint
            seeds = tuple(cell.seed for cell in seen)
            over = _over(seen, judged)
            rows.append(EvaluationSpread(checkpoint=plan.checkpoints[name], name=name, seeds=seeds, **vars(over)))
    return Stability(
        planned=plan.plans_stability,
        note=stability_note(plan),
        evaluation_seeds=plan.evaluation_seeds,
        spread=tuple(rows),
        profiling_groups=tuple(_group(plan, group, judged) for group in plan.profiling_groups),
    )


def _group(plan: Plan, group: ProfilingGroup, judged: Mapping[Cell, JudgedCell]) -> GroupStability:
    found = [_over(cells, judged) for cells in plan.group_cells(group) if all(cell in judged for cell in cells)]
    layers = zip(group.mean_jaccard_L, group.min_jaccard_L, strict=True)
    return GroupStability(
        name=group.name,
        checkpoints=tuple(plan.checkpoints[name] for name in group.checkpoints),
        seeds=group.seeds,
        cells=tuple(GroupCell(verdict=agreement(over.verdicts), **vars(over)) for over in found),
        keep_jaccard=tuple(KeepJaccard(mean=mean, min=least) for mean, least in layers),
        rows_jaccard=group.rows_jaccard,
    )


def _over(cells: Sequence[Cell], judged: Mapping[Cell, JudgedCell]) -> OverSeeds:
    found = [judged[cell] for cell in cells]
    return OverSeeds(
        pack=cells[0].pack,
        seq_len=cells[0].seq_len,
        verdicts=tuple(cell.verdict for cell in found),
        metrics=spreads([cell.estimates for cell in found]),
    )


def stability_lines(stability: Stability, *, interval: bool) -> list[str]:
    """The note, then one line for every cell and group that was judged. The first metric stands for all of them."""
    rows: list[tuple[str, OverSeeds]] = [(row.name, row) for row in stability.spread]
    rows += [(group.name, cell) for group in stability.profiling_groups for cell in group.cells]
    lines = []
    for name, row in rows:
        metric, spread = next(iter(row.metrics.items()))
        lines.append(
            f"{name} {row.pack} {row.seq_len}: {', '.join(row.verdicts)}; "
            f"{metric} {range_shown(metric, spread, interval=interval)}, "
            f"sd {deviation_shown(metric, spread.std, interval=interval)}"
        )
    overlaps = [overlap_line(group) for group in stability.profiling_groups]
    return [stability.note, *lines, *overlaps]


def overlap_line(group: GroupStability) -> str:
    layers = [layer.mean for layer in group.keep_jaccard]
    least = min(layers)
    return (
        f"{group.name}: keep sets overlap by {fmean(layers):.2f} (Jaccard, mean of layers), least in layer "
        f"{layers.index(least)}, by {least:.2f}; calibration rows by {group.rows_jaccard:.2f}"
    )


def range_shown(metric: str, spread: Spread, *, interval: bool) -> str:
    if not spread.count:
        return "-"
    return " .. ".join(shown(metric, end, interval=interval) for end in (spread.min, spread.max))


def seeds_shown(seeds: Sequence[int | None]) -> str:
    return ", ".join("file order" if seed is None else str(seed) for seed in seeds)
