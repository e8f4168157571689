"""Chat data to packs: one Harmony conversation a row, and a report of every row that is none (SPEC section 8).

A pack is DIR/NAME.parquet; beside it NAME.build.json says what it was made from and what was left out.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from eaftgate.chats.chat import Chat, LeftOut
from eaftgate.chats.forms import chat_of
from eaftgate.chats.rows import Row, data_files, read_rows, stem_of
from eaftgate.errors import UserError
from eaftgate.files import atomic_path, sha256_file
from eaftgate.made_from import MADE_FROM_FILE, write_made_from
from eaftgate.outputs import check_apart, check_file, check_outside_checkpoints, check_parent, claimed, file_up_to_date
from eaftgate.packs.harmony import START, MalformedRow, assistant_messages
from eaftgate.packs.pack import MAX_MALFORMED, UNION, row_identity, shuffle_key
from eaftgate.progress import progress_bar
from eaftgate.records import Record, json_of, read_model
from eaftgate.visible import MAX_STEM_BYTES

RECORD_SUFFIX = ".build.json"
MESSAGES, TEXT = ("messages", "conversations"), "text"
TOOLS = ("tools", "functions")
"""The second is the older form's."""
EFFORT, SYSTEM, ID = "reasoning_effort", "system", "id"
SHOWN_FROM_BYTES = 1 << 25
"""Data of less are read in seconds."""
DUPLICATE, NOT_SAMPLED = "the same text as an earlier row", "not among --max-rows"
NO_ASSISTANT = "no assistant message"
_NOT_MALFORMED = (DUPLICATE, NOT_SAMPLED, NO_ASSISTANT)

Render = Callable[[Chat], str]
"""Raises LeftOut for a chat that it cannot render."""


class LeftOutRows(Record):
    """Rows of one reason; `file`, `row` (counted from 0) and `said` are of the first."""

    reason: str
    rows: int
    file: str
    row: int
    place: str
    said: str


class BuildReport(Record):
    """What became of the rows that were read. `malformed` of them are no conversations; a row that only repeats one,
    was not drawn, or has no assistant message, is not among these. `not_read`: what rows hold that no text shows."""

    pack: str
    file: str
    rows: int
    read: int
    malformed: int
    left_out: tuple[LeftOutRows, ...] = ()
    not_read: dict[str, int] = Field(default_factory=dict)
    up_to_date: bool = False

    @property
    def is_suspect(self) -> bool:
        return self.malformed > MAX_MALFORMED * self.read


class _Built(Record):
    """NAME.build.json, beside what eaftgate.outputs reads of it."""

    report: BuildReport


@dataclass(frozen=True)
class BuildOptions:
    """`column` holds the conversations, where it is not one of MESSAGES or TEXT. `max_rows` are drawn by `seed`, as
    Pack.shuffled orders rows, and stay in the order of the data."""

    out: Path
    name: str | None = None
    column: str | None = None
    domain_column: str | None = None
    source_column: str | None = None
    split: str | None = None
    max_rows: int | None = None
    seed: int = 3407


def build_packs(
    inputs: Sequence[Path], options: BuildOptions, render: Render, settings: dict[str, Any]
) -> list[BuildReport]:
    """One pack of all `inputs` where a name is given, else one of each, with its name. `settings` is what `render` was
    made from, as JSON.

    Raises UserError for what cannot be read, when nothing is left of a pack, and for what is in the way.
    """
    _check_out(options.out, inputs)
    named = {options.name: list(inputs)} if options.name is not None else _by_name(inputs)
    for name in named:
        _check_name(name)
    files = {
        name: [f for path in paths for f in data_files(path, split=options.split)] for name, paths in named.items()
    }
    was_there = options.out.exists()
    options.out.mkdir(exist_ok=True)
    try:
        return [_build(str(name), found, options, render, settings) for name, found in files.items()]
    finally:
        if not was_there:
            with suppress(OSError):  # something was put into it
                options.out.rmdir()


def _check_out(out: Path, inputs: Sequence[Path]) -> None:
    check_outside_checkpoints(out, itself=True)
    check_parent(out)
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"{out} already exists and is no directory: choose another --out or remove it")
    if finished := [place for place in (out, *out.resolve().parents) if (place / MADE_FROM_FILE).exists()]:
        raise UserError(
            f"{finished[0]} is what another command made, and nothing is added to that: choose another --out"
        )
    check_apart(out, [path for path in inputs if path.is_dir()])


def _by_name(inputs: Sequence[Path]) -> dict[str | None, list[Path]]:
    names = [stem_of(Path.cwd() / path) if path.is_file() else (Path.cwd() / path).name for path in inputs]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(
            f"two inputs make a pack {twice[0]!r}: give --name to make one pack of them, or build them apart"
        )
    return {name: [path] for name, path in zip(names, inputs, strict=True)}


def _check_name(name: str | None) -> None:
    usable = name and name.isprintable() and "/" not in name and not name.startswith(".")
    if not usable or len(str(name).encode()) > MAX_STEM_BYTES:
        raise UserError(f"--name is {str(name)[:200]!r}: it becomes a file's name, of at most {MAX_STEM_BYTES} bytes")
    if name == UNION:
        raise UserError(f"--name is {UNION}, the name of the pack that all others make: choose another --name")


def _build(
    name: str, files: Sequence[Path], options: BuildOptions, render: Render, settings: dict[str, Any]
) -> BuildReport:
    pack, record = options.out / f"{name}.parquet", options.out / f"{name}{RECORD_SUFFIX}"
    check_file(pack, files)
    check_file(record)
    made_from = {
        "command": "packs build",
        "files": [{"name": file.name, "sha256": sha256_file(file)} for file in files],
        "columns": [options.column, options.domain_column, options.source_column],
        "max_rows": options.max_rows,
        "seed": None if options.max_rows is None else options.seed,
        **settings,
    }
    with claimed(pack):
        if file_up_to_date(pack, record, made_from):
            built = read_model(record, _Built, what="what a pack was made from", remedy=f"remove {pack}")
            return built.report.model_copy(update={"up_to_date": True})
        rows = _Rows(name, pack)
        size = sum(file.stat().st_size for file in files)
        with progress_bar(f"build {name}", None, unit="B", out=pack, resumes=False) as bar:
            done = 0

            def advance(read: int) -> None:
                nonlocal done
                done += read
                if size > SHOWN_FROM_BYTES:
                    bar.show(min(done, size), size)

            for row in read_rows(files, _columns(options), advance):
                rows.take(row, options, render)
        rows.sample(options.max_rows, options.seed)
        report = rows.report()
        with atomic_path(pack) as temporary:
            pq.write_table(rows.table(), temporary, compression="zstd")
            write_made_from(record, made_from, temporary, pack.name, report=json_of(report))
    return report


def _columns(options: BuildOptions) -> list[str]:
    told = (options.column, options.domain_column, options.source_column)
    return list(
        dict.fromkeys([*MESSAGES, TEXT, *TOOLS, EFFORT, SYSTEM, ID, "domain", *(name for name in told if name)])
    )


class _Rows:
    """The rows of a pack as they come, and what was left out of it."""

    def __init__(self, name: str, pack: Path) -> None:
        self.name, self.pack, self.read = name, pack, 0
        self.kept: list[tuple[str, str, str, str]] = []
        self.places: list[Row] = []
        self.seen: set[str] = set()
        self.first: dict[str, LeftOutRows] = {}
        self.count: Counter[str] = Counter()
        self.not_read: Counter[str] = Counter()

    def take(self, row: Row, options: BuildOptions, render: Render) -> None:
        self.read += 1
        try:
            text, not_read = _text_of(row, options, render)
        except LeftOut as left_out:
            self.leave_out(row, left_out.reason, str(left_out))
            return
        identity = row_identity(text)
        if identity in self.seen:
            self.leave_out(row, DUPLICATE)
            return
        self.seen.add(identity)
        self.not_read.update(not_read)
        values = row.values or {}
        named = values.get(ID)
        self.kept.append(
            (
                str(named) if isinstance(named, str | int) else f"{row.file.name}:{row.number}",
                text,
                _label(values, options.source_column, row.file.name),
                _label(values, options.domain_column or "domain", ""),
            )
        )
        self.places.append(replace(row, values=None))

    def leave_out(self, row: Row, reason: str, said: str = "") -> None:
        self.count[reason] += 1
        if reason not in self.first:
            self.first[reason] = LeftOutRows(
                reason=reason, rows=0, file=str(row.file), row=row.number, place=row.place, said=(said or reason)[:500]
            )

    def sample(self, max_rows: int | None, seed: int) -> None:
        if max_rows is None or len(self.kept) <= max_rows:
            return
        keys = [shuffle_key(seed, row_identity(text)) for _, text, _, _ in self.kept]
        drawn = set(sorted(range(len(keys)), key=keys.__getitem__)[:max_rows])
        for number, row in enumerate(self.places):
            if number not in drawn:
                self.leave_out(row, NOT_SAMPLED)
        self.kept = [values for number, values in enumerate(self.kept) if number in drawn]

    def report(self) -> BuildReport:
        left_out = tuple(
            self.first[reason].model_copy(update={"rows": rows}) for reason, rows in self.count.most_common()
        )
        if not self.kept:
            said = f"the first, {left_out[0].place}: {left_out[0].said}" if left_out else "there are none"
            raise UserError(f"no row is left of {self.read} for the pack {self.name} ({said}): correct the data")
        malformed = sum(rows for reason, rows in self.count.items() if reason not in _NOT_MALFORMED)
        return BuildReport(
            pack=self.name, file=str(self.pack), rows=len(self.kept), read=self.read, malformed=malformed,
            left_out=left_out, not_read=dict(self.not_read.most_common()),
        )  # fmt: skip

    def table(self) -> pa.Table:
        columns = zip(*self.kept, strict=True)
        names = (ID, TEXT, "source", "domain")
        return pa.table(
            {name: pa.array(column, pa.large_string()) for name, column in zip(names, columns, strict=True)}
        )


def _label(values: dict[str, Any], column: str | None, otherwise: str) -> str:
    value = values.get(column) if column else None
    return otherwise if value is None else str(value)


def _text_of(row: Row, options: BuildOptions, render: Render) -> tuple[str, Sequence[str]]:
    """The row's text, and what it holds that the text does not. Raises LeftOut."""
    if row.values is None:
        raise LeftOut("not readable", row.problem)
    for column in (options.domain_column, options.source_column):
        if column and column not in row.values:
            raise LeftOut(f"no column {column!r}")
    value, not_read = _conversation(row.values, options.column), ()
    if value is None:
        raise LeftOut("no conversation", f"columns: {', '.join(map(str, row.values))[:200] or 'none'}")
    if isinstance(value, str) and not value.lstrip().startswith("["):
        text = value
        if START not in text:
            raise LeftOut("text that is no Harmony conversation", f"it has no {START}")
    else:
        chat = chat_of(value, _tools_of(row.values), row.values.get(EFFORT), row.values.get(SYSTEM))
        try:
            text, not_read = render(chat), chat.not_read  # type: ignore[assignment]
        except RecursionError:
            raise LeftOut("nested too deeply") from None
    try:
        if not assistant_messages(text):
            raise LeftOut(NO_ASSISTANT)
        text.encode()
    except MalformedRow as error:
        raise LeftOut("text that is no Harmony conversation", str(error)) from None
    except UnicodeEncodeError:
        raise LeftOut("text that is no Unicode") from None
    return text, not_read


def _tools_of(values: dict[str, Any]) -> Any:
    found = [values[name] for name in TOOLS if values.get(name)]
    if len(found) > 1 and found[0] != found[1]:
        raise LeftOut("tools in two columns", " and ".join(TOOLS))
    return found[0] if found else None


def _conversation(values: dict[str, Any], column: str | None) -> Any:
    names: Iterator[str] = iter((column,) if column else (*MESSAGES, TEXT))
    return next((values[name] for name in names if values.get(name) is not None), None)
