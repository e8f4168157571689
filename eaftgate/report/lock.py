"""The lockfile: one file that pins what was pruned, from what, judged on what, and the verdict; and its check."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from eaftgate import __version__
from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.checkpoint.digest import ModelIdentity, checkpoint_digest, tokenizer_digest
from eaftgate.errors import UserError
from eaftgate.files import json_text, sha256_file
from eaftgate.gate.conclusion import verdict_of
from eaftgate.gate.options import OTHER
from eaftgate.gate.plan import CandidateKind
from eaftgate.gate.results import PARITY_FILE, Asked, ParityCell, RunVerdict, Severity, read_parity
from eaftgate.gate.stability import Stability
from eaftgate.judge.verdict import MetricVerdict, Verdict
from eaftgate.outputs import check_file, put_file
from eaftgate.records import Record, json_of, read_model
from eaftgate.rewrite.manifest import MANIFEST_FILE, own_manifest, read_manifest, verify_files

PINNED_LIBRARIES = ("numpy", "safetensors", "scipy", "tokenizers", "torch", "transformers")


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


class Lock(Record):
    """`keep` and `provenance` are the manifest's. `asked` and `stability` are not in locks of earlier versions."""

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

    @property
    def candidate_kind(self) -> CandidateKind:
        return "pruned" if self.asked is None else self.asked.candidate_kind


def make_lock(results: Path, checkpoint: str | None) -> Lock:
    """The lock of one checkpoint of a gate run. Raises UserError when it is not clear which, or none was judged."""
    parity = read_parity(results)
    judged = {cell.checkpoint for cell in parity.cells}
    if checkpoint is None and len(judged) == 1:
        checkpoint = next(iter(judged))
    if checkpoint is None or checkpoint not in judged:
        names = ", ".join(sorted(judged)) or "none"
        raise UserError(f"{results} has judged {names}: say which with --checkpoint")
    cells = [cell for cell in parity.cells if cell.checkpoint == checkpoint]
    found = open_checkpoint(checkpoint)
    digest = checkpoint_digest(found)
    if any(cell.inputs.checkpoint_digest != digest for cell in cells):
        raise UserError(f"{checkpoint} has changed since {results} judged it: run the gate again")
    other = parity.asked.candidate_kind == OTHER
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
        policy=parity.policy,
        regime=parity.regime,
        verdict=verdict_of(parity, cells[0].name),
        asked=parity.asked,
        stability=parity.stability,
        collector=cells[0].inputs.collector,
        cells=tuple(_pinned(cell) for cell in cells),
        libraries={name: importlib.metadata.version(name) for name in PINNED_LIBRARIES},
        python=platform.python_version(),
    )


def _pinned(cell: ParityCell) -> LockedCell:
    return LockedCell(
        pack=cell.pack,
        seq_len=cell.seq_len,
        num_blocks=cell.num_blocks,
        seed=cell.seed,
        tokens=cell.tokens,
        severity=cell.severity,
        verdict=cell.verdict,
        metrics=cell.metrics,
        flags=cell.flags,
        blocks_digest=cell.inputs.blocks_digest,
    )


def write_lock(results: Path, checkpoint: str | None, out: Path) -> tuple[Lock, bool]:
    """The lock, and whether it was there already. Raises UserError, too, when `out` is something else."""
    check_file(out, [results / PARITY_FILE])
    lock = make_lock(results, checkpoint)
    return lock, put_file(out, json_text(json_of(lock)))


def read_lock(path: Path) -> Lock:
    return read_model(path, Lock, what="lockfile", remedy="make it again with eaftgate lock")


def _manifest_problems(checkpoint: Checkpoint, sha256: str) -> list[str]:
    path = checkpoint.path / MANIFEST_FILE
    if not path.is_file() or sha256_file(path) != sha256:
        return [f"{checkpoint.name} does not have the manifest.json that was locked"]
    return verify_files(checkpoint.path, read_manifest(checkpoint.path).files, hash_contents=True)


def verify_lock(path: Path, *, base: str | None, checkpoint: str | None) -> list[str]:
    """What no longer holds, one sentence each; empty when the files are those that were judged and they passed.

    `base` and `checkpoint` say where the files are now, if not where they were.
    """
    lock = read_lock(path)
    problems = [] if lock.verdict == "pass" else [f"the locked verdict is {lock.verdict}"]
    for role, pinned, given in (("base", lock.base, base), ("checkpoint", lock.checkpoint, checkpoint)):
        found = open_checkpoint(given or pinned.name)
        if checkpoint_digest(found) != pinned.digest:
            problems.append(f"the {role} {found.name} is not the one that was locked: its digest differs")
        if tokenizer_digest(found) != pinned.tokenizer:
            problems.append(f"the {role} {found.name} has another tokenizer.json than the one that was locked")
        if isinstance(pinned, LockedCheckpoint) and pinned.manifest is not None:
            problems += _manifest_problems(found, pinned.manifest)
    return problems
