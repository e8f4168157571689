"""What a gate run leaves behind for scripts and for other commands: RUN_DIR/cells/*.json and RUN_DIR/parity.json.

parity.json is SPEC section 8's: keys are added to it, none is taken away.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from eaftgate.checkpoint.digest import ModelIdentity
from eaftgate.collect.collection import Collection, load_collection
from eaftgate.errors import UserError
from eaftgate.files import write_text
from eaftgate.gate.candidates import UNVERIFIED, Candidate, ServedIdentity
from eaftgate.gate.cells import Cell
from eaftgate.gate.identity import RunIdentity
from eaftgate.gate.messages import LostMessage, MessageCounts
from eaftgate.gate.options import SERVED, CandidateKind
from eaftgate.gate.stability import Stability
from eaftgate.gate.tasks import ParityTask, TaskRecord
from eaftgate.gate.turns import TurnApart
from eaftgate.generate.generations import Generations, load_generations
from eaftgate.judge.behaviour import JudgedTurns
from eaftgate.judge.cell import JudgedCell
from eaftgate.judge.metrics import has_intervals
from eaftgate.judge.verdict import MetricVerdict, Verdict
from eaftgate.locks import holder
from eaftgate.parity.metrics import CellMetrics, Thresholds
from eaftgate.records import Record, is_as_sealed, read_model, write_model
from eaftgate.strict_json import read_object

PARITY_FILE = "parity.json"
SUMMARY_FILE = "parity.md"
"""The same for people, short."""
GATES_FILE = "judged_by.json"
"""What the run was judged by."""
PAGE_FILE = "report.html"
"""What people read of the run."""
CELLS_DIR = "cells"
COLLECTIONS_DIR = "collections"
GENERATIONS_DIR = "generations"
LOCK_FILE = "run.lock"
"""Held while a run goes on."""

RunVerdict = Literal["pass", "fail", "inconclusive", "incomplete"]
Severity = Literal["primary", "advisory"]


class CellInputs(Record):
    """What a cell was measured on, by content. `collections` names files of RUN_DIR/collections by role: `base` and,
    where it is whole, `checkpoint`; `looks` those of a candidate that was scored look by look."""

    base: ModelIdentity
    checkpoint_digest: str
    blocks_digest: str
    collector: dict[str, Any]
    collections: dict[str, str]
    looks: tuple[str, ...] = ()

    def saved(self, results: Path, role: str) -> Collection:
        """The collection of a role. Raises UserError when the file is gone, damaged or of something else."""
        if role not in self.collections:
            raise UserError(f"{results} does not say what its cells were made from: run the gate again")
        digest = self.base.digest if role == "base" else self.checkpoint_digest
        of: dict[str, Any] = {"checkpoint": digest, "blocks": self.blocks_digest, "replicate": ""}
        of |= {"settings": self.collector} if role == "base" else {}
        return saved_collection(results, self.collections[role], of)


def saved_collection(results: Path, name: str, of: Mapping[str, Any]) -> Collection:
    """The collection that a file of RUN_DIR/collections holds. Raises UserError when it is gone, damaged or does not
    say of itself what `of` does."""
    path = results / COLLECTIONS_DIR / Path(name).name
    if not path.is_file():
        raise UserError(f"{path} is gone: run the gate again")
    return load_collection(path, of)


@dataclass(frozen=True, kw_only=True)
class CellRecord(JudgedCell):
    """A file of RUN_DIR/cells; `session` is the run that judged it. `lost`: the first messages, of a primary cell."""

    session: str
    inputs: CellInputs
    messages: tuple[MessageCounts, ...] = ()
    lost: tuple[LostMessage, ...] = ()


class TurnsInputs(Record):
    """What turns were judged on, by content. `generations` names files of RUN_DIR/generations by role, `base` and
    `checkpoint`, and in the order of the packs; `turns` are the digests of what was asked of each, `writer` the base's
    settings."""

    base: ModelIdentity
    checkpoint_digest: str
    packs: tuple[str, ...]
    turns: tuple[str, ...]
    writer: dict[str, Any]
    max_tokens: int
    generations: dict[str, tuple[str, ...]]

    def saved(self, results: Path, role: str) -> list[Generations]:
        """Those of a role. Raises UserError when a file is gone, damaged or of something else."""
        digest = self.base.digest if role == "base" else self.checkpoint_digest
        names = self.generations.get(role, ())
        if len(names) != len(self.packs) or len(self.turns) != len(self.packs):
            raise UserError(f"{results} does not say what its turns were judged on: run the gate again")
        of: dict[str, Any] = {"checkpoint": digest, "max_tokens": self.max_tokens, "replicate": ""}
        of |= {"settings": self.writer} if role == "base" else {}
        found = []
        for pack, turns, name in zip(self.packs, self.turns, names, strict=True):
            path = results / GENERATIONS_DIR / Path(name).name
            if not path.is_file():
                raise UserError(f"{path} is gone: run the gate again")
            found.append(load_generations(path, {**of, "pack": pack, "turns": turns}))
        return found


@dataclass(frozen=True, kw_only=True)
class TurnsRecord(JudgedTurns):
    """A file of RUN_DIR/cells/turns; `session` is the run that judged it. `apart`: the first turns that the two write
    otherwise, of all packs together."""

    session: str
    inputs: TurnsInputs
    apart: tuple[TurnApart, ...] = ()


class ParityTurns(Record):
    """How a checkpoint behaves over the turns of a pack, or in UNION over all packs'. `metrics` are by name, their
    `blocks_needed` turns; `deciding` those that are a part of the run's verdict here; `verdict` is the worst of them,
    None where none decides."""

    checkpoint: str
    name: str
    pack: str
    turns: int
    max_tokens: int
    verdict: Verdict | None
    deciding: tuple[str, ...]
    metrics: dict[str, MetricVerdict]
    details: dict[str, dict[str, int | float]]
    inputs: TurnsInputs

    @property
    def label(self) -> str:
        return f"{self.name} {self.pack} turns"

    def decides(self, metric: str) -> bool:
        return metric in self.deciding


def floor_file(cell: Cell) -> str:
    """In RUN_DIR/cells, of the base against itself."""
    return f"floor/{cell.record_file}"


SessionRecord = TypeVar("SessionRecord", CellRecord, TurnsRecord, TaskRecord)


def write_record(results: Path, file: str, record: CellRecord | TurnsRecord | TaskRecord) -> None:
    write_model(results / CELLS_DIR / file, record)


def read_record(results: Path, file: str, kind: type[SessionRecord], *, session: str) -> SessionRecord | None:
    """None when this session has not judged that cell. Raises UserError for a damaged file."""
    path = results / CELLS_DIR / file
    if not path.is_file() or read_object(path, what="cell result").get("session") != session:
        return None  # an earlier session's may be of an earlier version
    return read_model(path, kind, what="cell result", remedy="run the gate again")


class ParityCell(Record):
    """A judged cell. Shares and probabilities are not in percent; `metrics` are by name, in the order of the table.

    `name` is the checkpoint's in test ids, `checkpoint` what was given.
    """

    checkpoint: str
    name: str
    pack: str
    seq_len: int
    num_blocks: int
    budget_blocks: int
    seed: int | None
    tokens: int
    ppl_base: float
    ppl: float
    delta_ppl: float
    cc_base: float
    cc: float
    delta_cc: float
    mean_p_base: float
    mean_p: float
    delta_mean_p: float
    js2d: float
    js2d_correction: dict[str, int | float]
    details: Mapping[str, Mapping[str, int | float]] = Field(default_factory=dict)
    """By metric, how its value came about."""
    cc_events_base: int
    p_thr: float
    h_thr: float
    severity: Severity
    verdict: Verdict
    v1_verdict: Verdict | None
    v2_verdict: Verdict | None = None
    """None too where a run stopped early by another policy: v2's own looks would have stopped elsewhere."""
    flags: tuple[str, ...]
    metrics: dict[str, MetricVerdict]
    inputs: CellInputs
    calibrated_rows: int = 0
    messages: tuple[MessageCounts, ...] = ()
    """What was scored whole; none in files of earlier versions."""
    deciding: tuple[str, ...] | None = None
    """Metrics that are a part of the run's verdict here, also in an advisory cell where the policy has rules for every
    pack; None in files of earlier versions."""

    def decides(self, metric: str) -> bool:
        """Whether a metric is a part of the run's verdict."""
        if self.deciding is None:
            return self.severity == "primary" and self.metrics[metric].decides
        return metric in self.deciding

    @property
    def decides_something(self) -> bool:
        return self.severity == "primary" or any(map(self.decides, self.metrics))

    @property
    def label(self) -> str:
        return f"{self.name} {self.pack} {self.seq_len}"

    @property
    def has_intervals(self) -> bool:
        return has_intervals(self.metrics)

    @property
    def figures(self) -> CellMetrics:
        return CellMetrics(
            tokens=self.tokens,
            thresholds=Thresholds(self.p_thr, self.h_thr),
            ppl_base=self.ppl_base,
            ppl=self.ppl,
            mean_p_base=self.mean_p_base,
            mean_p=self.mean_p,
            cc_base=self.cc_base,
            cc=self.cc,
            js2d=self.js2d,
        )


class FailedCase(Record):
    """`verdict` is what the case says of itself, if it judged anything; `blocks_needed`, of a case that says
    that nothing has decided, how many blocks would (None in files of earlier versions)."""

    case: str
    reason: str
    verdict: Verdict | None
    blocks_needed: int | None = None


class Repeated(Record):
    """The base against itself on a cell: measured again (`rerun`, `batch`), off by one ulp (`ulp`), or as the no-op
    rewrite (`noop`)."""

    tier: Literal["rerun", "batch", "ulp", "noop"]
    pack: str
    seq_len: int
    num_blocks: int
    seed: int | None
    inputs: CellInputs
    metrics: dict[str, MetricVerdict]


class Luck(Record):
    """How often, on documents drawn from those of a primary cell, at least one of its candidates `passes` ppl although
    every one of them lies exactly on the margin, and how often one of them `alone` does, on average."""

    pack: str
    seq_len: int
    candidates: int
    documents: int
    draws: int
    passes: float
    alone: float


class Asked(Record):
    """Options that change what a pass means. `best_of`: how many candidates the best was to be chosen from."""

    seeds: tuple[int, ...]
    strict_cells: bool
    sequential: bool
    allow_overlap: bool
    best_of: int = 1
    """1 in files of earlier versions."""
    candidate_kind: CandidateKind = "pruned"
    scores_copies: bool = True
    """Whether the collector could score copies of the base."""
    generate: int = 0
    """Turns of every pack; 0 in files of earlier versions."""
    generate_tokens: int | None = None
    tasks: tuple[str, ...] = ()
    """Of lm-evaluation-harness; none in files of earlier versions."""


class Parity(Record):
    """parity.json. `not_run` are the deciding cases that were planned and did not run; `complete` says whether the
    session ended by itself."""

    schema_version: Literal[3]
    eaftgate: str
    policy: str
    regime: str
    verdict: RunVerdict
    v1_verdict: RunVerdict
    v2_verdict: RunVerdict | None = None
    """Of the same run under near-lossless-v2; None where it was not judged by it."""
    cells: tuple[ParityCell, ...]
    lost_messages: Mapping[str, tuple[LostMessage, ...]] = Field(default_factory=dict)
    """By the checkpoint's name: the first calls and final answers of its primary cells that the base writes exactly as
    they stand, and it does not, each once."""
    stability: Stability | None = None
    """None in files of earlier versions."""
    failed: tuple[FailedCase, ...]
    not_run: tuple[str, ...]
    complete: bool
    asked: Asked
    candidates: tuple[Candidate, ...] = ()
    """None in files of earlier versions, whose candidates were of kind pruned."""
    served: tuple[ServedIdentity, ...] = ()
    """Of a run whose models nobody had but servers, the base's first; none in files of earlier versions."""
    luck: tuple[Luck, ...] = ()
    """Of a run with several candidates that were judged in full, by primary cell."""
    further: tuple[ParityCell, ...] = ()
    """The primary cells in the row order of further seeds."""
    repeated: tuple[Repeated, ...] = ()
    """None in files of earlier versions."""
    behaviour: tuple[ParityTurns, ...] = ()
    """Where turns were written; UNION, all packs together, before each pack."""
    turns_apart: Mapping[str, tuple[TurnApart, ...]] = Field(default_factory=dict)
    """By the checkpoint's name: the first turns that it and the base write otherwise, those before all in which it does
    worse."""
    tasks: tuple[ParityTask, ...] = ()
    """Where tasks of lm-evaluation-harness were asked for."""
    run: RunIdentity | None = None
    """None in files of earlier versions."""
    gates_sha256: str | None = None
    """Of the gates file; None in files of earlier versions."""
    sha256: str | None = None
    """Of everything else in the file, see `is_as_written`; None in files of earlier versions."""

    @property
    def has_intervals(self) -> bool:
        return all(cell.has_intervals for cell in self.cells)

    @property
    def is_unverified(self) -> bool:
        """Whether nobody has seen the weights that were judged."""
        return self.asked.candidate_kind == SERVED

    @property
    def verdict_shown(self) -> str:
        """Not more than it says."""
        return f"{self.verdict.upper()}, {UNVERIFIED}" if self.is_unverified else self.verdict.upper()


def read_parity(results: Path) -> Parity:
    """Raises UserError when there is none, or it is of another schema version or damaged, and while a run goes on."""
    if (who := holder(results / LOCK_FILE)) is not None:
        raise UserError(f"a run is going on in {results} ({who}): wait for it to end")
    return read_model(results / PARITY_FILE, Parity, what="gate result", remedy="run the gate again")


def is_as_written(results: Path) -> bool:
    """Whether nobody has changed parity.json since."""
    return is_as_sealed(results / PARITY_FILE)


def copy_gates(results: Path, gates: Path) -> None:
    """Keep what the run was judged by, so that it can be judged again when that has moved on."""
    write_text(results / GATES_FILE, gates.read_text(encoding="utf-8"))


def write_parity(results: Path, parity: Parity) -> None:
    write_model(results / PARITY_FILE, parity, sealed=True)
