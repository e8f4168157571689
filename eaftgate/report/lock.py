"""The lockfile: one file that pins what was pruned, from what, judged on what, and the verdict; and its check.

It is made from the run's collections, which are judged again, and from parity.json where that says no more than they
do. What they cannot show (`outcomes`) is the run's own word.
"""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from eaftgate import __version__
from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.checkpoint.digest import ModelIdentity, checkpoint_digest, tokenizer_digest
from eaftgate.collect.collection import seal_of
from eaftgate.errors import UserError
from eaftgate.files import json_text, sha256_file
from eaftgate.gate.again import differences, judged_again
from eaftgate.gate.conclusion import verdict_of
from eaftgate.gate.identity import library_versions
from eaftgate.gate.options import OTHER, CandidateKind
from eaftgate.gate.results import (
    COLLECTIONS_DIR,
    GENERATIONS_DIR,
    PARITY_FILE,
    Asked,
    FailedCase,
    Luck,
    Parity,
    ParityCell,
    Repeated,
    RunVerdict,
    Severity,
    is_as_written,
    read_parity,
)
from eaftgate.gate.stability import Stability
from eaftgate.gate.tasks import EVALUATIONS_DIR
from eaftgate.generate.generations import WHAT as GENERATIONS
from eaftgate.judge.verdict import MetricVerdict, Verdict
from eaftgate.outputs import check_file, put_file
from eaftgate.records import Record, is_as_sealed, json_of, read_model
from eaftgate.records import seal_of as seal_of_file
from eaftgate.rewrite.manifest import MANIFEST_FILE, Manifest, own_manifest, read_manifest, verify_files
from eaftgate.tasks.evaluated import WHAT as EVALUATED

Pinned = TypeVar("Pinned", bound=Record)


class LockedModel(ModelIdentity):
    """`tokenizer` is the digest of tokenizer.json."""

    tokenizer: str


class LockedCheckpoint(LockedModel):
    """`manifest` is the sha256 of manifest.json, None where there is none."""

    manifest: str | None
    num_experts: int


class LockedCell(Record):
    pack: str
    seq_len: int
    num_blocks: int
    seed: int | None
    tokens: int
    severity: Severity
    verdict: Verdict
    metrics: dict[str, MetricVerdict]
    flags: tuple[str, ...] = ()
    blocks_digest: str


class LockedTurns(Record):
    """What was judged of turns that were written; `asked` are the digests of the turns of each pack."""

    pack: str
    turns: int
    max_tokens: int
    verdict: Verdict | None
    deciding: tuple[str, ...]
    metrics: dict[str, MetricVerdict]
    asked: tuple[str, ...]


class LockedTask(Record):
    """What was judged of a task; `asked` is the digest of what it asks, `settings` are those of model and harness."""

    task: str
    documents: int
    verdict: Verdict | None
    decides: bool
    metrics: dict[str, MetricVerdict]
    asked: str
    settings: dict[str, Any]


class Outcomes(Record):
    """What the run says of its cases, and no collection can show alone: that an engine loaded the checkpoint, that its
    tensors and those of the no-op rewrite are the base's, that all of the plan ran."""

    failed: tuple[FailedCase, ...]
    not_run: tuple[str, ...]
    complete: bool


class Lock(Record):
    """`keep` and `provenance` are the manifest's. What has a default is not in locks of earlier versions.

    `collections`, `generations` and `evaluations` are the sha256 of the run's that the verdict follows from, by file;
    `results` is where they were.
    """

    lock_schema: Literal["lock-1"] = Field(alias="schema")
    eaftgate: str
    base: LockedModel
    checkpoint: LockedCheckpoint
    keep_n: int
    keep: list[list[int]] | None
    provenance: dict[str, Any] | None
    policy: str
    regime: str
    verdict: RunVerdict
    asked: Asked | None = None
    stability: Stability | None = None
    collector: dict[str, Any]
    cells: tuple[LockedCell, ...]
    libraries: dict[str, str]
    python: str
    gates_sha256: str | None = None
    collections: dict[str, str] = Field(default_factory=dict)
    generations: dict[str, str] = Field(default_factory=dict)
    behaviour: tuple[LockedTurns, ...] = ()
    evaluations: dict[str, str] = Field(default_factory=dict)
    tasks: tuple[LockedTask, ...] = ()
    repeated: tuple[Repeated, ...] = ()
    luck: tuple[Luck, ...] = ()
    outcomes: Outcomes | None = None
    results: str | None = None
    sha256: str | None = None
    """Of everything else in the file."""

    @property
    def candidate_kind(self) -> CandidateKind:
        return "pruned" if self.asked is None else self.asked.candidate_kind


def make_lock(results: Path, checkpoint: str | None, gates: Path | None = None) -> Lock:
    """The lock of one checkpoint of a gate run, judged again by the gates file of the run.

    Raises UserError when it is not clear which checkpoint, none was judged, or the run's parity.json does not say what
    its collections do.
    """
    parity = read_parity(results)
    if parity.is_unverified:
        raise UserError(
            f"{results} is unverified, its models were servers whose weights nobody has seen: gate the checkpoint "
            "itself, and lock that"
        )
    judged = {cell.checkpoint for cell in parity.cells}
    if not judged:
        raise UserError(f"{results} has judged no checkpoint: run the gate to its end")
    if checkpoint is None and len(judged) == 1:
        checkpoint = next(iter(judged))
    if checkpoint is None or checkpoint not in judged:
        raise UserError(f"{results} has judged {', '.join(sorted(judged))}: say which with --checkpoint")
    if not is_as_written(results):
        raise UserError(f"parity.json of {results} has changed since the run wrote it: run the gate again")
    parity = _confirmed(results, parity, gates)
    cells = [cell for cell in parity.cells if cell.checkpoint == checkpoint]
    other = parity.asked.candidate_kind == OTHER
    found = open_checkpoint(checkpoint, foreign=other)
    digest = checkpoint_digest(found)
    if any(cell.inputs.checkpoint_digest != digest for cell in cells):
        raise UserError(f"{checkpoint} has changed since {results} judged it: run the gate again")
    has_manifest = (found.path / MANIFEST_FILE).is_file()
    manifest = own_manifest(found.path) if other else read_manifest(found.path) if has_manifest else None
    base = cells[0].inputs.base
    return Lock(
        schema="lock-1",
        eaftgate=__version__,
        base=LockedModel(name=base.name, digest=base.digest, tokenizer=tokenizer_digest(open_checkpoint(base.name))),
        checkpoint=LockedCheckpoint(
            name=checkpoint,
            digest=digest,
            tokenizer=tokenizer_digest(found),
            manifest=None if manifest is None else sha256_file(found.path / MANIFEST_FILE),
            num_experts=found.num_experts,
        ),
        keep_n=found.num_experts,
        keep=None if manifest is None else manifest.keep,
        provenance=None if manifest is None else manifest.provenance,
        libraries=library_versions(),
        python=platform.python_version(),
        **_pinned_run(results, parity, cells),
        outcomes=Outcomes(failed=parity.failed, not_run=parity.not_run, complete=parity.complete),
        results=str(results.absolute()),
    )


def _confirmed(results: Path, told: Parity, gates: Path | None) -> Parity:
    """The run's parity.json, where it says what judging its collections again gives."""
    again = judged_again(results, told, gates)
    if found := differences(told.model_dump(mode="json"), again.model_dump(mode="json")):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(
            f"parity.json of {results} is not what its collections give: {found[0]}{more}; run the gate again"
        )
    return told


def _pinned_run(results: Path, parity: Parity, cells: Sequence[ParityCell]) -> dict[str, Any]:
    """What is pinned of a run: what was judged of the candidate whose cells these are, and what that follows from."""
    name = cells[0].name
    inputs = [entry.inputs for entry in (*parity.cells, *parity.further)] + [entry.inputs for entry in parity.repeated]
    collected = {file for one in inputs for file in (*one.collections.values(), *one.looks)}
    turns = [of.inputs for of in parity.behaviour]
    written = {file for one in turns for files in one.generations.values() for file in files}
    evaluated = {file for task in parity.tasks for file in task.inputs.evaluations.values()}
    return {
        "policy": parity.policy,
        "regime": parity.regime,
        "verdict": verdict_of(parity, name),
        "asked": parity.asked,
        "stability": parity.stability,
        "collector": cells[0].inputs.collector,
        "cells": tuple(_pinned(LockedCell, cell, blocks_digest=cell.inputs.blocks_digest) for cell in cells),
        "behaviour": tuple(
            _pinned(LockedTurns, turns, asked=turns.inputs.turns) for turns in parity.behaviour if turns.name == name
        ),
        "tasks": tuple(
            _pinned(LockedTask, task, asked=task.inputs.asked, settings=task.inputs.settings)
            for task in parity.tasks
            if task.name == name
        ),
        "gates_sha256": parity.gates_sha256,
        "generations": {
            file: seal_of_file(results / GENERATIONS_DIR / Path(file).name, what=GENERATIONS)
            for file in sorted(written)
        },
        "evaluations": {
            file: seal_of_file(results / EVALUATIONS_DIR / Path(file).name, what=EVALUATED)
            for file in sorted(evaluated)
        },
        "collections": {file: seal_of(results / COLLECTIONS_DIR / Path(file).name) for file in sorted(collected)},
        "repeated": parity.repeated,
        "luck": parity.luck,
    }


def _pinned(kind: type[Pinned], judged: Record, **of_inputs: Any) -> Pinned:
    """What was judged, by the names that its fields have in parity.json; `of_inputs` lie within its inputs there."""
    return kind(**of_inputs, **{name: getattr(judged, name) for name in kind.model_fields.keys() - of_inputs.keys()})


def write_lock(results: Path, checkpoint: str | None, out: Path, gates: Path | None = None) -> tuple[Lock, bool]:
    """The lock, and whether it was there already. Raises UserError, too, when `out` is something else."""
    check_file(out, [results / PARITY_FILE])
    lock = make_lock(results, checkpoint, gates)
    return lock, put_file(out, json_text(json_of(lock, sealed=True)))


def read_lock(path: Path) -> Lock:
    return read_model(path, Lock, what="lockfile", remedy="make it again with eaftgate lock")


def verify_lock(
    path: Path,
    *,
    base: str | None = None,
    checkpoint: str | None = None,
    results: Path | None = None,
    gates: Path | None = None,
    files_only: bool = False,
) -> list[str]:
    """What no longer holds, one sentence each; empty when the files are those that were judged, and judging their
    collections again gives what is locked, which is a pass.

    `base`, `checkpoint` and `results` say where these are now, if not where they were. `files_only`: nothing is judged
    again.
    """
    lock = read_lock(path)
    problems = [] if lock.verdict == "pass" else [f"the locked verdict is {lock.verdict}"]
    if not is_as_sealed(path):
        problems.append("the lock has changed since it was made: its sha256 is not that of what it says")
    for role, pinned, given in (("base", lock.base, base), ("checkpoint", lock.checkpoint, checkpoint)):
        other = isinstance(pinned, LockedCheckpoint) and lock.candidate_kind == OTHER
        found = open_checkpoint(given or pinned.name, foreign=other)
        if checkpoint_digest(found) != pinned.digest:
            problems.append(f"the {role} {found.name} is not the one that was locked: its digest differs")
        if tokenizer_digest(found) != pinned.tokenizer:
            problems.append(f"the {role} {found.name} has another tokenizer.json than the one that was locked")
        if isinstance(pinned, LockedCheckpoint):
            problems += _checkpoint_problems(lock, found)
    return problems if files_only else [*problems, *_verdict_problems(lock, results, gates)]


def _checkpoint_problems(lock: Lock, found: Checkpoint) -> list[str]:
    pinned, path = lock.checkpoint, found.path / MANIFEST_FILE
    told = {"keep_n": lock.keep_n, "checkpoint.num_experts": pinned.num_experts}
    problems = [
        f"the lock's {key} is {n}, and {found.name} has {found.num_experts}"
        for key, n in told.items()
        if n != found.num_experts
    ]
    if pinned.manifest is None:
        made_up = [key for key in ("keep", "provenance") if getattr(lock, key) is not None]
        return problems + [f"the lock's {key} is of no manifest" for key in made_up]
    if not path.is_file() or sha256_file(path) != pinned.manifest:
        return [*problems, f"{found.name} does not have the manifest.json that was locked"]
    manifest: Manifest = read_manifest(found.path)
    pairs = {"keep": (lock.keep, manifest.keep), "provenance": (lock.provenance, manifest.provenance)}
    problems += [
        f"the lock's {key} is not that of manifest.json" for key, (one, other) in pairs.items() if one != other
    ]
    return problems + verify_files(found.path, manifest.files, hash_contents=True)


def _verdict_problems(lock: Lock, results: Path | None, gates: Path | None) -> list[str]:
    """What of the lock is not what judging the collections again gives."""
    if lock.outcomes is None:
        return [
            "the lock is of an earlier version, which does not say what its verdicts were made from: they were not "
            "judged again (make it again, or give --files-only)"
        ]
    where = results or Path(lock.results or "")
    if results is None and not (lock.results and where.is_dir()):
        return [
            f"the verdicts were not judged again: the collections are not in {where} (--results says where, "
            "--files-only does without)"
        ]
    try:
        parity = read_parity(where)
        again = judged_again(where, parity, gates)
        cells = [cell for cell in again.cells if cell.inputs.checkpoint_digest == lock.checkpoint.digest]
        if not cells:
            return [f"{where} has not judged the checkpoint that was locked"]
        found = {
            **_pinned_run(where, again, cells),
            "outcomes": Outcomes(failed=parity.failed, not_run=parity.not_run, complete=parity.complete),
        }
    except UserError as error:
        return [f"the verdicts cannot be judged again: {error}"]
    told, now = lock.model_dump(mode="json"), lock.model_copy(update=found).model_dump(mode="json")
    return [f"the lock's {difference}" for difference in differences(told, now)]


def versions_line(lock: Lock) -> str:
    """Which versions it was made with, and which of them are others now: shown, not compared."""
    now: Mapping[str, str] = {"eaftgate": __version__, "python": platform.python_version(), **library_versions()}
    then = {"eaftgate": lock.eaftgate, "python": lock.python, **lock.libraries}
    said = [
        f"{name} {version}" + (f" (now {now[name]})" if now.get(name, version) != version else "")
        for name, version in then.items()
    ]
    return f"made with {', '.join(said)}"
