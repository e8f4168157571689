"""What a gate run will evaluate, decided before anything runs: models, packs, cells, and which cells decide."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eaftgate.choices import listed
from eaftgate.collect.collector import Needs
from eaftgate.collect.collectors import DEFAULT, collector_kinds, options_of
from eaftgate.errors import UserError
from eaftgate.files import sha256_file
from eaftgate.gate.options import OTHER, PRUNED
from eaftgate.gate.profiling_seeds import ProfilingGroup, local_manifests, profiling_groups
from eaftgate.judge.policy import (
    DEFAULT_GATES,
    DEFAULT_TOKENS,
    BehaviourPolicy,
    IntervalPolicy,
    PointPolicy,
    Regime,
    is_primary,
    load_gates,
    pack_selection,
)
from eaftgate.judge.verdict import MetricVerdict, floor_problem
from eaftgate.packs.pack import UNION, pack_paths
from eaftgate.prune.methods import KEEP_SETS
from eaftgate.rewrite.yardstick import own_yardstick
from eaftgate.visible import file_stem

CandidateKind = Literal["pruned", "other"]

BASE = "base"
NOOP = "noop"
RERUN, BATCH, ULP = "rerun", "batch", "ulp"
"""Tiers of the noise floor: the base measured again; in other batches and another block order; off by one ulp."""
DEFAULT_REGIME = "bigblocks"
ORDER_SEED = 3407
"""Of the block order of --sequential and of the noise floor, and of its perturbation, when --seed says none."""
V1, V2 = "near-lossless-v1", "near-lossless-v2"
ALL_TOKENS = "ppl_all"
"""What is only known where prompts are scored."""
FIXTURE_REGIME = "fixture"


@dataclass(frozen=True)
class GateOptions:
    """The command line of a gate run, as given."""

    results: Path
    base: str | None = None
    checkpoints: tuple[str, ...] = ()
    candidate_kind: CandidateKind = "pruned"
    packs: Path | None = None
    gates: Path = DEFAULT_GATES
    policy: str | None = None
    regime: str | None = None
    seq_lens: tuple[int, ...] = ()
    num_blocks: int | None = None
    batch_size: int | None = None
    seed: int | None = None
    seeds: tuple[int, ...] = ()
    strict_cells: bool = False
    sequential: bool = False
    allow_overlap: bool = False
    best_of: int | None = None
    whole_text: bool = False
    generate: int | None = None
    generate_tokens: int | None = None
    collector: str = DEFAULT
    of_collector: Mapping[str, Any] = field(default_factory=dict)
    """Its own options, by name: those that were given."""
    device: str | None = None
    dtype: str | None = None

    @property
    def given_to_collector(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": self.dtype, **self.of_collector}

    @property
    def embedded(self) -> bool:
        """Whether the run is of the embedded fixture: nothing was named to gate."""
        return self.base is None and not self.checkpoints and self.packs is None


@dataclass(frozen=True)
class Cell:
    """One comparison of a checkpoint with the base: pack x seq_len, on the rows' order for `seed`."""

    checkpoint: str
    pack: str
    seq_len: int
    num_blocks: int
    primary: bool
    seed: int | None

    @property
    def id(self) -> str:
        return f"{self.checkpoint}-{self.pack}-{self.seq_len}"

    @property
    def record_file(self) -> str:
        """In RUN_DIR/cells."""
        return f"{file_stem(f'{self.id}-{self.seed}')}.json"


@dataclass(frozen=True)
class TurnCell:
    """What a checkpoint writes, compared with what the base does: over a pack's turns, or in UNION all packs'."""

    checkpoint: str
    pack: str

    @property
    def id(self) -> str:
        return f"{self.checkpoint}-{self.pack}-turns"

    @property
    def record_file(self) -> str:
        """In RUN_DIR/cells."""
        return f"turns/{file_stem(self.id)}.json"


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


def make_plan(options: GateOptions, *, fixture_packs: Path) -> Plan:
    """Raises UserError for options that contradict each other or name what is not there.

    The same files give the same plan in every process of a run. Manifests of local checkpoints are read, weights not.
    """
    if options.embedded and not fixture_packs.is_dir():
        raise UserError(
            "the embedded checkpoint is not installed, a clone has it: "
            "give --checkpoint (or --base) and --packs, the model to gate and what to gate it on"
        )
    if not options.embedded and options.packs is None:
        raise UserError("--checkpoint and --base need --packs: the directory of Parquet packs to gate on")
    if options.packs is not None and options.base is None and not options.checkpoints:
        raise UserError("--packs needs --checkpoint or --base: the model to gate on them")
    if options.candidate_kind != PRUNED and not options.checkpoints:
        raise UserError(f"--candidate-kind={options.candidate_kind} needs --checkpoint: the candidate that is of it")
    needs = _needs(options)
    counts = {
        "--num-blocks": options.num_blocks,
        "--batch-size": options.batch_size,
        "--best-of": options.best_of,
        "--generate-tokens": options.generate_tokens,
    }
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")
    seeds = {"--seed": [options.seed] if options.seed is not None else [], "--seeds": options.seeds}
    for name, values in seeds.items():
        if negative := [value for value in values if value < 0]:
            raise UserError(f"{name} holds {negative[0]}: a seed is 0 or more")
    if too_short := [length for length in options.seq_lens if length < 2]:
        raise UserError(f"--seq-lens holds {too_short[0]}: a block needs at least 2 tokens")
    gates = load_gates(options.gates)
    policy_name, policy = gates.policy(options.policy)
    if options.sequential and not isinstance(policy, IntervalPolicy):
        raise UserError(f"--sequential needs a policy with confidence bounds: {policy_name} has none")
    if options.best_of is not None and not isinstance(policy, IntervalPolicy):
        raise UserError(f"--best-of needs a policy with confidence bounds: {policy_name} has none")
    if options.whole_text and ALL_TOKENS not in policy.metrics:
        raise UserError(f"--whole-text needs a policy with a rule for {ALL_TOKENS}: {policy_name} has none")
    regime_name = options.regime or (FIXTURE_REGIME if options.embedded else DEFAULT_REGIME)
    regime = gates.regime(regime_name)
    available = [path.stem for path in pack_paths(options.packs or fixture_packs)]
    packs = pack_selection(regime, available)
    turns = _turns(options, policy_name, policy, regime, needs)
    seq_lens = tuple(dict.fromkeys(options.seq_lens)) or tuple(regime.seq_lens)
    none_primary = not set(seq_lens) & set(regime.primary.seq_lens)
    checkpoints = _short_names(options.checkpoints)
    if options.best_of is not None and options.best_of < len(checkpoints):
        raise UserError(
            f"--best-of is {options.best_of}, and {len(checkpoints)} checkpoints are given: it must count all of those "
            "that the best is chosen from"
        )
    manifests = local_manifests(checkpoints)
    groups = profiling_groups(manifests)
    unknown = {name for name, manifest in manifests.items() if manifest.provenance.get("method") == KEEP_SETS.name}
    yardsticks = local_yardsticks(checkpoints) if options.candidate_kind == OTHER else {}
    if options.candidate_kind == OTHER:
        unknown |= checkpoints.keys() - manifests.keys() - yardsticks.keys()
    if options.embedded:
        if regime.keep_n is None:
            raise UserError(f"regime {regime_name} says no keep_n, which the embedded checkpoint is pruned to")
        checkpoints = {f"keep{regime.keep_n}": f"keep{regime.keep_n}"}
    cells = tuple(
        Cell(
            checkpoint=checkpoint,
            pack=pack,
            seq_len=seq_len,
            num_blocks=options.num_blocks or regime.blocks_for(seq_len),
            primary=is_primary(regime, pack, seq_len, any_seq_len=none_primary),
            seed=options.seed,
        )
        for checkpoint in checkpoints or {BASE: BASE}
        for pack in packs
        for seq_len in seq_lens
    )
    if not any(cell.primary for cell in cells):
        raise UserError(f"no primary cell is planned: regime {regime_name} decides on {regime.primary.packs}")
    if len({cell.id for cell in cells}) < len(cells):
        raise UserError("checkpoint and pack names give the same test id twice: rename a checkpoint's directory")
    v1 = gates.policies.get(V1)
    if v1 is not None and not isinstance(v1, PointPolicy):
        raise UserError(f"policy {V1} of {options.gates} must be a rule on point estimates: it is the origin's")
    v2 = gates.policies.get(V2)
    return Plan(
        options=options,
        policy_name=policy_name,
        policy=policy,
        v1=v1,
        v2=v2 if isinstance(v2, IntervalPolicy) else None,
        regime_name=regime_name,
        regime=regime,
        checkpoints=checkpoints,
        cells=cells,
        needs=needs,
        profiling_groups=groups,
        rows_unknown=frozenset(unknown),
        gates_sha256=sha256_file(options.gates),
        packs=options.packs or fixture_packs,
        yardsticks=yardsticks,
        turns=turns,
        turn_tokens=options.generate_tokens or regime.generate_tokens,
        turn_packs=tuple(available) if turns and checkpoints else (),
    )


def _turns(
    options: GateOptions, policy_name: str, policy: PointPolicy | IntervalPolicy, regime: Regime, needs: Needs
) -> int:
    """Of every pack. Raises UserError where turns were asked for that nothing judges, or nobody writes; where only the
    regime does, there are none."""
    judged = isinstance(policy, IntervalPolicy) and policy.behaviour is not None
    if options.generate is None:
        return regime.generate if judged and needs.writes else 0
    if options.generate < 0:
        raise UserError(f"--generate is {options.generate}: it must be at least 0")
    if options.generate and not judged:
        raise UserError(f"--generate needs a policy with a block behaviour: {policy_name} has none")
    if options.generate and not needs.writes:
        raise UserError(f"--generate needs a collector that writes: {options.collector} scores only")
    return options.generate


def _needs(options: GateOptions) -> Needs:
    kinds = collector_kinds()
    if options.collector not in kinds:
        raise UserError(
            f"--collector is {options.collector!r}: it must be one of {listed(kinds, meant=options.collector)}"
        )
    for option in (f"--{name.replace('_', '-')}" for name in options.of_collector):
        owners = [name for name, kind in kinds.items() if option in options_of(kind)]
        if options.collector not in owners:
            raise UserError(f"{option} is for --collector={' or '.join(owners)}")
    return kinds[options.collector].needs(options.given_to_collector)


def local_yardsticks(checkpoints: Mapping[str, str]) -> dict[str, int]:
    """Of those that are directories, by name; one that is damaged is for the checkpoint's own cases to report."""
    found = {}
    for name, source in checkpoints.items():
        with suppress(UserError, OSError):
            if record := own_yardstick(Path(source)):
                found[name] = record.bits
    return found


def _short_names(given: tuple[str, ...]) -> dict[str, str]:
    """Directory or repository names; equal ones get a number, as do the reserved names."""
    names: dict[str, str] = {}
    for source in dict.fromkeys(given):
        name = Path(source).resolve().name if Path(source).exists() else source.split("@")[0].split("/")[-1]
        numbered = (name, *(f"{name}-{number}" for number in range(2, len(given) + 4)))
        free = next(candidate for candidate in numbered if candidate not in (BASE, NOOP, RERUN, BATCH, ULP, *names))
        names[free] = source
    return names
