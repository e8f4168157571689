"""The models of a gate run: the base, its candidates, and the copies of the base that the gate measures itself with."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.checkpoint.digest import ModelIdentity, checkpoint_digest, hashing_is_shown, tokenizer_digest
from eaftgate.checkpoint.unchanged import check_unchanged
from eaftgate.collect.collector import Collector, ScoredModel
from eaftgate.collect.watched import WatchedCollector, WatchedWriter
from eaftgate.collect.writer import Writer
from eaftgate.errors import UserError
from eaftgate.files import write_json
from eaftgate.gate.cells import BASE, NOOP, ULP
from eaftgate.gate.options import OTHER
from eaftgate.gate.plan import Plan
from eaftgate.profile.profile import open_profile
from eaftgate.prune.checkpoint import PruneRequest, prune_checkpoint
from eaftgate.rewrite.manifest import MANIFEST_FILE, BaseRecord, Manifest, own_manifest, read_manifest
from eaftgate.rewrite.perturb import make_perturbed
from eaftgate.rewrite.plan import MAX_SHARD_BYTES, smallest_limit
from eaftgate.rewrite.yardstick import Yardstick, own_yardstick
from eaftgate.select.class_weights import BALANCED_WEIGHTS
from eaftgate.strict_json import read_object

WORK_DIR = "work"
OPENED = "opened"
OTHER_WEIGHTS = "a candidate with weights of its own is gated with --candidate-kind=other"
_OURS = ".eaftgate"
"""Marks a work directory as a gate run's own, which may be taken away."""


@dataclass(frozen=True)
class Model:
    checkpoint: Checkpoint
    digest: str

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def tokenizer(self) -> Path:
        """Where it lies."""
        return self.checkpoint.path

    @property
    def vocab_size(self) -> int:
        return self.checkpoint.vocab_size

    @property
    def context(self) -> int | None:
        """Tokens that the model is made for."""
        found: int | None = self.checkpoint.config.get("max_position_embeddings")
        return found

    def scored(self, name: str) -> ScoredModel:
        """As collectors know it; `name` is the run's."""
        found = self.checkpoint
        return ScoredModel(name, found.name, found.path, self.digest, found.is_mxfp4, found.foreign)

    def watched(self, collector: Collector) -> Collector:
        return WatchedCollector(collector, self.checkpoint, self.digest)

    def watched_writer(self, writer: Writer) -> Writer:
        return WatchedWriter(writer, self.checkpoint, self.digest)


class Models:
    """Opened, or made in RUN_DIR/work, when first asked for. `fixture` is the folder of the embedded checkpoint;
    `uncaptured` opens a context in which progress can be shown."""

    def __init__(
        self, plan: Plan, fixture: Path, uncaptured: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self.plan, self._fixture, self._uncaptured = plan, fixture, uncaptured
        self._models: dict[str, Model] = {}

    @property
    def _any_storage(self) -> bool:
        """Whether a candidate may be stored in a format of which the family knows nothing."""
        return self.plan.options.candidate_kind == OTHER

    @property
    def _work(self) -> Path:
        return self.plan.options.results / WORK_DIR

    def __getitem__(self, name: str) -> Model:
        """BASE, NOOP, or a checkpoint by its short name. Raises UserError when it cannot be had or does not fit."""
        if name not in self._models:
            makers = {BASE: self._open_base, NOOP: self._make_noop, ULP: self._make_perturbed}
            model = makers.get(name, lambda: self._open_candidate(name))()
            check_same_for_all(self.plan.options.results, name, model.digest, shown=model.checkpoint.name)
            self._models[name] = model
        return self._models[name]

    def check_unchanged(self, name: str) -> None:
        """Raises UserError when a model is not what it was when it was opened. Reads all of its weights."""
        model = self[name]
        with self._hashing(model.checkpoint):
            check_unchanged(model.checkpoint, model.digest, hash_again=True)

    def _open(self, source: str | Path, *, foreign: bool = False) -> Model:
        checkpoint = open_checkpoint(source, foreign=foreign)
        with self._hashing(checkpoint):
            return Model(checkpoint, checkpoint_digest(checkpoint, cache=self.plan.options.results / "digests.json"))

    def _hashing(self, checkpoint: Checkpoint) -> AbstractContextManager[None]:
        return self._uncaptured() if hashing_is_shown(checkpoint) else nullcontext()

    def _open_base(self) -> Model:
        options = self.plan.options
        if options.embedded:
            return self._open(self._fixture / "checkpoint")
        if options.base is not None:
            return self._open(options.base)
        named = {base.digest: base.name for base in map(self._base_of, self.plan.checkpoints)}
        if len(named) != 1:
            raise UserError("the checkpoints were made from different bases: gate them one at a time, or pass --base")
        (digest, source), *_ = named.items()
        base = self._open(source)
        if base.digest != digest:
            raise UserError(
                f"{source} is no longer the base that the manifest names (its digest differs): "
                "say with --base where that is now"
            )
        return base

    def _base_of(self, name: str) -> BaseRecord | ModelIdentity:
        """The base that a checkpoint names."""
        checkpoint = open_checkpoint(self.plan.checkpoints[name], foreign=self._any_storage)
        if self.plan.options.candidate_kind == OTHER:
            record: Manifest | Yardstick | None = own_manifest(checkpoint.path) or own_yardstick(checkpoint.path)
        else:
            has_manifest = (checkpoint.path / MANIFEST_FILE).is_file()
            record = read_manifest(checkpoint.path) if has_manifest else None
        if record is None:
            raise UserError(f"{checkpoint.name} has no {MANIFEST_FILE} that names its base: pass --base")
        return record.base

    def _open_candidate(self, name: str) -> Model:
        source = self._make_fixture_candidate() if self.plan.options.embedded else self.plan.checkpoints[name]
        candidate, base = self._open(source, foreign=self._any_storage), self[BASE]
        if tokenizer_digest(candidate.checkpoint) != tokenizer_digest(base.checkpoint):
            raise UserError(
                f"{candidate.checkpoint.name} has another tokenizer.json than its base: tokens cannot be compared"
            )
        _check_vocabulary(candidate.checkpoint, base.checkpoint)
        if candidate.checkpoint.foreign is not None and not self.plan.needs.loads_foreign:
            raise UserError(
                f"{candidate.checkpoint.name} is stored as {candidate.checkpoint.foreign}, which "
                f"--collector={self.plan.options.collector} is not asked to load, because nobody would hear of a "
                "weight that it lacks: leave out --collector"
            )
        return candidate

    def _make_noop(self) -> Model:
        """Keep all experts through the same rewrite path, in RUN_DIR/work."""
        base = self[BASE]
        out = self._work / NOOP
        every = base.checkpoint.num_experts
        limit = max(MAX_SHARD_BYTES, smallest_limit(base.checkpoint, every))  # nobody publishes it
        request = PruneRequest(keep_n=every, allow_any_keep_n=True, max_shard_bytes=limit)
        with self._lock(NOOP), self._uncaptured():
            if not out.exists():
                prune_checkpoint(base.checkpoint, base.digest, None, request, out)
        return self._open(out)

    def _make_perturbed(self) -> Model:
        """The base off by one bfloat16 ulp, in RUN_DIR/work."""
        noop, out = self[NOOP].checkpoint.path, self._work / ULP
        with self._lock(ULP), self._uncaptured():
            if not out.exists():
                make_perturbed(noop, out, seed=self.plan.order_seed)
        return self._open(out)

    def _make_fixture_candidate(self) -> Path:
        """The main job on the embedded checkpoint: profile its calibration packs, prune as `make gate` does."""
        from eaftgate.model.load import default_settings
        from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint

        base = self[BASE]
        keep_n = self.plan.regime.keep_n
        profile_dir, out = self._work / "profile", self._work / f"keep{keep_n}"
        with self._lock("fixture"), self._uncaptured():
            if not out.exists():
                packs = self._fixture / "packs" / "calibration"
                request = ProfileRequest(packs, seq_len=512, batch_size=self.plan.batch_size)
                if profile_dir.exists():
                    profile = open_profile(profile_dir)
                else:
                    options = self.plan.options  # dequantised, also where the gate scores MXFP4 as it is
                    plain = default_settings(device=options.device, dtype=options.dtype, dequantize=True)
                    profile = profile_checkpoint(base.checkpoint, base.digest, request, profile_dir, plain)
                pruning = PruneRequest(keep_n=keep_n, method="eaft-reap", classes=BALANCED_WEIGHTS)
                prune_checkpoint(base.checkpoint, base.digest, profile, pruning, out)
        return out

    def _lock(self, name: str) -> FileLock:
        return _locked(self._work, name)

    def manifest(self, name: str) -> Manifest | None:
        """The manifest of a checkpoint; None for one that keeps all experts, or is of kind other, and was not made by
        eaftgate."""
        candidate, base = self[name].checkpoint, self[BASE].checkpoint
        if self.plan.options.candidate_kind == OTHER:
            return own_manifest(candidate.path)
        if (candidate.path / MANIFEST_FILE).is_file():
            return read_manifest(candidate.path)
        if candidate.num_experts == base.num_experts:
            return None
        raise UserError(
            f"{candidate.name} has {candidate.num_experts} of {base.num_experts} experts and no {MANIFEST_FILE}: "
            f"nothing says which experts were kept; {OTHER_WEIGHTS}"
        )

    def yardstick(self, name: str) -> Yardstick | None:
        """What a checkpoint says of itself, if it says that it is a yardstick."""
        return own_yardstick(self[name].checkpoint.path)


def check_same_for_all(results: Path, name: str, digest: str, *, shown: str) -> None:
    """Each process of a run opens a model for itself; the first leaves its digest for the others. Raises UserError when
    another has met another."""
    work = results / WORK_DIR
    with _locked(work, OPENED):
        path = work / f"{OPENED}.json"
        opened = read_object(path, what="the record of what was opened") if path.is_file() else {}
        if opened.setdefault(name, digest) != digest:
            raise UserError(
                f"{shown} was changed or replaced while the run went on; leave the checkpoint as it is and run again"
            )
        write_json(path, opened)


def _locked(work: Path, name: str) -> FileLock:
    work.mkdir(parents=True, exist_ok=True)
    (work / _OURS).touch()
    return FileLock(work / f"{name}.lock")


def _check_vocabulary(candidate: Checkpoint, base: Checkpoint) -> None:
    """Raises UserError when the two put out probabilities over other tokens."""
    for what, found, wanted in (
        ("vocab_size", candidate.vocab_size, base.vocab_size),
        ("hidden_size", candidate.hidden_size, base.hidden_size),
    ):
        if found != wanted:
            raise UserError(
                f"{candidate.name} has {what} {found} and its base {wanted}: "
                "a candidate has the embedding and the head of its base in shape"
            )
    stops = [checkpoint.config.get("eos_token_id") for checkpoint in (candidate, base)]
    if stops[0] != stops[1]:
        raise UserError(
            f"{candidate.name} has eos_token_id {stops[0]} in config.json and its base {stops[1]}: it would stop "
            "elsewhere when it is served, whatever is measured here"
        )
    if candidate.top_k != base.top_k:
        raise UserError(f"{candidate.name} routes to {candidate.top_k} experts a token and its base to {base.top_k}")


def work_is_ours(results: Path) -> bool:
    """Whether what a run takes away at its start was made by one, or is not there."""
    work = results / WORK_DIR
    return not work.is_file() and (not work.is_dir() or not any(work.iterdir()) or (work / _OURS).is_file())


def clear_work(results: Path) -> None:
    """Take away what an earlier run made for its own use: the code that made it may have changed since.

    `results` must be such that `work_is_ours`.
    """
    shutil.rmtree(results / WORK_DIR, ignore_errors=True)


def remove_copies(results: Path) -> None:
    """Take away the copies of the base that a run made to measure itself with."""
    for name in (NOOP, ULP):
        shutil.rmtree(results / WORK_DIR / name, ignore_errors=True)
