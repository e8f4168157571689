"""The report's section on stability: what the seeds moved, or that nobody asked."""

from collections.abc import Sequence

from eaftgate.gate.stability import (
    EvaluationSpread,
    GroupStability,
    OverSeeds,
    Spread,
    Stability,
    overlap_line,
    range_shown,
    seeds_shown,
)
from eaftgate.judge.verdict import worst
from eaftgate.judge.wording import deviation_shown
from eaftgate.report.rows import Cell, html_text, row, table, verdict_cell

_WHAT = (
    "Each entry is the range of a metric's estimate over the seeds, with its standard deviation (sd) below. Evaluation "
    "seeds draw other gate rows for the same checkpoint, and the verdict must be a pass for each of them; profiling "
    "seeds draw other calibration rows for the same recipe, and the verdict must be the same for all of them. Ranges "
    "and the overlap of keep sets are shown only: they have no margin."
)


def stability_section(stability: Stability | None, *, interval: bool) -> str:
    """HTML; None, as in a file of an earlier version, gives nothing."""
    if stability is None:
        return ""
    tables = [_spread(stability.spread, interval=interval)] if stability.spread else []
    tables += [_group(group, interval=interval) for group in stability.profiling_groups]
    what = f'<p class="note">{_WHAT}</p>' if tables else ""
    said = html_text(f"{stability.note[:1].upper()}{stability.note[1:]}")
    return f'<h2 id="stability">Stability over seeds</h2><p>{said}.</p>{"".join(tables)}{what}'


def _spread(rows: Sequence[EvaluationSpread], *, interval: bool) -> str:
    head = ("checkpoint", "pack", "seq_len", "verdict", "evaluation seeds", *rows[0].metrics)
    body = [
        _row(over.name, over, verdict_cell(worst(list(over.verdicts))), over.seeds, interval=interval) for over in rows
    ]
    return f"<h3>Evaluation seeds</h3>{table(head, body)}"


def _group(group: GroupStability, *, interval: bool) -> str:
    """A group's metrics, and the overlap of its keep sets layer by layer."""
    body = [
        _row(
            group.name,
            cell,
            Cell("same" if cell.verdict == "pass" else "not the same", f"verdict {cell.verdict}"),
            group.seeds,
            interval=interval,
        )
        for cell in group.cells
    ]
    metrics = group.cells[0].metrics if group.cells else ()
    layers = group.keep_jaccard
    overlap = [
        row("td", ("Jaccard", "mean of pairs", *(f"{layer.mean:.2f}" for layer in layers))),
        row("td", ("Jaccard", "least of pairs", *(f"{layer.min:.2f}" for layer in layers))),
    ]
    return (
        f"<h3>Profiling seeds: {html_text(group.name)}</h3>"
        + (table(("checkpoints", "pack", "seq_len", "verdict", "profiling seeds", *metrics), body) if body else "")
        + f"<p>{html_text(overlap_line(group))}.</p>"
        + table(("keep sets", "layer", *map(str, range(len(layers)))), overlap)
    )


def _row(name: str, over: OverSeeds, verdict: Cell, seeds: Sequence[int | None], *, interval: bool) -> str:
    """Every metric's range over the seeds, under the seeds their verdicts."""
    ranges = [
        Cell(range_shown(metric, spread, interval=interval), below=_below(metric, spread, len(seeds), interval))
        for metric, spread in over.metrics.items()
    ]
    said = Cell(seeds_shown(seeds), below=", ".join(over.verdicts))
    return row("td", (name, over.pack, str(over.seq_len), verdict, said, *ranges))


def _below(metric: str, spread: Spread, seeds: int, interval: bool) -> str:
    """The standard deviation where there is one, and how many seeds have an estimate where not all do."""
    said = [] if spread.std is None else [f"sd {deviation_shown(metric, spread.std, interval=interval)}"]
    if 0 < spread.count < seeds:
        said.append(f"{spread.count} of {seeds} seeds")
    return ", ".join(said)
