"""The table that a gate run ends with, and what there is to say about it."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from eaftgate.judge.verdict import MetricVerdict
from eaftgate.judge.wording import describe

WIDE = 110
COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "incomplete": "yellow"}


def render_cells(cells: Sequence[Mapping[str, Any]], *, width: int, colour: bool) -> str:
    """Cells as text of at most `width` columns; a narrow terminal gets the deltas without the base's values.

    Under a policy with intervals, dPPL is followed by its upper bound, and JS2D is the corrected one.
    """
    wide, intervals = width >= WIDE, has_intervals(cells)
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column("checkpoint", overflow="fold", min_width=6)
    table.add_column("pack", overflow="fold", min_width=5)
    for name in (
        "seq",
        *(("tokens", "PPL base", "PPL") if wide else ()),
        "dPPL",
        *(("at most",) if intervals else ()),
        "d mean p",
        "dCC pp",
        "JS2D",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("decides")
    table.add_column("verdict", no_wrap=True)
    for cell in cells:
        verdict = cell["verdict"]
        table.add_row(
            cell["name"],
            cell["pack"],
            str(cell["seq_len"]),
            *((f"{cell['tokens']:,}", f"{cell['ppl_base']:.3f}", f"{cell['ppl']:.3f}") if wide else ()),
            f"{cell['delta_ppl'] / cell['ppl_base']:+.2%}",
            *((_relative(cell["metrics"]["ppl"]["upper"]),) if intervals else ()),
            f"{cell['delta_mean_p']:+.4f}",
            f"{100 * cell['delta_cc']:+.3f}",
            _js2d(cell["metrics"]["js2d_corrected"]["estimate"] if intervals else cell["js2d"]),
            *((cell["severity"],) if wide else ()),
            f"[{COLOURS[verdict]}]{verdict.upper()}[/]" if cell["severity"] == "primary" else f"({verdict})",
        )
    output = io.StringIO()
    Console(file=output, width=width, force_terminal=colour, color_system="standard" if colour else None).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def has_intervals(cells: Sequence[Mapping[str, Any]]) -> bool:
    return all("js2d_corrected" in cell["metrics"] for cell in cells)


def _js2d(value: float | None) -> str:
    """A cell that was decided before the first look at it has none."""
    return "?" if value is None else f"{value:.4f}"


def _relative(log_ratio: float | None) -> str:
    return "?" if log_ratio is None else f"{math.expm1(log_ratio):+.2%}"


def remarks(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence each: rows that were calibrated on, what keeps deciding cells from a pass, what they cannot tell."""
    interval = has_intervals(cells)
    overlapping = [
        f"{cell['name']} {cell['pack']} {cell['seq_len']}: {cell['calibrated_rows']} of its rows were calibrated on"
        for cell in cells
        if "overlap" in cell["flags"]
    ]
    return overlapping + [
        f"{cell['name']} {cell['pack']} {cell['seq_len']}: "
        + describe(metric, MetricVerdict(**verdict), cell["tokens"], interval=interval)
        for cell in cells
        if cell["severity"] == "primary"
        for metric, verdict in cell["metrics"].items()
        if verdict["underpowered"] or (verdict["decides"] and verdict["verdict"] in ("fail", "inconclusive"))
    ]
