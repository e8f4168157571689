"""The table that a gate run ends with."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

WIDE = 110
COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "incomplete": "yellow"}


def render_cells(cells: Sequence[Mapping[str, Any]], *, width: int, colour: bool) -> str:
    """Cells as text of at most `width` columns; a narrow terminal gets the deltas without the base's values."""
    wide = width >= WIDE
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column("checkpoint", overflow="fold", min_width=6)
    table.add_column("pack", overflow="fold", min_width=5)
    for name in (
        "seq",
        *(("tokens", "PPL base", "PPL") if wide else ()),
        "dPPL",
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
            f"{cell['delta_mean_p']:+.4f}",
            f"{100 * cell['delta_cc']:+.3f}",
            f"{cell['js2d']:.4f}",
            *((cell["severity"],) if wide else ()),
            f"[{COLOURS[verdict]}]{verdict.upper()}[/]" if cell["severity"] == "primary" else f"({verdict})",
        )
    output = io.StringIO()
    Console(file=output, width=width, force_terminal=colour, color_system="standard" if colour else None).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())
