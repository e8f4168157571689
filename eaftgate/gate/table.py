"""The table that a gate run ends with, and what there is to say about it."""

import io
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eaftgate.gate.results import ParityCell
from eaftgate.judge.metrics import METRICS, POINT_METRICS, Column, PointMetric
from eaftgate.judge.wording import describe
from eaftgate.tables import fitted_table
from eaftgate.visible import visible

COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "incomplete": "yellow"}

Shown = Callable[[ParityCell], str | Text]


def render_cells(cells: Sequence[ParityCell], *, width: int, colour: bool) -> str:
    """Cells as text of at most `width` columns; a narrow terminal gets the deltas without the base's values, and
    does without dCC and d mean p, too, which remarks name where they decide, before a name is folded."""
    columns: dict[str, Shown] = {
        "checkpoint": lambda cell: cell.name,
        "pack": lambda cell: cell.pack,
        "seq": lambda cell: str(cell.seq_len),
        "tokens": lambda cell: f"{cell.tokens:,}",
        "PPL base": lambda cell: f"{cell.ppl_base:.3f}",
        "PPL": lambda cell: f"{cell.ppl:.3f}",
        **dict(_metric_columns(cells[0])),
        "decides": lambda cell: "partly" if _is_partly_deciding(cell) else cell.severity,
        "verdict": _verdict,
    }
    table = fitted_table(
        list(columns),
        ([show(cell) for show in columns.values()] for cell in cells),
        width=width,
        spare=(("tokens", "PPL base", "PPL", "decides"), ("dCC pp",), ("d mean p",)),
        folded={"checkpoint": 6, "pack": 5},
        text=("decides", "verdict"),
        collapse_padding=True,
    )
    return rendered(table, width=width, colour=colour)


def rendered(table: Table, *, width: int, colour: bool) -> str:
    """A table as text of at most `width` columns."""
    output = io.StringIO()
    Console(file=output, width=width, force_terminal=colour, color_system="standard" if colour else None).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def _metric_columns(cell: ParityCell) -> Iterator[tuple[str, Shown]]:
    """Those of the metrics that were judged, in the order of their table."""
    if cell.has_intervals:
        for metric in METRICS.values():
            for column in metric.columns if metric.name in cell.metrics else ():
                yield column.head, _number(metric.name, column)
    else:
        for point in POINT_METRICS.values():
            yield point.head, _figure(point)


def _number(metric: str, column: Column) -> Shown:
    """What is not known, as where a cell was decided before the first look at the metric, is a question mark."""

    def shown(cell: ParityCell) -> str:
        number: float | None = getattr(cell.metrics[metric], column.number)
        return "?" if number is None else column.text(number)

    return shown


def _figure(metric: PointMetric) -> Shown:
    return lambda cell: metric.text(cell.figures)


def _verdict(cell: ParityCell) -> Text:
    if not cell.decides_something:
        return Text(f"({cell.verdict})")
    return Text(cell.verdict.upper(), style=COLOURS[cell.verdict])


def _is_partly_deciding(cell: ParityCell) -> bool:
    """A cell of which some rules decide, as those for every pack."""
    return cell.severity != "primary" and cell.decides_something


def remarks(cells: Sequence[ParityCell]) -> list[str]:
    """One sentence each: rows that were calibrated on, what keeps deciding cells from a pass, what no cell of a
    checkpoint has enough of to tell. A fail before what is not decided, and that before what there is too little for.
    """
    decided = {
        (cell.name, metric)
        for cell in cells
        for metric, verdict in cell.metrics.items()
        if cell.decides(metric) and verdict.decides
    }
    overlapping = [
        f"{visible(cell.label)}: {cell.calibrated_rows} of its rows were calibrated on"
        for cell in cells
        if "overlap" in cell.flags
    ]
    said = [
        (
            (verdict.underpowered, verdict.verdict != "fail"),
            f"{visible(cell.label)}: {describe(metric, verdict, cell.tokens, interval=cell.has_intervals)}",
        )
        for cell in cells
        for metric, verdict in cell.metrics.items()
        if (verdict.underpowered and cell.severity == "primary" and (cell.name, metric) not in decided)
        or (cell.decides(metric) and verdict.verdict in ("fail", "inconclusive"))
    ]
    return overlapping + [line for _, line in sorted(said, key=lambda found: found[0])]
