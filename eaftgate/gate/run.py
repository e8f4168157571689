"""A gate run: the plan's models, blocks, collections and cells, made when a case first asks for them.

Every process of a run (pytest-xdist's workers too) has its own GateRun over the same directory; what takes long goes
through files there, so that it is done once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from eaftgate.behaviour.paired import pair_turns
from eaftgate.checkpoint.digest import ModelIdentity
from eaftgate.collect.collection import Collection, check_stats, restored
from eaftgate.collect.collector import Collector, Scorer
from eaftgate.collect.collectors import collector_kinds
from eaftgate.collect.store import CollectionStore, Request, Say
from eaftgate.collect.writer import WritingScorer
from eaftgate.errors import UserError
from eaftgate.gate.candidates import ServedIdentity
from eaftgate.gate.cells import BASE, BATCH, NOOP, RERUN, ULP, Cell, TaskCell, TurnCell
from eaftgate.gate.evaluating import Evaluations
from eaftgate.gate.judging import Order, judge_look_by_look, judge_planned_turns, judge_tokens, order_of_blocks
from eaftgate.gate.messages import lost_messages, message_counts
from eaftgate.gate.models import Models
from eaftgate.gate.plan import Plan
from eaftgate.gate.results import (
    COLLECTIONS_DIR,
    GENERATIONS_DIR,
    CellInputs,
    CellRecord,
    TurnsInputs,
    TurnsRecord,
    floor_file,
    write_record,
)
from eaftgate.gate.served import ServedModels
from eaftgate.gate.tasks import TaskRecord
from eaftgate.gate.turns import turns_apart
from eaftgate.generate.generations import Generations
from eaftgate.generate.store import GenerationStore
from eaftgate.generate.store import Request as WritingRequest
from eaftgate.judge.cell import JudgedCell
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import UNION, Pack, named_packs
from eaftgate.packs.tokenizer import PackTokenizer, load_tokenizer
from eaftgate.packs.turns import ChosenTurns, Ending, choose_turns
from eaftgate.parity.metrics import halves_wobble
from eaftgate.parity.paired import PairedTokens, pair
from eaftgate.progress import Bar, progress_bar
from eaftgate.prune.methods import KEEP_SETS
from eaftgate.tasks.evaluated import Evaluated


class GateRun:
    """`session` names the run; `fixture` is the folder of the embedded checkpoint; `uncaptured` opens a context
    in which progress can be shown, `say` takes lines for the user."""

    def __init__(
        self,
        plan: Plan,
        *,
        session: str,
        fixture: Path,
        uncaptured: Callable[[], AbstractContextManager[None]] = nullcontext,
        say: Say = lambda _: None,
    ) -> None:
        self.plan, self.session = plan, session
        served = plan.needs.served
        self.models: Models | ServedModels = (
            Models(plan, fixture, uncaptured)
            if served is None
            else ServedModels(plan, served, session=session, scorer=lambda: self._scorer)
        )
        self._fixture = fixture
        self._uncaptured = uncaptured
        self._store = CollectionStore(plan.options.results / COLLECTIONS_DIR, session=session, say=say)
        self._blocks: dict[tuple[str, int, int, int | None], Blocks | UserError] = {}
        self._packs: dict[int | None, dict[str, Pack]] = {}
        self._cells: dict[Cell, JudgedCell] = {}
        self._generations = GenerationStore(plan.options.results / GENERATIONS_DIR, say=say)
        self._written: dict[tuple[str, str], Generations | UserError] = {}
        self._chosen_turns: dict[str, ChosenTurns] = {}
        self._turns: dict[TurnCell, TurnsRecord] = {}
        self._tasks = Evaluations(
            plan,
            lambda: self.here,
            session=session,
            scorer=lambda: self._scorer,
            # A number that is known has its line before the work begins: a kill for memory leaves no other word.
            shown=lambda title: self._shown(title, 1, unit="tasks", steady=False),
            say=say,
        )
        self._closing = ExitStack()

    @property
    def results(self) -> Path:
        return self.plan.options.results

    @property
    def here(self) -> Models:
        """The models, in a run that has their checkpoints. Raises TypeError in one that has not."""
        if not isinstance(self.models, Models):
            raise TypeError("a run of servers has no checkpoint")
        return self.models

    # Packs and blocks

    def packs(self, seed: int | None) -> dict[str, Pack]:
        if seed not in self._packs:
            directory = self.plan.options.packs or self._fixture / "packs" / "gate"
            self._packs[seed] = named_packs(directory, seed=seed)
        return self._packs[seed]

    @cached_property
    def _tokenizer(self) -> PackTokenizer:
        return load_tokenizer(self.models[BASE].tokenizer)

    def blocks(self, cell: Cell) -> Blocks:
        """Of the base's tokenizer. Raises UserError for a cell that has none, the same whenever it is asked."""
        key = (cell.pack, cell.seq_len, cell.num_blocks, cell.seed)
        if key not in self._blocks:
            try:
                self._blocks[key] = self._build_blocks(cell)
            except UserError as error:
                self._blocks[key] = error
        found = self._blocks[key]
        if isinstance(found, UserError):
            raise UserError(str(found))
        return found

    def _build_blocks(self, cell: Cell) -> Blocks:
        blocks = build_blocks(
            self.packs(cell.seed)[cell.pack],
            self._tokenizer.backend,
            eos_id=self._tokenizer.eos_id,
            seq_len=cell.seq_len,
            num_blocks=cell.num_blocks,
            vocab_size=self.models[BASE].vocab_size,
        )
        return blocks.scoring_everything() if self.plan.options.whole_text else blocks

    def identity(self, name: str) -> ServedIdentity:
        """What is known of a model that a server has. Raises TypeError in a run of checkpoints."""
        if isinstance(self.models, Models):
            raise TypeError("a run of checkpoints asks no server what it has")
        return self.models.identity(name)

    def overlap(self, name: str) -> dict[str, int]:
        """Rows of every gate pack that the checkpoint was calibrated on, by count."""
        manifest = self.here.manifest(name)
        calibrated = set() if manifest is None else set(manifest.selection.calibration_rows)
        packs = self.packs(self.plan.options.seed)
        return {pack.name: sum(i in calibrated for i in pack.identities) for pack in packs.values()}

    def chosen_elsewhere(self, name: str) -> bool:
        """Whether nothing says which rows the experts of the checkpoint were chosen on."""
        manifest = self.here.manifest(name)
        return manifest is not None and manifest.selection.method == KEEP_SETS.name

    # Collections and cells

    def collection(
        self, model: str, cell: Cell, *, replicate: str = "", order: Order | None = None, other_batches: bool = False
    ) -> Collection:
        """The collection of `model` on the cell's blocks, from the cache or measured now.

        With `order`, on those blocks in that order; its tokens come back in the order of the cell's blocks.
        """
        blocks = self.blocks(cell)
        request = self._request(
            model, blocks if order is None else blocks.reordered(order), replicate, other_batches=other_batches
        )
        title = f"score {model} {cell.pack} {cell.seq_len} {replicate}"
        collection = self._store.get(request, open_bar=lambda tokens: self._shown(title, tokens, unit="tokens"))
        return collection if order is None else restored(collection, order)

    @contextmanager
    def _shown(self, title: str, total: int | None, *, unit: str, steady: bool = True) -> Iterator[Bar]:
        resumes = not self.plan.is_served
        with (
            self._uncaptured(),
            progress_bar(title, total, unit=unit, out=self.results, resumes=resumes, steady=steady) as bar,
        ):
            yield bar

    def _request(self, model: str, blocks: Blocks, replicate: str = "", *, other_batches: bool = False) -> Request:
        collector = self._collector(model, other_batches=other_batches)
        found = self.models[model]
        return Request(found.digest, blocks, collector, replicate, found.vocab_size)

    @cached_property
    def _scorer(self) -> Scorer:
        options = self.plan.options
        kind = collector_kinds()[options.collector]
        scorer = kind.open(options.given_to_collector, batch_size=self.plan.batch_size, logs=self.results)
        self._closing.callback(scorer.close)
        return scorer

    def _collector(self, model: str, *, other_batches: bool = False) -> Collector:
        """What scores `model`; in other batches for the noise floor."""
        found = self.models[model]
        return found.watched(self._scorer.collector(found.scored(model), other_batches=other_batches))

    def close(self) -> None:
        """Give back what the collector holds."""
        self._closing.close()

    def cell(self, cell: Cell) -> JudgedCell:
        """A cell of a candidate, or of the no-op rewrite; its result is also left in RUN_DIR/cells."""
        if cell not in self._cells:
            looks: list[str] = []
            if self.stops_early(cell):

                def look(_: int, chosen: Order) -> Collection:
                    request = self._request(cell.checkpoint, self.blocks(cell).reordered(chosen))
                    looks.append(self._store.path(request).name)
                    return self.collection(cell.checkpoint, cell, order=chosen)

                judged, tokens = judge_look_by_look(self.plan, cell, self.collection(BASE, cell), look)
            else:
                tokens = self._pairs(cell)
                judged = judge_tokens(self.plan, cell, tokens)
            blocks, pack = self.blocks(cell), self.packs(cell.seed)[cell.pack]
            record = CellRecord(
                **vars(judged),
                session=self.session,
                inputs=self._inputs(cell, looks=looks),
                messages=message_counts(tokens, pack),
                lost=lost_messages(tokens, blocks, pack, self._tokenizer.backend) if cell.primary else (),
            )
            write_record(self.results, cell.record_file, record)
            self._cells[cell] = record
        return self._cells[cell]

    def stops_early(self, cell: Cell) -> bool:
        """Whether a cell is judged while it is collected, and no further than it takes."""
        return self.plan.options.sequential and cell.checkpoint in self.plan.checkpoints

    # Turns that are written

    def generations(self, model: str, pack: str) -> Generations:
        """What `model` writes for the turns of a pack, from the cache or now. Raises UserError where it cannot, the
        same whenever it is asked."""
        key = (model, pack)
        if key not in self._written:
            try:
                title = f"write {model} {pack}"
                self._written[key] = self._generations.get(
                    self._writing(model, pack),
                    open_bar=lambda turns: self._shown(title, turns, unit="turns", steady=False),
                )
            except UserError as error:
                self._written[key] = error
        found = self._written[key]
        if isinstance(found, UserError):
            raise UserError(str(found))
        return found

    def _writing(self, model: str, pack: str) -> WritingRequest:
        scorer, found = self._scorer, self.models[model]
        if not isinstance(scorer, WritingScorer):
            raise UserError(f"--collector={self.plan.options.collector} scores only: leave out --generate")
        writer = found.watched_writer(scorer.writer(found.scored(model)))
        return WritingRequest(
            found.digest,
            self._chosen(pack),
            writer,
            Ending(self._tokenizer),
            self.plan.turn_tokens,
            found.vocab_size,
        )

    def _chosen(self, pack: str) -> ChosenTurns:
        """Of the base's tokenizer, whatever model writes them."""
        if pack not in self._chosen_turns:
            self._chosen_turns[pack] = choose_turns(
                self.packs(self.plan.options.seed)[pack],
                self._tokenizer,
                count=self.plan.turns,
                seed=self.plan.order_seed,
                max_tokens=self.plan.turn_tokens,
                context=self.models[BASE].context,
            )
        return self._chosen_turns[pack]

    def turns(self, cell: TurnCell) -> TurnsRecord:
        """How a candidate behaves over a pack's turns, or all packs'; the result is also left in RUN_DIR/cells."""
        if cell not in self._turns:
            packs = self.plan.turn_packs if cell.pack == UNION else (cell.pack,)
            candidate = [self.generations(cell.checkpoint, pack) for pack in packs]  # before the base, as in `floor`
            base = [self.generations(BASE, pack) for pack in packs]
            paired = pair_turns(base, candidate)
            found = self.models[BASE]
            record = TurnsRecord(
                **vars(judge_planned_turns(self.plan, cell, paired)),
                session=self.session,
                inputs=TurnsInputs(
                    base=ModelIdentity(name=found.name, digest=found.digest),
                    checkpoint_digest=self.models[cell.checkpoint].digest,
                    packs=packs,
                    turns=tuple(generations.turns for generations in base),
                    writer=base[0].settings,
                    max_tokens=self.plan.turn_tokens,
                    generations={
                        role: tuple(self._generations.path(self._writing(model, pack)).name for pack in packs)
                        for role, model in (("base", BASE), ("checkpoint", cell.checkpoint))
                    },
                ),
                apart=turns_apart(paired, base, candidate) if cell.pack == UNION else (),
            )
            write_record(self.results, cell.record_file, record)
            self._turns[cell] = record
        return self._turns[cell]

    # Tasks

    def evaluated(self, model: str, task: str) -> Evaluated:
        """What `model` makes of a task, from the cache or now."""
        return self._tasks.evaluated(model, task)

    def task(self, cell: TaskCell) -> TaskRecord:
        """How a candidate does in a task."""
        return self._tasks.task(cell)

    # The base against itself

    def floor(self, cell: Cell, tier: str) -> JudgedCell:
        """The base against itself: measured again, in other batches and another order, or off by one ulp."""
        key = replace(cell, checkpoint=tier)
        if key not in self._cells:
            order = order_of_blocks(self.plan, cell)
            measured = {
                RERUN: lambda: self.collection(BASE, cell, replicate=RERUN),
                BATCH: lambda: self.collection(BASE, cell, order=order, other_batches=True),
                ULP: lambda: self.collection(ULP, cell),
            }
            repeated = measured[tier]()  # first: a process that is to score a copy need not load the base for it
            judged = judge_tokens(self.plan, cell, pair(self.collection(BASE, cell), repeated))
            record = CellRecord(**vars(judged), session=self.session, inputs=self._inputs(key))
            write_record(self.results, floor_file(key), record)
            self._cells[key] = record
        return self._cells[key]

    def _pairs(self, cell: Cell) -> PairedTokens:
        # The no-op rewrite may have the base's digest, and must be measured all the same.
        replicate = NOOP if cell.checkpoint == NOOP else ""
        scored = self.collection(cell.checkpoint, cell, replicate=replicate)  # before the base, as in `floor`
        return pair(self.collection(BASE, cell), scored)

    def _inputs(self, cell: Cell, *, looks: Sequence[str] = ()) -> CellInputs:
        """The candidate's collection is named only when it is whole."""
        blocks, name = self.blocks(cell), cell.checkpoint
        requests = {"base": self._request(BASE, blocks)}
        if name == BATCH:
            reordered = blocks.reordered(order_of_blocks(self.plan, cell))
            requests["checkpoint"] = self._request(BASE, reordered, other_batches=True)
        elif name == RERUN:
            requests["checkpoint"] = self._request(BASE, blocks, RERUN)
        elif not self.stops_early(cell):
            requests["checkpoint"] = self._request(name, blocks, NOOP if name == NOOP else "")
        base = self.models[BASE]
        return CellInputs(
            base=ModelIdentity(name=base.name, digest=base.digest),
            checkpoint_digest=self.models[BASE if name in (RERUN, BATCH) else name].digest,
            blocks_digest=blocks.digest,
            collector=dict(self.collection(BASE, cell).meta["settings"]),
            collections={role: self._store.path(request).name for role, request in requests.items()},
            looks=tuple(looks),
        )

    def halves(self, cell: Cell) -> dict[str, float]:
        """|difference| of every metric of the base between the first and the second half of the blocks."""
        collection = self.collection(BASE, cell).content()
        first = collection.block_T < cell.num_blocks // 2
        logprob, entropy = collection.stats.logprob_T, collection.stats.entropy_T
        return halves_wobble(logprob, entropy, first)

    def check_engine(self, name: str) -> int:
        """Load the checkpoint in the collector and score a block; returns its scored tokens.

        Raises UserError when it does not load or puts out what no sound model can.
        """
        cell = min(self.plan.primary_cells, key=lambda cell: cell.seq_len)
        blocks = self.blocks(cell)
        block = int(np.argmax(blocks.scored_BS.any(axis=1)))  # a block need not hold a scored token
        one = blocks.reordered(np.array([block]))
        with self._shown(f"load {name}", None, unit="blocks"):  # to load it may take minutes
            (_, stats), *_ = self._collector(name).batches(one, 0)
        check_stats(stats, one.num_scored, where=f"{name}, block {block} of {cell.pack}")
        return len(stats)
