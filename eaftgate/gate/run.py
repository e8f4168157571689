"""A gate run: the plan's models, blocks, collections and cells, made when a case first asks for them.

Every process of a run (pytest-xdist's workers too) has its own GateRun over the same directory; what takes long goes
through files there, so that it is done once.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest, tokenizer_digest
from eaftgate.collect.collection import Collection, check_stats, restored
from eaftgate.collect.store import CollectionStore, OpenBar, Request, no_bar
from eaftgate.collect.transformers import TransformersCollector
from eaftgate.errors import UserError
from eaftgate.files import write_json
from eaftgate.gate.judge import JudgedCell, judge_cell, judge_in_looks, plan_looks
from eaftgate.gate.plan import BASE, BATCH, FIXTURE_KEEP_N, NOOP, RERUN, ULP, Cell, Plan
from eaftgate.gate.policy import IntervalPolicy
from eaftgate.model.load import ModelSettings, default_settings
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import Pack, named_packs
from eaftgate.packs.tokenizer import PackTokenizer, load_tokenizer
from eaftgate.parity.metrics import halves_wobble
from eaftgate.parity.paired import PairedTokens, pair
from eaftgate.profile.profile import open_profile
from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
from eaftgate.prune import PruneRequest, prune_checkpoint
from eaftgate.rewrite.manifest import MANIFEST_FILE, Manifest, read_manifest
from eaftgate.rewrite.perturb import make_perturbed

CELLS_DIR = "cells"
WORK_DIR = "work"
ORDER_SEED = 3407
"""Of the block order of --sequential and of the noise floor, and of its perturbation, when --seed says none."""


Order = NDArray[np.intp]


@dataclass(frozen=True)
class Model:
    checkpoint: Checkpoint
    digest: str


class GateRun:
    """`session` names the run; `fixture` is the folder of the embedded checkpoint; `open_bar(title)` shows progress."""

    def __init__(
        self, plan: Plan, *, session: str, fixture: Path, open_bar: Callable[[str], OpenBar] | None = None
    ) -> None:
        self.plan, self.session = plan, session
        self._fixture = fixture
        self._open_bar = open_bar or (lambda _: no_bar)
        self._store = CollectionStore(plan.options.results / "collections", session=session)
        self._models: dict[str, Model] = {}
        self._blocks: dict[tuple[str, int, int, int | None], Blocks] = {}
        self._packs: dict[int | None, dict[str, Pack]] = {}
        self._cells: dict[Cell, JudgedCell] = {}

    @property
    def results(self) -> Path:
        return self.plan.options.results

    @property
    def work(self) -> Path:
        return self.results / WORK_DIR

    @cached_property
    def settings(self) -> ModelSettings:
        options = self.plan.options
        return default_settings(device=options.device, dtype=options.dtype, dequantize=options.dequantize)

    # Models

    def model(self, name: str) -> Model:
        """BASE, NOOP, or a checkpoint by its short name. Raises UserError when it cannot be had or does not fit."""
        if name not in self._models:
            makers = {BASE: self._open_base, NOOP: self._make_noop, ULP: self._make_perturbed}
            self._models[name] = makers.get(name, lambda: self._open_candidate(name))()
        return self._models[name]

    def _open(self, source: str | Path) -> Model:
        checkpoint = open_checkpoint(source)
        return Model(checkpoint, checkpoint_digest(checkpoint, cache=self.results / "digests.json"))

    def _open_base(self) -> Model:
        options = self.plan.options
        if options.embedded:
            return self._open(self._fixture / "checkpoint")
        if options.base is not None:
            return self._open(options.base)
        manifests = [self._manifest_of(name) for name in self.plan.checkpoints]
        named = {manifest.base.digest: manifest.base.name for manifest in manifests}
        if len(named) != 1:
            raise UserError("the checkpoints were made from different bases: gate them one at a time, or pass --base")
        (digest, source), *_ = named.items()
        base = self._open(source)
        if base.digest != digest:
            raise UserError(f"{source} is no longer the base that the manifest names (its digest differs): pass --base")
        return base

    def _manifest_of(self, name: str) -> Manifest:
        checkpoint = open_checkpoint(self.plan.checkpoints[name])
        if not (checkpoint.path / MANIFEST_FILE).is_file():
            raise UserError(f"{checkpoint.name} has no {MANIFEST_FILE} that names its base: pass --base")
        return read_manifest(checkpoint.path)

    def _open_candidate(self, name: str) -> Model:
        source = self._make_fixture_candidate() if self.plan.options.embedded else self.plan.checkpoints[name]
        candidate, base = self._open(source), self.model(BASE)
        if tokenizer_digest(candidate.checkpoint) != tokenizer_digest(base.checkpoint):
            raise UserError(
                f"{candidate.checkpoint.name} has another tokenizer.json than its base: tokens cannot be compared"
            )
        return candidate

    def _make_noop(self) -> Model:
        """Keep all experts through the same rewrite path, in RUN_DIR/work."""
        base = self.model(BASE)
        out = self.work / NOOP
        request = PruneRequest(keep_n=base.checkpoint.num_experts, allow_any_keep_n=True)
        with self._lock(NOOP):
            if not out.exists():
                prune_checkpoint(base.checkpoint, base.digest, None, request, out)
        return self._open(out)

    def _make_perturbed(self) -> Model:
        """The base off by one bfloat16 ulp, in RUN_DIR/work."""
        noop, out = self.model(NOOP).checkpoint.path, self.work / ULP
        with self._lock(ULP):
            if not out.exists():
                make_perturbed(noop, out, seed=self._order_seed)
        return self._open(out)

    def _make_fixture_candidate(self) -> Path:
        """The main job on the embedded checkpoint: profile its calibration packs, prune to 24."""
        base = self.model(BASE)
        profile_dir, out = self.work / "profile", self.work / f"keep{FIXTURE_KEEP_N}"
        with self._lock("fixture"):
            if not out.exists():
                packs = self._fixture / "packs" / "calibration"
                request = ProfileRequest(packs, seq_len=512, batch_size=self.plan.batch_size)
                if profile_dir.exists():
                    profile = open_profile(profile_dir)
                else:
                    profile = profile_checkpoint(base.checkpoint, base.digest, request, profile_dir, self.settings)
                prune_checkpoint(base.checkpoint, base.digest, profile, PruneRequest(keep_n=FIXTURE_KEEP_N), out)
        return out

    def _lock(self, name: str) -> FileLock:
        self.work.mkdir(parents=True, exist_ok=True)
        return FileLock(self.work / f"{name}.lock")

    def manifest(self, name: str) -> Manifest | None:
        """The manifest of a checkpoint; None for one that keeps all experts and was not made by eaftgate."""
        candidate, base = self.model(name).checkpoint, self.model(BASE).checkpoint
        if (candidate.path / MANIFEST_FILE).is_file():
            return read_manifest(candidate.path)
        if candidate.num_experts == base.num_experts:
            return None
        raise UserError(
            f"{candidate.name} has {candidate.num_experts} of {base.num_experts} experts and no {MANIFEST_FILE}: "
            "nothing says which experts were kept"
        )

    # Packs and blocks

    def packs(self, seed: int | None) -> dict[str, Pack]:
        if seed not in self._packs:
            directory = self.plan.options.packs or self._fixture / "packs" / "gate"
            self._packs[seed] = named_packs(directory, seed=seed)
        return self._packs[seed]

    @cached_property
    def _tokenizer(self) -> PackTokenizer:
        return load_tokenizer(self.model(BASE).checkpoint.path)

    def blocks(self, cell: Cell) -> Blocks:
        key = (cell.pack, cell.seq_len, cell.num_blocks, cell.seed)
        if key not in self._blocks:
            self._blocks[key] = build_blocks(
                self.packs(cell.seed)[cell.pack],
                self._tokenizer.backend,
                eos_id=self._tokenizer.eos_id,
                seq_len=cell.seq_len,
                num_blocks=cell.num_blocks,
            )
        return self._blocks[key]

    def overlap(self, name: str) -> dict[str, int]:
        """Rows of every gate pack that the checkpoint was calibrated on, by count."""
        manifest = self.manifest(name)
        calibrated = set() if manifest is None else set(manifest.provenance.get("calibration_rows", []))
        packs = self.packs(self.plan.options.seed)
        return {pack.name: sum(i in calibrated for i in pack.identities) for pack in packs.values()}

    # Collections and cells

    def collection(
        self, model: str, cell: Cell, *, replicate: str = "", order: Order | None = None, batch_size: int | None = None
    ) -> Collection:
        """The collection of `model` on the cell's blocks, from the cache or measured now.

        With `order`, on those blocks in that order; its tokens come back in the order of the cell's blocks.
        """
        found, blocks = self.model(model), self.blocks(cell)
        collector = TransformersCollector(
            found.checkpoint.path, found.digest, self.settings, batch_size=batch_size or self.plan.batch_size
        )
        request = Request(found.digest, blocks if order is None else blocks.reordered(order), collector, replicate)
        bar = self._open_bar(f"{model} {cell.pack} {cell.seq_len} {replicate}")
        collection = self._store.get(request, open_bar=bar)
        return collection if order is None else restored(collection, order)

    def cell(self, cell: Cell) -> JudgedCell:
        """A cell of a candidate, or of the no-op rewrite; its result is also left in RUN_DIR/cells."""
        if cell not in self._cells:
            sequential = self.plan.options.sequential and cell.checkpoint in self.plan.checkpoints
            self._cells[cell] = self._in_looks(cell) if sequential else self._judge(cell, self._pairs(cell))
            record = {"session": self.session, "inputs": self._inputs(cell), **asdict(self._cells[cell])}
            write_json(self.results / CELLS_DIR / f"{cell.id}-{cell.seed}.json", record)
        return self._cells[cell]

    def floor(self, cell: Cell, tier: str) -> JudgedCell:
        """The base against itself: measured again, in other batches and another order, or off by one ulp."""
        key = replace(cell, checkpoint=tier)
        if key not in self._cells:
            measured = {
                RERUN: lambda: self.collection(BASE, cell, replicate=RERUN),
                BATCH: lambda: self.collection(
                    BASE, cell, order=self._order(cell), batch_size=max(2, self.plan.batch_size // 2)
                ),
                ULP: lambda: self.collection(ULP, cell),
            }
            self._cells[key] = self._judge(cell, pair(self.collection(BASE, cell), measured[tier]()))
        return self._cells[key]

    def _pairs(self, cell: Cell) -> PairedTokens:
        # The no-op rewrite may have the base's digest, and must be measured all the same.
        replicate = NOOP if cell.checkpoint == NOOP else ""
        return pair(self.collection(BASE, cell), self.collection(cell.checkpoint, cell, replicate=replicate))

    def _judge(self, cell: Cell, tokens: PairedTokens) -> JudgedCell:
        plan = self.plan
        return judge_cell(plan.policy, plan.v1, tokens, cell.num_blocks, strict=plan.options.strict_cells)

    def _in_looks(self, cell: Cell) -> JudgedCell:
        """The base in full, then the candidate on blocks in random order until the cell is decided."""
        policy, plan = self.plan.policy, self.plan
        assert isinstance(policy, IntervalPolicy)  # make_plan has refused --sequential otherwise
        base, order = self.collection(BASE, cell), self._order(cell)
        looks = plan_looks(policy.sequential, cell.num_blocks)
        ends = [look.num_blocks for look in looks]

        def parts() -> Iterator[PairedTokens]:
            for begin, end in zip([0, *ends], ends, strict=False):
                chosen = np.sort(order[begin:end])
                candidate = self.collection(cell.checkpoint, cell, order=chosen)
                yield pair(base.select(np.isin(base.block_T, chosen)), candidate)

        p_T = np.minimum(np.exp(base.stats.logprob_T.astype(np.float64)), 1.0)
        h_T = base.stats.entropy_T.astype(np.float64)
        return judge_in_looks(policy, plan.v1, p_T, h_T, looks, parts(), strict=plan.options.strict_cells)

    @property
    def _order_seed(self) -> int:
        return ORDER_SEED if self.plan.options.seed is None else self.plan.options.seed

    def _order(self, cell: Cell) -> Order:
        return np.random.default_rng(self._order_seed).permutation(cell.num_blocks)

    def _inputs(self, cell: Cell) -> dict[str, Any]:
        """What a cell was measured on, by content."""
        return {
            "base": {"name": self.model(BASE).checkpoint.name, "digest": self.model(BASE).digest},
            "checkpoint_digest": self.model(cell.checkpoint).digest,
            "blocks_digest": self.blocks(cell).digest,
            "collector": dict(self.collection(BASE, cell).meta["settings"]),
        }

    def halves(self, cell: Cell) -> dict[str, float]:
        """|difference| of every metric of the base between the first and the second half of the blocks."""
        collection = self.collection(BASE, cell)
        first = collection.block_T < cell.num_blocks // 2
        logprob, entropy = collection.stats.logprob_T, collection.stats.entropy_T
        return halves_wobble(logprob, entropy, first)

    def check_engine(self, name: str) -> int:
        """Load the checkpoint in the collector and score a block; returns its counted tokens.

        Raises UserError when it does not load or puts out what no sound model can.
        """
        cell = min(self.plan.primary_cells, key=lambda cell: cell.seq_len)
        found, blocks = self.model(name), self.blocks(cell)
        collector = TransformersCollector(found.checkpoint.path, found.digest, self.settings, batch_size=1)
        block = int(np.argmax(blocks.counted_BS.any(axis=1)))  # a block need not hold a counted token
        _, stats = next(iter(collector.batches(blocks, block)))
        check_stats(stats, int(blocks.counted_BS[block].sum()), where=f"{name}, block {block} of {cell.pack}")
        return len(stats)


def clear_work(results: Path) -> None:
    """Take away what an earlier run made for its own use: the code that made it may have changed since."""
    shutil.rmtree(results / WORK_DIR, ignore_errors=True)


def remove_copies(results: Path) -> None:
    """Take away the copies of the base that a run made to measure itself with."""
    for name in (NOOP, ULP):
        shutil.rmtree(results / WORK_DIR / name, ignore_errors=True)
