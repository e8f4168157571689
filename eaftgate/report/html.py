"""report.html: one self-contained page that says what was judged, how it went, and what the numbers mean."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from eaftgate.files import write_text
from eaftgate.gate.candidates import UNVERIFIED, kind_line, served_lines, served_remarks, unknown_rows
from eaftgate.gate.classes import EXACT, LOSSES
from eaftgate.gate.luck import luck_line
from eaftgate.gate.results import PAGE_FILE, PARITY_FILE, Parity, ParityCell, RunVerdict, is_as_written, read_parity
from eaftgate.gate.table import remarks
from eaftgate.judge.metrics import METRICS, POINT_METRICS
from eaftgate.judge.verdict import MetricVerdict
from eaftgate.judge.wording import bounds_shown, shown
from eaftgate.outputs import check_file, claimed, put_file
from eaftgate.progress import NO_BAR, Bar, progress_bar
from eaftgate.report.banner import banners, names_of
from eaftgate.report.behaviour import behaviour_section
from eaftgate.report.classes import classes_section
from eaftgate.report.divergence import divergence_section
from eaftgate.report.keep_map import keep_maps
from eaftgate.report.landscapes import landscapes_section
from eaftgate.report.made_from import made_from
from eaftgate.report.margins import drawn_metrics, key, margins_section
from eaftgate.report.rows import Cell, html_text, row, table, verdict_cell
from eaftgate.report.side_by_side import side_by_side
from eaftgate.report.smaller import smaller_budgets
from eaftgate.report.stability import stability_section
from eaftgate.report.style import STYLE
from eaftgate.report.tasks import tasks_section
from eaftgate.report.yardstick import yardstick_lines
from eaftgate.visible import visible

ORIGIN_ROWS = (
    ("base against base, no-op rewrite", "UNION 1024, PPL 5.449", "0", "0", "0", "0", "pass"),
    ("base against base, no-op rewrite", "UNION 2048, PPL 4.514", "0", "0", "0", "0", "pass"),
    ("EAFT-REAP keep 24", "UNION 1024", "+0.212", "+0.016", "-0.0103", "0.0060", "pass"),
    ("EAFT-REAP keep 24", "UNION 2048", "+0.154", "+0.026", "-0.0097", "0.0031", "pass"),
    ("EAFT-REAP keep 20", "UNION 1024", "+0.485", "+0.053", "-0.0210", "0.0252", "fail"),
    ("EAFT-REAP keep 20", "UNION 2048", "+0.383", "+0.065", "-0.0216", "0.0128", "fail"),
    ("EAFT-REAP keep 24, about 1M tokens", "UNION 4096", "+0.124", "", "", "0.0030", ""),
    ("EAFT-REAP keep 24, about 1M tokens", "UNION 8192", "+0.107", "", "", "0.0030", ""),
    ("EAFT-REAP keep 24, about 1M tokens", "UNION 16384", "+0.099", "", "", "0.0030", ""),
)
"""Published by the project this grew from (radna0/cuda-norm): gpt-oss-20b, 512 blocks, v1."""

_ALLOWED = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The page runs nothing and fetches nothing; only its own style is applied."""

MANY_PROBLEMS = 12
"""More of them are listed where they are asked for."""
OPEN_AT_FIRST = 2
"""Candidates whose margins are open when the page is."""

_CHANGED = """<p class="verdict fail">parity.json has changed since the run wrote it: its sha256 is not that of what it
says, and nothing on this page can be relied on.</p>
"""


def write_report(results: Path, out: Path) -> bool:
    """Render the run in `results`; returns whether the page was there already. Raises UserError when the run has no
    result, and when `out` is something else."""
    check_file(out, [results / PARITY_FILE])
    parity = read_parity(results)
    with claimed(out):
        pass  # what is in the way is said before the collections are read
    with _shown(parity, out) as bar:
        page = render(parity, results, as_written=is_as_written(results), bar=bar)
    return put_file(out, page)


def write_page(results: Path, parity: Parity) -> None:
    """The run's own page, which replaces that of an earlier run."""
    out = results / PAGE_FILE
    with _shown(parity, out) as bar:
        write_text(out, render(parity, results, bar=bar))


def _shown(parity: Parity, out: Path) -> AbstractContextManager[Bar]:
    """Of a large run the collections take a while to be read and judged, twice for every cell that decides."""
    cells = sum(cell.severity == "primary" for cell in parity.cells)
    return progress_bar("report", 2 * cells, unit="cells", out=out, resumes=False)


def render(parity: Parity, results: Path | None = None, *, as_written: bool = True, bar: Bar = NO_BAR) -> str:
    """The page; `results` is where the run's collections are, if they are; `as_written`: nobody has changed parity.json
    since the run wrote it. `bar` is advanced twice for every cell that decides."""
    sections = [
        side_by_side(parity),
        _margins(parity),
        _problems(parity),
        classes_section(parity),
        behaviour_section(parity),
        tasks_section(parity),
        landscapes_section(results, parity, bar),
        smaller_budgets(results, parity, bar),
        keep_maps(parity),
        _luck(parity),
        stability_section(parity.stability, interval=parity.has_intervals),
        _figures(parity),
        divergence_section(parity),
        _published(),
        made_from(parity),
    ]
    policy, regime = html_text(parity.policy), html_text(parity.regime)
    title = f"{parity.verdict}, {UNVERIFIED}" if parity.is_unverified else parity.verdict
    when = f", {html_text(parity.run.ended[:10])}" if parity.run else ""
    headline = _verdict(parity.verdict, parity.verdict_shown) if as_written else _verdict("fail", "CHANGED SINCE")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_ALLOWED}">
<title>eaftgate: {html_text(title) if as_written else "changed since"}</title>
<style>{STYLE}</style></head><body>
<header><h1>Near-lossless gate: {headline}</h1>
<p>Policy {policy}, regime {regime}{when}. The rule on point estimates (near-lossless-v1) says
{_verdict(parity.v1_verdict, parity.v1_verdict)}.{_v2(parity.v2_verdict)}
{_best_of(parity.asked.best_of)}</p>
{"" if as_written else _CHANGED}</header>
<nav aria-label="on this page">{_contents(sections)}</nav>
<main>{banners(parity) if as_written else ""}
{_candidates(parity)}
{"".join(section for section in sections if section)}
</main>
<footer><p class="note">Written by eaftgate {html_text(parity.eaftgate)}. This page repeats parity.json and what the
run's collections show; eaftgate lock judges the collections again.</p></footer>
</body></html>
"""


_HEADING = re.compile(r'<h2 id="([\w-]+)">([^<]*)</h2>')


def _contents(sections: Sequence[str]) -> str:
    """Links to the sections that are there."""
    found = [match.groups() for section in sections for match in _HEADING.finditer(section)]
    return "<ul>" + "".join(f'<li><a href="#{place}">{title}</a></li>' for place, title in found) + "</ul>"


def _margins(parity: Parity) -> str:
    """Every candidate's cells against their margins."""
    if not drawn_metrics(parity.cells):
        return ""
    names = names_of(parity)
    said = "".join(
        f"<details{' open' if number < OPEN_AT_FIRST else ''}><summary><h3>{html_text(visible(name))}</h3></summary>"
        f"{margins_section(cells, number, parity.cells)}</details>"
        for number, name in enumerate(names)
        if (cells := [cell for cell in parity.cells if cell.name == name])
    )
    remarked = _remarks(parity.cells)
    return f"""<h2 id="margins">Against the margins</h2>
<p class="note">Differences are candidate minus base on the same tokens. A metric passes when its one-sided 95 % bounds
lie inside its margin, fails when they lie outside, and is inconclusive in between.</p>{key()}{said}{remarked}"""


def _figures(parity: Parity) -> str:
    """Every number of every cell."""
    cells = parity.cells
    if not cells:
        return ""
    by_class = {*EXACT, *LOSSES} - {"ppl"}  # in tables of their own
    elsewhere = [metric for metric in cells[0].metrics if metric not in by_class]
    columns = ("js2d plug-in", "PPL base", "PPL", "dPPL", "blocks", "tokens")
    judged = table(
        ("checkpoint", "pack", "seq_len", "verdict", *elsewhere, *columns),
        [_cell_row(cell, elsewhere) for cell in cells],
        label="all figures",
    )
    return f"""<h2 id="figures">All figures</h2><details><summary>Every cell, as in parity.json</summary>{judged}
<p class="note">Only completion tokens count. {_meanings(elsewhere, interval=parity.has_intervals)}
js2d plug-in is the Jensen-Shannon divergence on 160 x 120 bins, which at a small budget is mostly bias. The metrics
that have a margin are coloured by their verdict. Grey cells are advisory.</p></details>"""


def _published() -> str:
    origin = table(
        ("run (20B)", "cell", "dPPL", "dCC (pp)", "d mean p", "JS2D", "verdict"),
        [row("td", (*published, verdict_cell(verdict) if verdict else "")) for *published, verdict in ORIGIN_ROWS],
        label="published figures",
    )
    return f"""<h2 id="origin">Published figures of the origin</h2><details><summary>For comparison</summary>{origin}
<p class="note">keep 20 ran on other blocks, with base PPL 5.718 and 4.671: it loses 8.5 and 8.2 %, and its rows
do not compare with those of keep 24. At 1024 tokens the worst pack of keep 24, tool_agentic, had a JS2D of 0.0213.</p>
</details>"""


def _verdict(verdict: RunVerdict, said: str) -> str:
    return f'<span class="verdict {html_text(verdict)}">{html_text(said)}</span>'


def _v2(verdict: RunVerdict | None) -> str:
    if verdict is None:
        return ""
    return f" near-lossless-v2 says {_verdict(verdict, verdict)}."


def _beside(cell: ParityCell) -> str:
    """What the earlier policies say of a cell."""
    said = {"v1": cell.v1_verdict, "v2": cell.v2_verdict}
    return ", ".join(f"{name} {verdict}" for name, verdict in said.items() if verdict is not None)


def _best_of(candidates: int) -> str:
    if candidates == 1:
        return ""
    return (
        f"Judged as the best of {candidates} candidates: the bounds that a pass needs are at alpha / {candidates}, "
        "those that a fail needs at alpha."
    )


def _meanings(metrics: Sequence[str], *, interval: bool) -> str:
    known = METRICS if interval else POINT_METRICS
    said = [f"{name} is {known[name].meaning}" for name in metrics if name in known]
    return html_text("; ".join(said)) + "." if said else ""


def _cell_row(cell: ParityCell, metrics: Sequence[str]) -> str:
    advisory = not cell.decides_something
    verdict = Cell(f"({cell.verdict})", cell.verdict) if advisory else verdict_cell(cell.verdict)
    values: list[str | Cell] = [
        cell.name,
        cell.pack,
        str(cell.seq_len),
        verdict._replace(below=_beside(cell)),
        *(_metric(metric, cell.metrics.get(metric), interval=cell.has_intervals) for metric in metrics),
        f"{cell.js2d:.4f}",
        f"{cell.ppl_base:.4f}",
        f"{cell.ppl:.4f}",
        f"{cell.delta_ppl:+.4f}",
        str(cell.num_blocks),
        f"{cell.tokens:,}",
    ]
    return row("td", values, advisory=advisory)


def _metric(metric: str, verdict: MetricVerdict | None, *, interval: bool) -> Cell:
    if verdict is None:
        return Cell("-")
    if verdict.estimate is None:
        return Cell("underpowered" if verdict.underpowered else "-")
    bounded = verdict.lower is not None or verdict.upper is not None
    return Cell(
        shown(metric, verdict.estimate, interval=interval),
        verdict.verdict if verdict.decides and verdict.verdict else "",
        bounds_shown(metric, verdict) if bounded else "",
    )


def _candidates(parity: Parity) -> str:
    said = [kind_line(parity.asked.candidate_kind), *unknown_rows(parity.candidates), *yardstick_lines(parity)]
    lines = [*(said if parity.cells else []), *served_lines(parity.served), *served_remarks(parity.served)]
    return "".join(f'<p class="note">{html_text(line[:1].upper() + line[1:])}.</p>' for line in lines)


def _remarks(cells: Sequence[ParityCell]) -> str:
    said = "".join(f"<li>{html_text(line)}</li>" for line in remarks(cells))
    return f"<h3>What limits the cells, and keeps deciding ones from a pass</h3><ul>{said}</ul>" if said else ""


def _luck(parity: Parity) -> str:
    line = luck_line(parity)
    if line is None:
        return ""
    body = [
        row(
            "td",
            (found.pack, str(found.seq_len), str(found.documents), f"{found.alone:.1%}", f"{found.passes:.1%}"),
        )
        for found in parity.luck
    ]
    return f"""<h2 id="luck">The best of {parity.luck[0].candidates} candidates</h2>
{table(("pack", "seq_len", "documents", "one passes by luck", "at least one of all does"), body)}
<p class="note">The documents of the cell are drawn anew, the same for all candidates, whose differences are moved so
that each lies exactly on the margin of ppl; judged by the policy's bounds, by document.
{html_text(line[0].upper() + line[1:])}.</p>
"""


def _problems(parity: Parity) -> str:
    items = [f"{problem.case}: {problem.reason}" for problem in parity.failed]
    items += [f"not run: {case}" for case in parity.not_run]
    if not items:
        return ""
    listed = "<ul>" + "".join(f"<li>{html_text(item)}</li>" for item in items) + "</ul>"
    if len(items) > MANY_PROBLEMS:
        listed = f"<details><summary>{len(items)} cases</summary>{listed}</details>"
    return f'<h2 id="problems">What failed or did not run</h2>{listed}'
