"""The report's section on what the models write by themselves: the rules, and the first turns that differ."""

from collections.abc import Sequence

from eaftgate.gate.results import Parity, ParityTurns
from eaftgate.gate.turns import TurnApart
from eaftgate.judge.behaviours import BEHAVIOURS
from eaftgate.judge.wording import bounds_shown, shown
from eaftgate.report.rows import Cell, html_text, row, table
from eaftgate.visible import visible

_WHAT = (
    "Base and candidate write the same assistant turns, greedily, given all of the conversation before them. Lost: "
    "right under the base and not under the candidate; gained: the other way round; the figure is the net loss with "
    "its bounds. A coloured figure decides; one in black is shown only. ends: of its own accord, within the length; "
    "repeats: more than half of its stretches of 8 tokens stood before; length: of the mean turn; calls_parse, "
    "calls_offered, calls_suit: no call whose arguments are no JSON object, of a function that the prompt does not "
    "offer, whose arguments do not suit its signature; calls_equal: the reference's function with its arguments, as "
    "values; finals_equal: the reference's answer: what is marked as the answer (\\boxed{}, ####, answer is), else all "
    "of it; an option by its letter, else its last number, else its text without case, white space and punctuation at "
    "its ends."
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
    metrics = [metric for metric in BEHAVIOURS if any(metric in turns.metrics for turns in cells)]
    head = ("pack", "turns", *metrics)
    body = [
        row("td", (turns.pack, f"{turns.turns:,}", *(_figure(turns, metric) for metric in metrics))) for turns in cells
    ]
    return table(head, body, label="what is written")


def _figure(turns: ParityTurns, metric: str) -> Cell:
    verdict = turns.metrics.get(metric)
    if verdict is None or verdict.estimate is None:
        return Cell("-")
    of = turns.details.get(metric, {}).get("turns")
    lost = "" if verdict.lost is None else f"{verdict.lost} lost, {verdict.gained} gained"
    below = (bounds_shown(metric, verdict), f"{lost} of {of}" if lost else "", verdict.lacks and "underpowered")
    colour = (verdict.verdict or "") if turns.decides(metric) else ""
    return Cell(shown(metric, verdict.estimate, interval=True), colour, "\n".join(filter(None, below)))


def _apart(title: str, turns: Sequence[TurnApart]) -> str:
    if not turns:
        return ""
    body = "".join(
        f"<tr><td>{_where(turn)}<code>{html_text(visible(turn.asked))}</code></td>"
        + "".join(
            f"<td><code>{html_text(visible(text))}</code></td>" for text in (turn.reference, turn.base, turn.candidate)
        )
        + "</tr>"
        for turn in turns
    )
    return (
        f"<h3>{title}, the first turns that differ</h3>"
        '<p class="note">Those before all in which something is lost. Of a prompt its end; a long text lacks its '
        "middle; what is no printable character is written as in a Python literal.</p>"
        '<div class="scroll" tabindex="0" role="group" aria-label="turns that differ"><table class="apart"><tr>'
        f"<th>turn</th><th>reference</th><th>base</th><th>candidate</th></tr>{body}</table></div>"
    )


def _where(turn: TurnApart) -> str:
    lost = f": {', '.join(turn.lost)}" if turn.lost else ""
    place = f"{turn.pack}{', ' + turn.domain if turn.domain else ''}, row {turn.row[:12]}, turn {turn.number}{lost}"
    return f"<small>{html_text(visible(place))}</small>"
