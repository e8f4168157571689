"""What a metric allows and what was found, drawn: every cell's estimate and interval against the margin, to scale.

A place is in margins: 0 is no change, 1 the margin, whichever way is worse for the metric; where changes to either side
count, -1 is the margin, too. Every metric has one scale for all cells and candidates, so that they can be compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eaftgate.gate.results import ParityCell
from eaftgate.judge.metrics import METRICS
from eaftgate.judge.verdict import SEVERITY, MetricVerdict
from eaftgate.judge.wording import bounds_shown, shown
from eaftgate.report.rows import Cell, html_text, table
from eaftgate.visible import visible

WIDTH, HEIGHT, EDGE = 160, 20, 6
LABEL = 38
"""How wide a label of the axis is."""
FARTHEST = 4.0
"""In margins: what lies beyond is an arrow at the edge."""
GLYPHS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}


@dataclass(frozen=True)
class Place:
    """Of an estimate and its interval, in margins; a bound that is not known is None."""

    estimate: float
    low: float | None
    high: float | None

    @property
    def known(self) -> list[float]:
        return [value for value in (self.low, self.estimate, self.high) if value is not None]


@dataclass(frozen=True)
class Scale:
    low: float
    high: float

    def x(self, place: float) -> float:
        """Where a place is in the drawing, at most at its edges."""
        inside = min(max(place, self.low), self.high)
        return round(EDGE + (inside - self.low) / (self.high - self.low) * (WIDTH - 2 * EDGE), 1)


def place_of(name: str, verdict: MetricVerdict, *, interval: bool) -> Place | None:
    """None where there is no margin, or no estimate."""
    if verdict.margin is None or verdict.estimate is None or not verdict.margin:
        return None
    if not interval or name not in METRICS:
        return Place(verdict.estimate / verdict.margin, None, None)
    metric = METRICS[name]
    unchanged = metric.estimated(metric.unchanged)
    reach = metric.limit(verdict.margin) - unchanged
    if not reach:
        return None

    def at(value: float | None) -> float | None:
        return None if value is None else (metric.estimated(value) - unchanged) / reach

    estimate, bounds = at(verdict.estimate), (at(verdict.lower), at(verdict.upper))
    low, high = bounds if reach > 0 else bounds[::-1]
    assert estimate is not None
    return Place(estimate, low, high)


def scale_of(places: Iterable[Place], *, both: bool) -> Scale:
    known = [value for place in places for value in place.known]
    low, high = min(known, default=0.0) - 0.15, max(known, default=0.0) + 0.15
    return Scale(max(min(low, -1.25 if both else -0.3), -FARTHEST), min(max(high, 1.3), FARTHEST))


def track(place: Place | None, scale: Scale, verdict: MetricVerdict | None, *, both: bool, decides: bool) -> str:
    """SVG. The figures stand beside it as text, so that it says nothing to who cannot see it."""
    middle, zero, limit = HEIGHT / 2, scale.x(0), scale.x(1)
    left = scale.x(-1) if both else EDGE
    lines = [f'<rect class="inside" x="{left}" y="1" width="{limit - left:.1f}" height="{HEIGHT - 2}"/>',
             f'<path class="zero" d="M{zero} 2V{HEIGHT - 2}"/>',
             *(f'<path class="limit" d="M{x} 0V{HEIGHT}"/>' for x in ([left, limit] if both else [limit]))]  # fmt: skip
    if place is not None and verdict is not None:
        lines.append(f'<g class="{kind_of(verdict, decides=decides)}">{_interval(place, scale, middle)}</g>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{"".join(lines)}</svg>'


def _interval(place: Place, scale: Scale, middle: float) -> str:
    low, high = (place.estimate if bound is None else bound for bound in (place.low, place.high))
    drawn = ""
    if low != high:
        x0, x1 = scale.x(low), scale.x(high)
        caps = "".join(f"M{x} {middle - 3}V{middle + 3}" for x, at in ((x0, low), (x1, high)) if _is_on(at, scale))
        drawn = f'<path class="bar" d="M{x0} {middle}H{x1}{caps}"/>'
    for beyond, x, step in ((low < scale.low, 0, EDGE), (high > scale.high, WIDTH, -EDGE)):
        if beyond:
            drawn += f'<path class="arrow" d="M{x} {middle}l{step} -4v8z"/>'
    if _is_on(place.estimate, scale):
        drawn += f'<circle class="dot" cx="{scale.x(place.estimate)}" cy="{middle}" r="3.6"/>'
    return drawn


def _is_on(at: float, scale: Scale) -> bool:
    return scale.low <= at <= scale.high


def kind_of(verdict: MetricVerdict, *, decides: bool) -> str:
    """The CSS class of what is drawn: underpowered, shown only, or the verdict of what decides."""
    if verdict.underpowered:
        return "weak"
    return (verdict.verdict or "shown") if decides else "shown"


def word_of(verdict: MetricVerdict, *, decides: bool) -> str:
    """As in the tables: in capitals where it decides, in brackets where it is shown only."""
    if verdict.verdict is None:
        return "-"
    if verdict.underpowered:
        return "(underpowered)"
    return verdict.verdict.upper() if decides else f"({verdict.verdict})"


def drawn_metrics(cells: Sequence[ParityCell]) -> list[str]:
    """Those with a margin and an estimate in some cell."""
    names = dict.fromkeys(name for cell in cells for name in cell.metrics)
    return [
        name
        for name in names
        if any(
            name in cell.metrics and place_of(name, cell.metrics[name], interval=cell.has_intervals) for cell in cells
        )
    ]


def panel_id(candidate: int, metric: str) -> str:
    return f"m{candidate}-{metric}"


def margins_section(cells: Sequence[ParityCell], number: int, every: Sequence[ParityCell]) -> str:
    """HTML of the cells of one candidate, the `number`th; scales are those of the cells of all candidates, `every`."""
    metrics = drawn_metrics(every)
    panels = "".join(_panel(cells, metric, panel_id(number, metric), every) for metric in metrics)
    return f'{_matrix(cells, metrics, number)}<div class="panels">{panels}</div>'


def _matrix(cells: Sequence[ParityCell], metrics: Sequence[str], number: int) -> str:
    def entry(cell: ParityCell, metric: str) -> str:
        verdict = cell.metrics.get(metric)
        if verdict is None or (verdict.estimate is None and verdict.verdict is None):
            return "<td>-</td>"
        decides = cell.decides(metric)
        glyph = "◌" if verdict.underpowered else GLYPHS.get(verdict.verdict or "", "")
        glyph = glyph if decides or verdict.underpowered else f"({glyph})"
        said = html_text(word_of(verdict, decides=decides))
        value = html_text(shown(metric, verdict.estimate, interval=cell.has_intervals))
        return (
            f'<td class="{kind_of(verdict, decides=decides)}"><a href="#{html_text(panel_id(number, metric))}">'
            f'<span aria-hidden="true">{glyph}</span><span class="hidden">{said}</span> {value}</a></td>'
        )

    body = [
        f'<tr{"" if cell.decides_something else " class=advisory"}><th scope="row" class="name">'
        f"{html_text(visible(f'{cell.pack} {cell.seq_len}'))}</th>"
        f'<td class="verdict {html_text(cell.verdict) if cell.decides_something else "shown"}">'
        f"{html_text(cell.verdict.upper() if cell.decides_something else f'({cell.verdict})')}</td>"
        + "".join(entry(cell, metric) for metric in metrics)
        + "</tr>"
        for cell in cells
    ]
    return table(("pack, seq_len", Cell("verdict"), *map(Cell, metrics)), body, kind="matrix", label="verdicts by cell")


def _panel(cells: Sequence[ParityCell], metric: str, name: str, every: Sequence[ParityCell]) -> str:
    """A metric's cells, one below the other on one scale."""
    judged = [(cell, cell.metrics[metric]) for cell in cells if metric in cell.metrics]
    others = [(cell, cell.metrics[metric]) for cell in every if metric in cell.metrics]
    both = any(verdict.side == "both" for _, verdict in others)
    scale = scale_of(
        (place for cell, v in others if (place := place_of(metric, v, interval=cell.has_intervals)) is not None),
        both=both,
    )
    margins = {v.margin: shown(metric, v.margin, interval=cell.has_intervals) for cell, v in others if v.margin}
    margin = next(iter(margins.values())) if len(margins) == 1 else "by cell"
    rows = ""
    for cell, verdict in judged:
        decides, interval = cell.decides(metric), cell.has_intervals
        place = place_of(metric, verdict, interval=interval)
        said = shown(metric, verdict.estimate, interval=interval) if verdict.estimate is not None else "-"
        bounded = verdict.lower is not None or verdict.upper is not None
        bounds = f"<br><small>{html_text(bounds_shown(metric, verdict))}</small>" if bounded and interval else ""
        lacks = f"<br><small>{html_text(visible(_lacking(verdict)))}</small>" if _lacking(verdict) else ""
        rows += (
            f'<tr><th scope="row">{html_text(visible(f"{cell.pack} {cell.seq_len}"))}<br>'
            f'<small class="{kind_of(verdict, decides=decides)}">'
            f"{html_text(word_of(verdict, decides=decides))}</small></th>"
            f"<td>{track(place, scale, verdict, both=both, decides=decides)}</td>"
            f"<td>{html_text(said)}{bounds}{lacks}</td></tr>"
        )
    side = "a change either way counts" if both else "only a loss counts"
    return (
        f'<section class="panel" id="{html_text(name)}"><h4>{html_text(metric)} '
        f"<small>margin {html_text(margin)}, {side}</small></h4>"
        f'<table><colgroup><col class="cell"><col class="drawn"><col></colgroup><thead class="hidden">'
        f"<tr><th>cell and verdict</th><th>drawn</th><th>estimate and bounds</th></tr></thead><tbody>{rows}</tbody>"
        f"</table>{_axis(scale, both=both)}</section>"
    )


def _lacking(verdict: MetricVerdict) -> str:
    """What there is too little of, all of it among what limits the cells; here what would do."""
    if verdict.blocks_needed is not None and (verdict.underpowered or verdict.verdict == "inconclusive"):
        return f"{verdict.blocks_needed:,} blocks would do"
    return "" if verdict.underpowered else verdict.lacks


def _tick(x: float, said: str, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="9" text-anchor="{anchor}">{said}</text>'


def _axis(scale: Scale, *, both: bool) -> str:
    """What a metric's scale says, under its drawings: in the same columns."""
    zero, limit, left = scale.x(0), scale.x(1), scale.x(-1)
    half = LABEL / 2
    texts = _tick(limit, "margin", "start") if limit + LABEL < WIDTH else _tick(min(limit, WIDTH - half), "margin")
    if both:
        texts += _tick(left, "margin", "end") if left > LABEL else _tick(max(left, half), "margin")
    if limit - zero > half:
        texts += _tick(zero, "0")
    return (
        '<table aria-hidden="true"><colgroup><col class="cell"><col class="drawn"><col></colgroup><tr><td></td>'
        f'<td><svg viewBox="0 0 {WIDTH} 12">{texts}</svg></td><td></td></tr></table>'
    )


def key() -> str:
    """What the drawings mean."""
    scale = Scale(-0.3, 1.3)

    def sample(*, decides: bool, weak: bool = False) -> str:
        verdict = MetricVerdict(0.4, 0.15, 0.65, 1.0, "pass", underpowered=weak)
        return track(Place(0.4, 0.15, 0.65), scale, verdict, both=False, decides=decides)

    entries = (
        (sample(decides=True), "decides: a filled dot in the colour of its verdict, with its bounds"),
        (sample(decides=False), "advisory: a hollow dot, shown only, its verdict in brackets"),
        (sample(decides=False, weak=True), "underpowered: dashed, too little to decide anything"),
        (
            track(None, scale, None, both=False, decides=False),
            "thick line: the margin; thin line: no change; worse is to the right, whatever the sign",
        ),
    )
    items = "".join(f"<li>{drawn}{said}</li>" for drawn, said in entries)
    return f'<ul class="key">{items}</ul>'


def nearest(cells: Iterable[ParityCell]) -> tuple[ParityCell, str, float] | None:
    """The deciding bound that is worst: of the worst verdict, what comes nearest to its margin or lies farthest beyond.
    Its cell, metric and place."""
    found = [
        (cell, metric, max(abs(value) if verdict.side == "both" else value for value in place.known))
        for cell in cells
        for metric, verdict in cell.metrics.items()
        if cell.decides(metric)
        and verdict.verdict is not None
        and (place := place_of(metric, verdict, interval=cell.has_intervals)) is not None
    ]
    return max(found, key=lambda one: (SEVERITY[one[0].metrics[one[1]].verdict or "pass"], one[2]), default=None)
