"""What a sweep found, in order: the least loss first, keep_n by keep_n, as lines and as a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from eaftgate.select.overlap import jaccard_L


@dataclass(frozen=True)
class Ranked:
    """A line of a sweep, and the mean over layers of its keep sets' Jaccard index with those of the best line of the
    same keep_n (1 for that line itself)."""

    line: Mapping[str, Any]
    overlap: float

    @property
    def keep_n(self) -> int:
        return int(self.line["case"]["keep_n"])

    @property
    def name(self) -> str:
        return f"{self.line['case']['method']} {self.line['case']['varied']}".strip()

    def value(self, metric: str, key: str) -> float:
        """NaN for what is not known."""
        value = self.line["metrics"][metric][key]
        return math.nan if value is None else float(value)

    def change(self, key: str) -> float:
        """Relative change of perplexity: the "estimate", or its "lower" or "upper" bound."""
        return math.expm1(self.value("ppl", key))


def ranked(lines: Sequence[Mapping[str, Any]]) -> list[Ranked]:
    """The largest keep_n first, and within it the least loss."""
    found: list[Ranked] = []
    best: Mapping[str, Any] | None = None
    for line in sorted(lines, key=lambda line: (-line["case"]["keep_n"], line["metrics"]["ppl"]["estimate"])):
        if best is None or best["case"]["keep_n"] != line["case"]["keep_n"]:
            best = line
        found.append(Ranked(line, float(jaccard_L(best["keep"], line["keep"]).mean())))
    return found


DETAILS = ("seconds", "JS2D", "d mean p", "at least")
"""Columns that a narrow terminal does without, the first of them first."""


def ranked_table(lines: Sequence[Mapping[str, Any]], leave_out: Sequence[str] = ()) -> Table:
    """One row a line; `overlap` is that of Ranked."""
    rows = [
        {
            "keep": str(entry.keep_n),
            "selection": entry.name,
            "dPPL": _percent(entry.change("estimate")),
            "at least": _percent(entry.change("lower")),
            "at most": _percent(entry.change("upper")),
            "verdict": entry.line["verdict"],
            "overlap": f"{entry.overlap:.2f}",
            "d mean p": f"{entry.value('mean_p', 'estimate'):+.4f}",
            "JS2D": f"{entry.value('js2d_corrected', 'estimate'):.5f}",
            "seconds": f"{entry.line['seconds']:.1f}",
        }
        for entry in ranked(lines)
    ]
    table = Table(box=None, pad_edge=False)
    shown = [name for name in rows[0] if name not in leave_out]
    for name in shown:
        text = name in ("selection", "verdict")
        table.add_column(name, justify="left" if text else "right", no_wrap=name != "selection", overflow="fold")
    for row in rows:
        table.add_row(*(row[name] for name in shown))
    return table


def _percent(change: float) -> str:
    return "?" if math.isnan(change) else f"{change:+.2%}"
