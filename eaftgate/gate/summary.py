"""RUN_DIR/parity.md: a run in Markdown, short enough to be pasted anywhere.

GitHub takes 65,536 characters for a comment and 1 MiB for the summary of a step.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from eaftgate.gate.candidates import kind_line, served_lines, served_remarks
from eaftgate.gate.classes import EXACT, LOSSES, measured
from eaftgate.gate.conclusion import of_checkpoint, reason_of
from eaftgate.gate.more_blocks import more_blocks
from eaftgate.gate.results import Parity, ParityCell
from eaftgate.gate.table import remarks
from eaftgate.gate.tasks_table import HEAD as TASKS_HEAD
from eaftgate.gate.tasks_table import task_rows, tasks_remarks
from eaftgate.gate.tasks_table import verdict_word as verdict_word_of_task
from eaftgate.gate.turns_table import turns_remarks
from eaftgate.judge.metrics import METRICS, has_intervals
from eaftgate.judge.verdict import MetricVerdict
from eaftgate.judge.wording import shown
from eaftgate.markdown import code, escaped, table
from eaftgate.packs.pack import UNION

LIMIT = 60_000
"""Characters."""
STEP_LIMIT = 1 << 20
"""Bytes, of all that a step says."""
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
"""What GitHub's runner names the file by to which a step adds its summary."""
HEAD = "## eaftgate: "
_MAX_REMARKS = 12


class Judged(Protocol):
    """A cell as parity.json and a lock have it."""

    @property
    def pack(self) -> str: ...
    @property
    def seq_len(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def metrics(self) -> Mapping[str, MetricVerdict]: ...


def cells_table(
    cells: Sequence[Judged], lead: Mapping[str, Callable[[int], str]], verdict: Callable[[int], str]
) -> list[str]:
    """Lines of a table of cells: `lead` are columns before theirs, by the cell's index, `verdict` is the last one."""
    columns = [
        (metric.name, column)
        for metric in METRICS.values()
        for column in metric.columns
        if cells and metric.name in cells[0].metrics and has_intervals(cells[0].metrics)
    ]
    head = [*lead, "pack", "seq", "tokens", *(column.head for _, column in columns), "verdict"]

    def row(index: int, cell: Judged) -> list[str]:
        values = [getattr(cell.metrics[name], column.number) for name, column in columns]
        return [
            *(show(index) for show in lead.values()),
            code(cell.pack, cell=True),
            str(cell.seq_len),
            f"{cell.tokens:,}",
            *("?" if value is None else column.text(value) for value, (_, column) in zip(values, columns, strict=True)),
            verdict(index),
        ]

    return table(head, (row(index, cell) for index, cell in enumerate(cells)), text=len(lead) + 1)


def verdict_word(cell: ParityCell) -> str:
    """As in the terminal: in brackets where it does not decide."""
    return f"**{cell.verdict.upper()}**" if cell.decides_something else f"({cell.verdict})"


def parity_markdown(parity: Parity) -> str:
    """The run, within LIMIT: what does not fit is left to parity.json, which is said."""
    lines = _fitting(list(_head(parity)), LIMIT // 4)
    deciding = [cell for cell in parity.cells if cell.severity == "primary"]
    others = [cell for cell in parity.cells if cell.severity != "primary"]
    lines += _fitting(_cells(deciding), LIMIT // 4)
    lines += _fitting(_classes(parity), LIMIT // 4)
    lines += _fitting(_behaviour(parity), LIMIT // 16)
    lines += _fitting(_tasks(parity), LIMIT // 16)
    if others:
        within = _fitting(_cells(others), LIMIT // 4)
        lines += ["<details><summary>Other cells</summary>", "", *within, "</details>", ""]
    return "\n".join(lines).rstrip() + "\n"


def add_step_summary(text: str) -> None:
    """To the file that GitHub's runner has named, if it has, and if that has room: of one that is too long nothing is
    shown. The run's verdict does not depend on it."""
    if place := os.environ.get(STEP_SUMMARY):
        added = f"{text}\n".encode()
        with suppress(OSError), Path(place).open("ab") as file:
            if file.tell() + len(added) <= STEP_LIMIT:
                file.write(added)


def _head(parity: Parity) -> Iterator[str]:
    yield f"{HEAD}{parity.verdict_shown}"
    yield ""
    yield f"Policy {code(parity.policy)}, regime {code(parity.regime)}, eaftgate {escaped(parity.eaftgate)}."
    yield ""
    names = dict.fromkeys([one.name for one in parity.candidates] + [cell.name for cell in parity.cells])
    for name in names:
        yield f"- {code(name)}: **{of_checkpoint(parity, name).verdict_shown}**{_size(parity, name)}"
    if names:
        yield ""
    if parity.is_unverified:
        said = [kind_line(parity.asked.candidate_kind), *served_lines(parity.served), *served_remarks(parity.served)]
        yield from (*(f"- {escaped(line[:1000])}" for line in said[:_MAX_REMARKS]), "")
    if not parity.complete:
        yield from (f"The session did not end by itself; {len(parity.not_run):,} planned cases did not run.", "")
    if parity.verdict != "pass":
        yield from (escaped(reason_of(parity)[:2000]), "")
    if (needed := more_blocks(parity)) is not None:
        yield from (f"{escaped(needed.said)} {code(needed.words[:2000]) if needed.words else ''}".rstrip(), "")
    said = remarks(parity.cells) + turns_remarks(parity) + tasks_remarks(parity)
    for line in said[:_MAX_REMARKS]:
        yield f"- {escaped(line[:1000])}"
    if len(said) > _MAX_REMARKS:
        yield f"- and {len(said) - _MAX_REMARKS} further ones, in parity\\.json"
    if said:
        yield ""


def _size(parity: Parity, name: str) -> str:
    known = {one.name: one for one in parity.run.checkpoints} if parity.run is not None else {}
    if name not in known or "base" not in known:
        return ""
    found, base = known[name], known["base"]
    return f", {found.experts} of {base.experts} experts, {1 - found.bytes / base.bytes:.1%} of the bytes saved"


def _cells(cells: Sequence[ParityCell]) -> list[str]:
    if not cells:
        return []
    lead = {"candidate": lambda index: code(cells[index].name, cell=True)}
    return [*cells_table(cells, lead, lambda index: verdict_word(cells[index])), ""]


def _classes(parity: Parity) -> list[str]:
    """What decides by class of tokens and by whole messages, wherever it does."""
    rows = []
    for cell in parity.cells:
        for metric in (*LOSSES, *EXACT):
            if metric == "ppl" or not measured(cell, metric) or not cell.decides(metric):
                continue
            verdict = cell.metrics[metric]
            word = "" if verdict.verdict is None else f"**{verdict.verdict.upper()}**"
            rows.append(
                [
                    code(cell.name, cell=True), code(cell.pack, cell=True), metric, str(cell.seq_len),
                    shown(metric, verdict.estimate, interval=True), shown(metric, verdict.upper, interval=True),
                    "underpowered" if verdict.underpowered else word,
                ]
            )  # fmt: skip
    head = ("candidate", "pack", "rule", "seq", "loss", "at most", "verdict")
    return [*table(head, rows, text=3), ""] if rows else []


def _behaviour(parity: Parity) -> list[str]:
    """What the models write by themselves, over all packs."""
    rows = []
    for turns in parity.behaviour:
        for metric, verdict in turns.metrics.items():
            if turns.pack != UNION or verdict.verdict is None:
                continue
            word = f"**{verdict.verdict.upper()}**" if turns.decides(metric) else f"({verdict.verdict})"
            rows.append(
                [
                    code(turns.name, cell=True), metric, f"{turns.turns:,}",
                    shown(metric, verdict.estimate, interval=True), shown(metric, verdict.upper, interval=True),
                    "underpowered" if verdict.underpowered else word,
                ]
            )  # fmt: skip
    head = ("candidate", "written by itself", "turns", "loss", "at most", "verdict")
    return [*table(head, rows, text=2), ""] if rows else []


def _tasks(parity: Parity) -> list[str]:
    rows = [
        [
            *(code(cell, cell=True) for cell in cells[:2]),
            *map(escaped, cells[2:]),
            f"**{word}**" if word.isupper() else word,
        ]
        for task in parity.tasks
        for name, cells in task_rows(task)
        for word in (verdict_word_of_task(task, name),)
    ]
    return [*table(TASKS_HEAD, rows, text=4), ""] if rows else []


def _fitting(lines: list[str], limit: int) -> list[str]:
    """Lines, as many as have room."""
    kept: list[str] = []
    room = limit
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            return [*kept, "", f"{len(lines) - len(kept)} further lines are in parity\\.json\\.", ""]
        kept.append(line)
    return kept
