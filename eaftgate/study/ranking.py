"""What a sweep found, in order: the least loss first, keep_n by keep_n, as lines and as a table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from eaftgate.judge.wording import shown
from eaftgate.select.overlap import jaccard_L
from eaftgate.study.lines import MetricScore, SweepLine
from eaftgate.tables import terminal_table


@dataclass(frozen=True)
class Ranked:
    """A line of a sweep, and the mean over layers of its keep sets' Jaccard index with those of the best line of the
    same keep_n (1 for that line itself)."""

    line: SweepLine
    overlap: float

    @property
    def keep_n(self) -> int:
        return self.line.case.keep_n

    @property
    def name(self) -> str:
        return self.line.case.name

    @property
    def ppl(self) -> MetricScore:
        return self.line.metrics["ppl"]

    @property
    def loss(self) -> float:
        """Mean of nll_candidate - nll_base, nats a token; NaN when not known."""
        return math.nan if self.ppl.estimate is None else self.ppl.estimate

    def shown(self, metric: str) -> str:
        score = self.line.metrics.get(metric)
        return shown(metric, None if score is None else score.estimate, interval=True)


def ranked(lines: Sequence[SweepLine]) -> list[Ranked]:
    """The largest keep_n first, and within it the least loss."""
    found: list[Ranked] = []
    best: SweepLine | None = None
    for entry in sorted((Ranked(line, 1.0) for line in lines), key=lambda entry: (-entry.keep_n, entry.loss)):
        if best is None or best.case.keep_n != entry.keep_n:
            best = entry.line
        found.append(replace(entry, overlap=float(jaccard_L(best.keep, entry.line.keep).mean())))
    return found


DETAILS = ("seconds", "JS2D", "d mean p", "at least")
"""Columns that a narrow terminal does without, the first of them first."""


def ranked_table(lines: Sequence[SweepLine], leave_out: Sequence[str] = ()) -> Table:
    """One row a line; `overlap` is that of Ranked."""
    rows = [
        {
            "keep": str(entry.keep_n),
            "selection": entry.name,
            "dPPL": entry.shown("ppl"),
            "at least": shown("ppl", entry.ppl.lower, interval=True),
            "at most": shown("ppl", entry.ppl.upper, interval=True),
            "verdict": entry.line.verdict,
            "overlap": f"{entry.overlap:.2f}",
            "d mean p": entry.shown("mean_p"),
            "JS2D": entry.shown("js2d_corrected"),
            "seconds": f"{entry.line.seconds:.1f}",
        }
        for entry in ranked(lines)
    ]
    columns = [name for name in rows[0] if name not in leave_out]
    return terminal_table(
        columns, ([row[name] for name in columns] for row in rows), text=("verdict",), folded={"selection": 1}
    )
