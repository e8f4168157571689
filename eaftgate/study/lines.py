"""A line of a sweep, as its file has it: a case, what it chose, and how that did on rows it was not chosen on."""

import json
from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError

from eaftgate.errors import UserError
from eaftgate.files import atomic_path, write_failure
from eaftgate.judge.verdict import MetricVerdict, Verdict
from eaftgate.records import Record, first_problem, json_of, seal_holds
from eaftgate.select.keep import KeepSets
from eaftgate.study.cases import Case

_BEGIN = b'{"key"'


class MetricScore(Record):
    estimate: float | None
    lower: float | None
    upper: float | None
    margin: float | None
    verdict: Verdict | None


def score_of(verdict: MetricVerdict) -> MetricScore:
    return MetricScore(**{name: getattr(verdict, name) for name in MetricScore.model_fields})


class Score(Record):
    """Of keep sets, on `scored_on_tokens`."""

    scored_on_tokens: int
    verdict: Verdict
    metrics: dict[str, MetricScore]


class SweepLine(Record):
    """`key` names everything that the line depends on."""

    key: str
    case: Case
    chosen_on_tokens: int
    seconds: float
    scored_on_tokens: int
    verdict: Verdict
    metrics: dict[str, MetricScore]
    keep: KeepSets

    @property
    def score(self) -> Score:
        return Score(scored_on_tokens=self.scored_on_tokens, verdict=self.verdict, metrics=self.metrics)


def read_lines(out: Path, keys: Collection[str]) -> dict[str, SweepLine]:
    """Whole lines by key, of those that are asked for; one that an interruption cut off is none.

    Raises UserError for another kind of file, and for a line that is not what its key says or has changed since.
    """
    if not out.exists():
        return {}
    content = out.read_bytes()
    if content and not content.startswith(_BEGIN[: len(content)]):
        raise UserError(f"{out} was not written by eaftgate sweep: choose another --out")
    found = {}
    for number, text in enumerate(content.splitlines(), start=1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):  # JSON or UTF-8 that is cut off
            continue
        if not isinstance(line, dict) or line.get("key") not in keys:
            continue
        try:
            read = SweepLine.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise UserError(f"{out}, line {number}: {first_problem(error)}; remove that line") from None
        if not seal_holds(line):
            raise UserError(f"{out}, line {number} has changed since it was written; remove that line")
        found[read.key] = read
    return found


def add_line(out: Path, line: SweepLine) -> None:
    """Add `line` to the file `out` of lines, of which it drops one that was cut off. Raises UserError when the disk
    fails; the file is then what it was."""
    content = out.read_bytes() if out.exists() else b""
    begin, newline, last = content.rpartition(b"\n")
    try:
        json.loads(last)
        begin, newline = content, b"\n"
    except (ValueError, RecursionError):
        pass
    added = json.dumps(json_of(line, sealed=True)).encode() + b"\n"
    try:
        with atomic_path(out) as temporary:
            temporary.write_bytes(begin + newline + added)
    except OSError as error:
        raise write_failure(error, out) from None
