"""The report's section on what the models write by themselves: the rules, and the first turns that differ."""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from eaftgate.behaviour.answers import EQUAL
from eaftgate.gate.results import Parity, ParityTurns
from eaftgate.gate.turns import TurnApart
from eaftgate.judge.behaviours import BEHAVIOURS
from eaftgate.judge.wording import bounds_shown, shown
from eaftgate.report.rows import Cell, cell_html, html_text, table
from eaftgate.visible import visible

_WHAT = (
    "Base and candidate write the same assistant turns, greedily, given all of the conversation before them. Lost: "
    "right under the base and not under the candidate; gained: the other way round; the figure is lost less gained, "
    "with its bounds. A coloured figure decides; one in black is shown only. Final answers say the same when they are "
    f"equal: {EQUAL}."
)
_APART = (
    "Those before all in which something is lost. Marked is where the candidate parts from the base. Of a prompt its "
    "end; a long text lacks its middle; what is no printable character is written as in a Python literal."
)


def behaviour_section(parity: Parity) -> str:
    """HTML, of every candidate; nothing where no turns were written."""
    said = ""
    for number, name in enumerate(dict.fromkeys(turns.name for turns in parity.behaviour)):
        title = html_text(visible(name))
        cells = [turns for turns in parity.behaviour if turns.name == name]
        said += f'<h2 id="behaviour{number}">{title}, written by itself</h2>{_table(cells)}'
        said += f'<p class="note">{html_text(_WHAT)}</p>' if number == 0 else ""
        said += _apart(title, parity.turns_apart.get(name, ()))
    return said


def _table(cells: Sequence[ParityTurns]) -> str:
    """A metric a line, so that a narrow page has its meaning and UNION, which decides, side by side."""
    metrics = [metric for metric in BEHAVIOURS if any(_is_known(turns, metric) for turns in cells)]
    return table(
        ("metric", *map(_head, cells)),
        [_line(metric, cells) for metric in metrics],
        kind="matrix",
        label="what is written",
    )


def _is_known(turns: ParityTurns, metric: str) -> bool:
    return metric in turns.metrics and turns.metrics[metric].estimate is not None


def _head(turns: ParityTurns) -> Cell:
    said = (f"{turns.turns:,} turns", (turns.verdict or "").upper())
    return Cell(turns.pack, turns.verdict or "", "\n".join(filter(None, said)))


def _line(metric: str, cells: Sequence[ParityTurns]) -> str:
    verdicts = [turns.metrics[metric] for turns in cells if metric in turns.metrics]
    margins = dict.fromkeys(shown(metric, one.margin, interval=True) for one in verdicts if one.margin is not None)
    meaning = "<br>".join(map(html_text, (BEHAVIOURS[metric].meaning, *(f"margin {margin}" for margin in margins))))
    figures = "".join(cell_html("td", _figure(turns, metric)) for turns in cells)
    return f'<tr><th scope="row" class="name">{metric}<br><small>{meaning}</small></th>{figures}</tr>'


def _figure(turns: ParityTurns, metric: str) -> Cell:
    if not _is_known(turns, metric):
        return Cell("-")
    verdict = turns.metrics[metric]
    colour = (verdict.verdict or "") if turns.decides(metric) else ""
    below = (bounds_shown(metric, verdict), *_counts(turns, metric), "underpowered" if verdict.lacks else "")
    return Cell(shown(metric, verdict.estimate, interval=True), colour, "\n".join(filter(None, below)))


def _counts(turns: ParityTurns, metric: str) -> Iterator[str]:
    verdict, counted = turns.metrics[metric], turns.details.get(metric, {})
    if verdict.lost is not None and {"base", "turns"} <= counted.keys():
        yield f"base right in {counted['base']:,} of {counted['turns']:,}"
        yield f"{verdict.lost:,} lost, {verdict.gained:,} gained"


def _apart(title: str, turns: Sequence[TurnApart]) -> str:
    if not turns:
        return ""
    items = "".join(f"<li>{_where(turn)}{_texts(turn)}</li>" for turn in turns)
    return (
        f'<h3>{title}, the first turns that differ</h3><p class="note">{html_text(_APART)}</p>'
        f'<ol class="apart">{items}</ol>'
    )


def _where(turn: TurnApart) -> str:
    lost = f": {', '.join(turn.lost)} lost" if turn.lost else ""
    place = f"{turn.pack}{', ' + turn.domain if turn.domain else ''}, row {turn.row[:12]}, turn {turn.number}{lost}"
    return f"<small>{html_text(visible(place))}</small>"


def _texts(turn: TurnApart) -> str:
    base, candidate = _lines(turn.base), _lines(turn.candidate)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(base, candidate, strict=False)))
    texts = {
        "prompt": _html(_lines(turn.asked)),
        "reference": _html(_lines(turn.reference)),
        "base": f"{_html(base[:same])}<mark>{_html(base[same:])}</mark>",
        "candidate": f"{_html(candidate[:same])}<mark>{_html(candidate[same:])}</mark>",
    }
    figures = (f"<figure><figcaption>{of}</figcaption><code>{text}</code></figure>" for of, text in texts.items())
    return f'<div class="texts">{"".join(figures)}</div>'


def _lines(text: str) -> str:
    """A line for each message of Harmony."""
    return visible(text).replace("<|start|>", "\n<|start|>").removeprefix("\n")


def _html(lines: str) -> str:
    """A line is broken before a special token rather than in it."""
    return "\n".join(html_text(line).replace("&lt;|", "<wbr>&lt;|") for line in lines.split("\n"))
