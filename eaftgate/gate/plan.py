"""What a gate run will evaluate, decided before anything runs: models, packs, cells, and which cells decide."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from eaftgate.collect.collector import Needs
from eaftgate.gate.cells import BATCH, NOOP, RERUN, ULP, Cell, TaskCell, TurnCell
from eaftgate.gate.options import SERVED
from eaftgate.gate.profiling_seeds import ProfilingGroup
from eaftgate.gate.request import GateOptions
from eaftgate.judge.policy import DEFAULT_TOKENS, BehaviourPolicy, IntervalPolicy, PointPolicy, Regime, TasksPolicy
from eaftgate.judge.verdict import MetricVerdict, floor_problem
from eaftgate.packs.pack import UNION

ORDER_SEED = 3407
"""Of the block order of --sequential and of the noise floor, and of its perturbation, when --seed says none."""
V1, V2 = "near-lossless-v1", "near-lossless-v2"


@dataclass(frozen=True)
class Plan:
    """`checkpoints` maps a unique short name (the one in test ids) to the directory or hub id as given.

    `needs` are those of the collector. `v1` is the origin's policy and `v2` the one before there were classes, whose
    verdicts are reported beside that of `policy`; None when the file has none. `profiling_groups` are checkpoints that
    differ only in their profiling seed, as their manifests say.
    """

    options: GateOptions
    policy_name: str
    policy: PointPolicy | IntervalPolicy
    v1: PointPolicy | None
    v2: IntervalPolicy | None
    regime_name: str
    regime: Regime
    checkpoints: dict[str, str]
    cells: tuple[Cell, ...]
    needs: Needs
    profiling_groups: tuple[ProfilingGroup, ...] = ()
    rows_unknown: frozenset[str] = frozenset()
    """The checkpoints of which nothing says what rows they were made on."""
    gates_sha256: str | None = None
    """Of the gates file."""
    packs: Path | None = None
    """Where its rows are, also where none was given: those of the embedded checkpoint."""
    yardsticks: Mapping[str, int] = field(default_factory=dict)
    """Those that say that they are the base with rounded experts, and to how many bits."""
    turns: int = 0
    """Of every pack that are written."""
    turn_tokens: int = DEFAULT_TOKENS
    """That each may have."""
    turn_packs: tuple[str, ...] = ()
    """The packs, each by itself, whose turns are written; none where none are."""
    tasks: tuple[str, ...] = ()
    """That base and candidates do."""

    @property
    def is_served(self) -> bool:
        """Whether nothing of the models is at hand: what the run says is unverified."""
        return self.options.candidate_kind == SERVED

    @property
    def batch_size(self) -> int:
        return self.options.batch_size or self.regime.batch_size

    @property
    def best_of(self) -> int:
        """How many candidates the best is to be chosen from."""
        return self.options.best_of or 1

    @property
    def order_seed(self) -> int:
        return ORDER_SEED if self.options.seed is None else self.options.seed

    @property
    def primary_cells(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.primary)

    @property
    def evaluation_seeds(self) -> tuple[int | None, ...]:
        """The row orders: the run's own first (None: file order), then the further ones of --seeds."""
        return tuple(dict.fromkeys((self.options.seed, *self.options.seeds)))

    @property
    def seed_cells(self) -> tuple[tuple[Cell, ...], ...]:
        """Every primary cell of a candidate in every row order; none when there is one order only."""
        seeds = self.evaluation_seeds
        cells = self.primary_cells if self.checkpoints and len(seeds) > 1 else ()
        return tuple(tuple(replace(cell, seed=seed) for seed in seeds) for cell in cells)

    def group_cells(self, group: ProfilingGroup) -> tuple[tuple[Cell, ...], ...]:
        """Every primary pack x seq_len, for the checkpoints of a group."""
        shapes = [cell for cell in self.primary_cells if cell.checkpoint == group.checkpoints[0]]
        return tuple(tuple(replace(cell, checkpoint=name) for name in group.checkpoints) for cell in shapes)

    @property
    def plans_stability(self) -> bool:
        return bool(self.seed_cells or self.profiling_groups)

    @property
    def floor_tiers(self) -> tuple[str, ...]:
        """A rule on point estimates is only asked whether it accepts a repetition; a server has no perturbed copy."""
        if isinstance(self.policy, PointPolicy):
            return (RERUN,)
        return (RERUN, BATCH, ULP) if self.needs.scores_copies else (RERUN, BATCH)

    @property
    def must_decide(self) -> tuple[str, ...]:
        """Metrics that have to decide in one cell of every checkpoint at least: a run is not to be silent on them."""
        return self.policy.must_decide(self.regime.must_decide)

    @property
    def may_be_silent(self) -> bool:
        """Whether the policy asks for so much that nothing may be left to decide a cell."""
        return isinstance(self.policy, IntervalPolicy) and self.policy.evidence is not None

    def is_primary_pack(self, pack: str) -> bool:
        return pack in self.regime.primary.packs

    def cell_decides(self, cell: Cell) -> bool:
        """Whether the verdict of the whole cell is a part of the run's: no other rule is left out of it."""
        return cell.primary or self.options.strict_cells

    def decides(self, cell: Cell, metric: str) -> bool:
        """Whether the case may turn the run red; an underpowered metric may not after all."""
        if not (self.options.strict_cells or self._is_primary_length(cell.seq_len)):
            return False
        primary_pack, strict = self.is_primary_pack(cell.pack), self.options.strict_cells
        return metric in self.policy.deciding_in(primary_pack=primary_pack, strict=strict) and (
            self.cell_decides(cell) or self.policy.decides_in_every_pack
        )

    def _is_primary_length(self, seq_len: int) -> bool:
        """Those that the regime names; of lengths that were given, of which it names none, all."""
        named = set(self.regime.primary.seq_lens)
        return seq_len in named or not named & {cell.seq_len for cell in self.cells}

    @property
    def behaviour(self) -> BehaviourPolicy:
        """By which turns are judged, where any are. Raises ValueError where the policy has none."""
        found = self.policy.behaviour if isinstance(self.policy, IntervalPolicy) else None
        if found is None:
            raise ValueError(f"{self.policy_name} has no block behaviour")
        return found

    @property
    def turn_cells(self) -> tuple[TurnCell, ...]:
        packs = (UNION, *self.turn_packs) if self.turn_packs else ()
        return tuple(TurnCell(name, pack) for name in self.checkpoints for pack in packs)

    def turns_deciding(self, cell: TurnCell) -> frozenset[str]:
        """The metrics of behaviour that may turn the run red."""
        return self.behaviour.deciding_in(union=cell.pack == UNION, strict=self.options.strict_cells)

    @property
    def turns_must_decide(self) -> tuple[str, ...]:
        """As must_decide, of behaviour."""
        return self.behaviour.must_decide(self.regime.must_decide) if self.turn_packs else ()

    @property
    def tasks_policy(self) -> TasksPolicy:
        """By which tasks are judged, where any are. Raises ValueError where the policy has no such block."""
        found = self.policy.tasks if isinstance(self.policy, IntervalPolicy) else None
        if found is None:
            raise ValueError(f"{self.policy_name} has no block tasks")
        return found

    @property
    def task_cells(self) -> tuple[TaskCell, ...]:
        return tuple(TaskCell(name, task) for name in self.checkpoints for task in self.tasks)

    def task_decides(self, cell: TaskCell) -> bool:
        """Whether it may turn the run red, and has to say something."""
        return self.tasks_policy.rule_of(cell.task).role == "decides"

    def floor_problem(self, metric: str, measured: MetricVerdict) -> str | None:
        return floor_problem(self.policy, metric, measured)

    @property
    def floor_cells(self) -> tuple[Cell, ...]:
        """What the base is compared with itself on, and with the no-op rewrite, named by the tier or NOOP."""
        copies = (NOOP,) if self.needs.scores_copies else ()
        return tuple(cell for tier in (*self.floor_tiers, *copies) for cell in self.base_cells(tier))

    def base_cells(self, checkpoint: str) -> tuple[Cell, ...]:
        """The primary cells of a model that is compared with the base whatever the candidates are."""
        shapes = {(c.pack, c.seq_len, c.num_blocks, c.seed): c for c in self.primary_cells}.values()
        return tuple(Cell(checkpoint, c.pack, c.seq_len, c.num_blocks, True, c.seed) for c in shapes)
