"""What a candidate loses by class, and of whole messages: which figures there are, and how a terminal shows them."""

from collections.abc import Collection, Sequence

from rich.text import Text

from eaftgate.gate.messages import LostMessage
from eaftgate.gate.results import Parity, ParityCell, ParityTurns
from eaftgate.gate.table import COLOURS, rendered
from eaftgate.judge.wording import shown
from eaftgate.tables import terminal_table
from eaftgate.visible import visible

LOSSES = {
    "nll_header": "header",
    "nll_recipient": "recipient",
    "nll_analysis": "analysis",
    "nll_commentary": "commentary",
    "nll_call": "call",
    "nll_final": "final",
    "nll_other": "other",
    "nll_close": "close",
    "ppl": "all content",
    "ppl_all": "all tokens",
}
"""Metric -> class of tokens, roughly as a model writes them."""
EXACT = {"exact_calls": "call", "exact_finals": "final"}
"""Metric -> class of messages."""

_WIDE = 78
_LOST_SHOWN = 5


def has_classes(cell: ParityCell) -> bool:
    """Whether it was judged by a policy that looks at classes."""
    return any(metric in cell.metrics for metric in (*EXACT, *LOSSES) if metric != "ppl")


def measured(cell: ParityCell, metric: str) -> bool:
    """Whether a metric of a class was judged, and the class occurs in the cell."""
    return metric in cell.metrics and cell.metrics[metric].documents is not None


def tokens_of(cell: ParityCell, metric: str) -> int:
    return int(cell.details.get(metric, {}).get("tokens", cell.tokens))


def class_lines(parity: Parity, *, width: int, colour: bool) -> list[str]:
    """What a run ends with about every candidate, on the packs that decide: tables, and, where the loss of messages
    keeps it from a pass, the first of those."""
    lines = []
    for name in dict.fromkeys(cell.name for cell in parity.cells):
        cells = [cell for cell in parity.cells if cell.name == name]
        primary = [cell for cell in cells if cell.severity == "primary" and has_classes(cell)]
        for pack in dict.fromkeys(cell.pack for cell in primary):
            tables = class_tables([cell for cell in primary if cell.pack == pack], width=width, colour=colour)
            lines += ["", f"{visible(name)} on {visible(pack)}, by class:", *tables]
        lines += _elsewhere(name, primary, [cell for cell in cells if cell not in primary], width=width, colour=colour)
        if red_by_exactness(cells):
            lines += lost_lines(parity, name)
    return lines


def _elsewhere(
    name: str, primary: Sequence[ParityCell], others: Sequence[ParityCell], *, width: int, colour: bool
) -> list[str]:
    """Tables of the classes that have too little to decide on in the primary cells, from the packs that decide them."""

    def decided(cells: Sequence[ParityCell]) -> list[str]:
        return [
            metric
            for metric in (*LOSSES, *EXACT)
            if any(measured(c, metric) and c.decides(metric) and c.metrics[metric].decides for c in cells)
        ]

    lines, known = [], decided(primary) if primary else [*LOSSES, *EXACT]
    for pack in dict.fromkeys(cell.pack for cell in others):
        cells = [cell for cell in others if cell.pack == pack]
        if metrics := [metric for metric in decided(cells) if metric not in known]:
            tables = class_tables(cells, width=width, colour=colour, metrics=metrics)
            lines += ["", f"{visible(name)} on {visible(pack)}, which decides these:", *tables]
    return lines


def class_tables(
    cells: Sequence[ParityCell], *, width: int, colour: bool, metrics: Collection[str] = (*LOSSES, *EXACT)
) -> list[str]:
    """Of one candidate's cells: its loss by class of tokens, and what it loses of the base's exact messages; of all
    classes, or of these metrics."""
    tokens: list[Sequence[str | Text]] = [
        (kind, str(cell.seq_len), f"{tokens_of(cell, metric):,}", *_loss(cell, metric))
        for metric, kind in LOSSES.items()
        for cell in cells
        if metric in metrics and measured(cell, metric)
    ]
    wide = width >= _WIDE
    messages: list[Sequence[str | Text]] = [
        (kind, str(cell.seq_len), *_flips(cell, metric, wide=wide), *_loss(cell, metric))
        for metric, kind in EXACT.items()
        for cell in cells
        if metric in metrics and measured(cell, metric)
    ]
    counts = ("exact", "lost", "gained", "close") if wide else ("lost", "gained")
    return [
        *_table(("tokens", "seq", "number", "dPPL", "at most", "verdict"), tokens, width, colour),
        *_table(("messages", "seq", *counts, "net", "at most", "verdict"), messages, width, colour),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str | Text]], width: int, colour: bool) -> list[str]:
    table = terminal_table(head, rows, text=("verdict",), folded={head[0]: 5}, collapse_padding=True)
    return [rendered(table, width=width, colour=colour)] if rows else []


def _loss(cell: ParityCell, metric: str) -> tuple[str, str, Text]:
    verdict = cell.metrics[metric]
    estimate, upper = (shown(metric, value, interval=True) for value in (verdict.estimate, verdict.upper))
    return estimate, upper, verdict_text(cell, metric)


def _flips(cell: ParityCell, metric: str, *, wide: bool) -> list[str]:
    verdict = cell.metrics[metric]
    lost, gained = (f"{number or 0:,}" for number in (verdict.lost, verdict.gained))
    if not wide:
        return [lost, gained]
    return [f"{verdict.events or 0:,}", lost, gained, f"{cell.details.get(metric, {}).get('close', 0):,}"]


def verdict_text(cell: ParityCell | ParityTurns, metric: str) -> Text:
    """In capitals where it decides, in brackets where it is shown only; a dash without a margin."""
    verdict = cell.metrics[metric]
    if verdict.verdict is None:
        return Text("-")
    if verdict.underpowered:
        return Text("(underpowered)")
    if not cell.decides(metric):
        return Text(f"({verdict.verdict})")
    return Text(verdict.verdict.upper(), style=COLOURS[verdict.verdict])


def red_by_exactness(cells: Sequence[ParityCell]) -> bool:
    """Whether a loss of messages keeps one of these cells from a pass."""
    return any(
        cell.decides(metric) and cell.metrics[metric].verdict not in (None, "pass")
        for cell in cells
        for metric in EXACT
        if measured(cell, metric)
    )


def lost_lines(parity: Parity, name: str) -> list[str]:
    """The first messages that a candidate loses, two lines each."""
    lost = parity.lost_messages.get(name, ())
    lines = [f"messages that the base writes exactly and {visible(name)} does not, the first of them:"] if lost else []
    for message in lost[:_LOST_SHOWN]:
        lines += [f"  {where(message)}: {instead(message)}", f"    {visible(message.reference)}"]
    if len(lost) > _LOST_SHOWN:
        lines.append(f"  and {len(lost) - _LOST_SHOWN} further ones in parity.json and in the report")
    return lines


def where(message: LostMessage) -> str:
    """Which message it is, in words that are safe to print."""
    place = ", ".join(visible(part) for part in (message.pack, message.domain) if part)
    said = [f"{message.kind} of {place}", f"row {message.row[:12]}"]
    if message.prompt_cut:
        said.append("prompt cut off by the block")
    if message.close:
        said.append("a close choice")
    return ", ".join(said)


def instead(message: LostMessage) -> str:
    """What the candidate would write, and where, safe to print."""
    after = f" after `{visible(message.before)}`" if message.before else ""
    return f"`{visible(message.written)}` instead of `{visible(message.expected)}`{after}"
