"""The report's sections on classes of tokens and on whole messages: what is lost of each, where, and the first ones."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from eaftgate.gate.classes import EXACT, LOSSES, has_classes, instead, measured, tokens_of, verdict_text, where
from eaftgate.gate.messages import LostMessage, MessageCounts
from eaftgate.gate.results import Parity, ParityCell
from eaftgate.judge.wording import bounds_shown, shown
from eaftgate.report.rows import Cell, html_text, row, table
from eaftgate.visible import visible

_CLASSES = (
    "The change of the log-loss by class of tokens, shown as a relative change of perplexity, with its bounds and the "
    "number of tokens. header: channel, recipient and constraint, up to <|message|>; recipient: the name that a call "
    "is addressed to, by itself; close: the closing token. A coloured figure decides; one in black is shown only."
)
_MESSAGES = (
    "A message is exact under a model when each of its tokens, from the channel to the closing token, is the model's "
    "first choice, so that greedy decoding would write just it. Only those count that lie whole in one block. exact: "
    "under the base; lost: of those, not under the candidate; gained: the other way round; net: lost less gained, of "
    "those exact under the base. close: somewhere in it the first two choices of a model lie less than 0.001 nats "
    "apart, so that rounding may decide; such messages are among the others, too. The last two columns are messages, "
    "exact, lost and gained, of those whose block has all of the conversation before them, and of those whose block "
    "lacks a part of it."
)


def classes_section(parity: Parity) -> str:
    """HTML, of every candidate; nothing where the policy looks at no class and no message was counted."""
    said = ""
    for number, name in enumerate(dict.fromkeys(cell.name for cell in parity.cells)):
        cells = [cell for cell in parity.cells if cell.name == name]
        by_class = [cell for cell in cells if has_classes(cell)]
        counted = [cell for cell in cells if cell.messages]
        title = html_text(visible(name))
        if by_class:
            said += f'<h2 id="classes{number}">{title}, by class</h2>{_class_table(by_class)}'
            said += _note_once(html_text(_CLASSES), said)
        if counted:
            said += f'<h2 id="messages{number}">{title}, whole messages</h2>{_message_table(counted)}'
            said += f"{_note_once(_MESSAGES, said)}{_breakdown(counted)}"
        said += _lost(title, parity.lost_messages.get(name, ()))
    return said


def _note_once(note: str, said: str) -> str:
    """What the tables of all candidates mean, under the first of them."""
    return "" if note in said else f'<p class="note">{note}</p>'


def _class_table(cells: Sequence[ParityCell]) -> str:
    metrics = [metric for metric in LOSSES if any(measured(cell, metric) for cell in cells)]
    body = [row("td", (_place(cell), *(_loss(cell, metric) for metric in metrics))) for cell in cells]
    return table(("cell", *(Cell(LOSSES[metric]) for metric in metrics)), body)


def _place(cell: ParityCell) -> str:
    return f"{cell.pack} {cell.seq_len}"


def _loss(cell: ParityCell, metric: str) -> Cell:
    if not measured(cell, metric):
        return Cell("-")
    verdict = cell.metrics[metric]
    bounds = bounds_shown(metric, verdict) if verdict.lower is not None or verdict.upper is not None else ""
    below = (bounds, f"{tokens_of(cell, metric):,} tokens", "underpowered" if verdict.underpowered else "")
    return Cell(shown(metric, verdict.estimate, interval=True), _colour(cell, metric), "\n".join(filter(None, below)))


def _colour(cell: ParityCell, metric: str) -> str:
    return (cell.metrics[metric].verdict or "") if cell.decides(metric) else ""


_COUNTS = ("messages", "exact", "lost", "gained")
_BY_PROMPT = ("prompt whole", "prompt cut")


def _message_table(cells: Sequence[ParityCell]) -> str:
    head = ("cell", "class", *_COUNTS, "net", "verdict", "close", "close, lost", "close, gained", *_BY_PROMPT)
    kinds = dict.fromkeys((*EXACT.values(), *(count.kind for cell in cells for count in cell.messages)))
    body = [
        row("td", (_place(cell), kind, *_figures(cell, kind, counts)))
        for kind in kinds
        for cell in cells
        if (counts := [count for count in cell.messages if count.kind == kind])
    ]
    return table(head, body)


def _figures(cell: ParityCell, kind: str, counts: Sequence[MessageCounts]) -> list[str | Cell]:
    """Of one class in a cell; net with its bounds and its verdict where the policy has a rule for it."""
    net, verdict = Cell(_net(counts)), Cell("-")
    for metric in (metric for metric, of in EXACT.items() if of == kind and metric in cell.metrics):
        judged = cell.metrics[metric]
        bounds = "" if judged.lower is None and judged.upper is None else bounds_shown(metric, judged)
        net = Cell(net.text, _colour(cell, metric), bounds)
        verdict = Cell(verdict_text(cell, metric).plain, _colour(cell, metric))
    by_prompt = (
        ", ".join(_sum([count for count in counts if count.prompt_cut is cut], name) for name in _COUNTS)
        for cut in (False, True)
    )
    close = (_sum(counts, name) for name in ("close", "close_lost", "close_gained"))
    return [*(_sum(counts, name) for name in _COUNTS), net, verdict, *close, *by_prompt]


def _sum(counts: Iterable[MessageCounts], name: str) -> str:
    return f"{sum(getattr(count, name) for count in counts):,}"


def _net(counts: Sequence[MessageCounts]) -> str:
    exact = sum(count.exact for count in counts)
    return f"{sum(count.lost - count.gained for count in counts) / exact:+.2%}" if exact else "-"


def _breakdown(cells: Sequence[ParityCell]) -> str:
    """By pack and class, and those by domain, a table to open for every primary cell."""
    head = ("pack", "domain", "class", *_COUNTS, "net", "close", "prompt cut")
    said = ""
    for cell in (cell for cell in cells if cell.severity == "primary"):
        of_packs = [((count.pack, "all", count.kind), count) for count in cell.messages]
        of_domains = [((count.pack, count.domain, count.kind), count) for count in cell.messages if count.domain]
        body = [
            row("td", (*names, *_totals([count for _, count in counts])))
            for keyed in (of_packs, of_domains)
            for names, counts in groupby(sorted(keyed, key=_names), key=_names)
        ]
        title = f"{cell.name} {cell.pack} {cell.seq_len}: by pack, domain and class"
        said += f"<details><summary>{html_text(visible(title))}</summary>{table(head, body)}</details>"
    return said


def _names(keyed: tuple[tuple[str, str, str], MessageCounts]) -> tuple[str, str, str]:
    return keyed[0]


def _totals(counts: Sequence[MessageCounts]) -> list[str]:
    cut = _sum([count for count in counts if count.prompt_cut], "messages")
    return [*(_sum(counts, name) for name in _COUNTS), _net(counts), _sum(counts, "close"), cut]


def _lost(title: str, messages: Sequence[LostMessage]) -> str:
    if not messages:
        return ""
    items = "".join(
        f"<li>{html_text(where(message))}, seq_len {message.seq_len}, {message.right} of {message.tokens} tokens right"
        f"<small>the candidate would write {html_text(instead(message))}</small>"
        f"<code>{html_text(visible(message.reference))}</code></li>"
        for message in messages
    )
    return (
        f"<h3>{title}, the first messages lost</h3>"
        '<p class="note">Calls and final answers of the cells that decide, that the base writes exactly as they stand. '
        "What is no printable character is written as in a Python literal.</p>"
        f'<ol class="lost">{items}</ol>'
    )
