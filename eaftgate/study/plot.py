"""The figure of a sweep: a panel for every keep_n, a row for every selection, its loss and the interval of that.

Needs matplotlib, which is an extra: eaftgate[plot].
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from eaftgate.errors import UserError
from eaftgate.files import atomic_path
from eaftgate.study.lines import SweepLine
from eaftgate.study.ranking import Ranked, ranked

_MADE_BY = "eaftgate sweep"
"""In the file: what does not say this is not replaced."""
_STYLE: Any = {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "eaftgate", "axes.spines.top": False,
          "axes.spines.right": False}  # fmt: skip
_TICKS = (-50, -20, -5, 0, 5, 20, 50, 200, 1000, 10_000, 100_000)
_DOT, _LINE = "#1f5fa8", "#9db8d6"


def check_figure(path: Path) -> None:
    """Raises UserError when something is at `path` that no sweep has drawn."""
    if path.is_symlink() or path.exists():
        ours = False
        if not path.is_symlink() and path.is_file():
            with path.open("rb") as file:
                ours = _MADE_BY.encode() in file.read(4096)
        if not ours:
            raise UserError(f"--plot {path} is there and was drawn by no sweep: remove it or choose another --plot")


def write_plot(lines: Sequence[SweepLine], path: Path) -> None:
    """Draw the lines of a sweep into `path`, SVG or PNG by its suffix. A figure of a sweep that is there is replaced
    when it is not the same; for another file it raises UserError.

    Rows are in the order of their losses at the smallest keep_n, the least on top. The scale is linear up to the margin
    and logarithmic far beyond it: a selection that loses a hundred times as much must not hide how others differ.
    """
    entries = ranked(lines)
    keep_ns = sorted({entry.keep_n for entry in entries}, reverse=True)
    names = list(dict.fromkeys(entry.name for entry in sorted(entries, key=lambda entry: entry.keep_n)))
    with rc_context(_STYLE):
        size = (1.6 + 0.07 * max(map(len, names)) + 2.8 * len(keep_ns), 1.2 + 0.26 * len(names))
        figure = Figure(figsize=size, layout="constrained")
        for axes, keep_n in zip(
            figure.subplots(1, len(keep_ns), sharex=True, sharey=True, squeeze=False)[0], keep_ns, strict=True
        ):
            _draw_panel(axes, [entry for entry in entries if entry.keep_n == keep_n], names)
            axes.set_title(f"keep {keep_n}", loc="left", fontweight="bold")
        figure.supxlabel(
            "change of perplexity on held-out rows, %, with its one-sided bounds; dotted: the margin", fontsize=9
        )
        drawn = io.BytesIO()
        figure.savefig(drawn, format=path.suffix[1:], dpi=150, metadata=_metadata(path))
    check_figure(path)
    if not path.exists() or path.read_bytes() != drawn.getvalue():
        with atomic_path(path) as temporary:
            temporary.write_bytes(drawn.getvalue())


def _metadata(path: Path) -> dict[str, Any]:
    """The same lines give the same file: an SVG would have the time in it."""
    return {"Date": None, "Creator": _MADE_BY} if path.suffix == ".svg" else {"Software": _MADE_BY}


def _percent(log_ratio: float | None) -> float:
    """NaN for what is not known."""
    return math.nan if log_ratio is None else 100 * math.expm1(log_ratio)


def _draw_panel(axes: Axes, entries: Sequence[Ranked], names: Sequence[str]) -> None:
    margin = _percent(entries[0].ppl.margin)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    for entry in entries:
        y, (estimate, lower, upper) = (
            names.index(entry.name),
            map(_percent, (entry.ppl.estimate, entry.ppl.lower, entry.ppl.upper)),
        )
        known = not math.isnan(lower + upper)
        if known:
            axes.plot([lower, upper], [y, y], color=_LINE, linewidth=3, solid_capstyle="butt", zorder=1)
        axes.plot(estimate, y, "o", color=_DOT, markersize=5, markerfacecolor=_DOT if known else "white", zorder=2)
    axes.axvline(0, color="#888888", linewidth=0.8, zorder=0.8)
    if axes.get_xlim()[1] > margin / 5:  # else it would press all else against 0
        axes.axvline(margin, color="#b03030", linewidth=1.2, linestyle=":", zorder=0.8)
    axes.set_xscale("asinh", linear_width=margin)
    left, right = axes.get_xlim()
    near = max(abs(left), abs(right)) <= 4 * margin
    axes.xaxis.set_major_locator(MaxNLocator(5) if near else FixedLocator([x for x in _TICKS if left <= x <= right]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:+g}")
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
