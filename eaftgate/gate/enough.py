"""Whether packs hold enough for a gate run to decide, before anything is scored.

What a rule rests on (documents, messages, blocks) lies in the packs; only what a model makes of them does not. So
every cell is judged here as if the base had written every message just as it stands: its evidence is the most there
can be. What is lacking even then is lacking for sure.

Shapes: B blocks, S tokens a block, T scored tokens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from eaftgate.checkpoint.source import resolve
from eaftgate.collect.collection import TokenStats, make_collection
from eaftgate.errors import UserError
from eaftgate.gate.cells import Cell
from eaftgate.gate.plan import Plan
from eaftgate.gate.room import with_room
from eaftgate.judge.metrics import METRICS, Metric
from eaftgate.judge.policy import IntervalPolicy
from eaftgate.judge.verdict import lacking
from eaftgate.packs.blocks import Blocks, TokenisedPack, cut_blocks, tokenised
from eaftgate.packs.harmony import TokenClass
from eaftgate.packs.pack import UNION, named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.clusters import Evidence
from eaftgate.parity.estimates import Measured, PairedCell
from eaftgate.parity.js2d import Bins
from eaftgate.parity.messages import paired_messages
from eaftgate.parity.metrics import Thresholds
from eaftgate.parity.paired import PairedTokens, pair
from eaftgate.progress import progress_bar

CONTENT = "content tokens"
_IMPOSSIBLE = -100.0
"""Nats: the second choice of a model that is sure of its first."""
_STEP = 1.02
"""A number of blocks that was not enough, though it was to be, is raised by so much at least."""


@dataclass(frozen=True)
class RuleEvidence:
    """What a rule of a cell has. `decides`: it is to make the verdict there; `lacks` says in words why it cannot, and
    `blocks_needed` how many blocks would do, where these have something of it. `events`: at best."""

    metric: str
    decides: bool
    documents: int
    effective_documents: float
    events: int | None
    lacks: str
    blocks_needed: int | None


@dataclass(frozen=True)
class CellEvidence:
    """A pack at a length. `blocks` are there, of which `num_blocks` are to be scored. `classes` counts tokens; `calls`
    and `finals` are the messages that are scored whole. `problem` says why the gate cannot score the cell."""

    pack: str
    seq_len: int
    primary: bool
    num_blocks: int
    blocks: int
    more_rows: int
    documents: int
    effective_documents: float
    classes: Mapping[str, int]
    calls: int
    finals: int
    rules: tuple[RuleEvidence, ...]
    problem: str = ""


@dataclass(frozen=True)
class Remedy:
    """What would make it enough: `num_blocks` for every pack and length, of which `at_best` would do if the base writes
    every message exactly; and `more_rows`, by pack, where it has not so many blocks. `num_blocks` is None where these
    packs cannot tell."""

    num_blocks: int | None
    at_best: int | None
    more_rows: Mapping[str, int]


@dataclass(frozen=True)
class Enough:
    """`problems`: one sentence for everything that keeps a run from deciding, whatever its candidate. `open`: what only
    scoring the base can tell."""

    regime: str
    policy: str
    cells: tuple[CellEvidence, ...]
    problems: tuple[str, ...]
    open: tuple[str, ...]
    remedy: Remedy | None = None
    """None where there is no problem."""


def is_enough(plan: Plan, base: str) -> Enough:
    """`plan` is of the base alone, on the packs in question. Raises UserError for what cannot be read."""
    options = plan.options
    assert options.packs is not None
    tokenizer = load_tokenizer(resolve(base, weights=False))
    packs = named_packs(options.packs, seed=options.seed)
    with progress_bar("check", len(plan.cells), unit="cells", resumes=False) as bar:
        rows = {
            name: tokenised(packs[name], tokenizer.backend, eos_id=tokenizer.eos_id)
            for name in dict.fromkeys(cell.pack for cell in plan.cells)
        }
        cells = []
        for cell in plan.cells:
            cells.append(_evidence(plan, cell, rows[cell.pack], cell.num_blocks))
            bar.advance(1)
    problems = _problems(plan, cells)
    remedy = _remedy(plan, rows, cells) if problems else None
    return Enough(plan.regime_name, plan.policy_name, tuple(cells), problems, _open(plan, cells), remedy)


def _evidence(plan: Plan, cell: Cell, rows: TokenisedPack, num_blocks: int) -> CellEvidence:
    """Of the first `num_blocks`, which need not be as many as the cell's."""
    available = rows.num_tokens // cell.seq_len
    missing = num_blocks - available
    try:
        blocks = cut_blocks(rows, seq_len=cell.seq_len, num_blocks=min(num_blocks, available))
    except UserError as error:
        return _nothing(cell, str(error))
    tokens = as_written(blocks)
    content = tokens.content()
    if not len(content):
        return _nothing(cell, f"no token of pack {cell.pack} counts at {cell.seq_len}: rows need assistant messages")
    paired = PairedCell(content, tokens, Thresholds(p=1.0, h=0.0), Bins(1, 1), 0)
    kinds, counts = np.unique(tokens.roles.kind, return_counts=True)
    return CellEvidence(
        pack=cell.pack,
        seq_len=cell.seq_len,
        primary=cell.primary,
        num_blocks=num_blocks,
        blocks=available,
        more_rows=_rows_for(missing, cell.seq_len, rows),
        documents=paired.evidence.documents,
        effective_documents=round(paired.evidence.effective, 1),
        classes={
            TokenClass(kind).name.lower(): count for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True)
        },
        calls=len(paired_messages(tokens, TokenClass.CALL)),
        finals=len(paired_messages(tokens, TokenClass.FINAL)),
        rules=_rules(plan, cell, paired, blocks.num_blocks),
        problem="" if missing <= 0 else f"{available} of {num_blocks} blocks of {cell.seq_len}",
    )


def _nothing(cell: Cell, problem: str) -> CellEvidence:
    return CellEvidence(cell.pack, cell.seq_len, cell.primary, cell.num_blocks, 0, 0, 0, 0.0, {}, 0, 0, (), problem)


def as_written(blocks: Blocks) -> PairedTokens:
    """The scored tokens of `blocks` under two models of which each is sure of every token."""
    token_T = blocks.token_ids_BS[blocks.scored_BS]
    sure_T = np.zeros(len(token_T), np.float32)
    stats = TokenStats(
        logprob_T=sure_T,
        entropy_T=sure_T,
        top_ids_TK=np.column_stack([token_T, np.full_like(token_T, -1)]),
        top_logprobs_TK=np.column_stack([sure_T, np.full_like(sure_T, _IMPOSSIBLE)]),
    )
    written = make_collection(stats, blocks, {})
    return pair(written, written)


def _rules(plan: Plan, cell: Cell, paired: PairedCell, num_blocks: int) -> tuple[RuleEvidence, ...]:
    policy = plan.policy
    if not isinstance(policy, IntervalPolicy):
        return ()
    of_content = METRICS["ppl"].measure(paired)
    assert of_content is not None
    rules = []
    for name in policy.metrics:
        rule, metric = policy.rules[name], METRICS[name]
        if rule.margin is None:
            continue
        found = of_content if metric.over == CONTENT else metric.measure(paired)
        if found is None:  # nothing of it occurs
            continue
        if _counts_unseen(metric):  # as many as it takes: only the base can tell
            found = replace(found, base_events=rule.min_base_events)
        lacks, needed = ("", None)
        if policy.evidence is not None:
            lacks, needed = lacking(policy.evidence, rule, found, metric, num_blocks)
        rules.append(_rule(name, plan.decides(cell, name), found, metric, lacks, needed))
    return tuple(rules)


def _rule(name: str, decides: bool, found: Measured, metric: Metric, lacks: str, needed: int | None) -> RuleEvidence:
    evidence: Evidence = found.evidence
    events = None if _counts_unseen(metric) else found.base_events
    return RuleEvidence(name, decides, evidence.documents, round(evidence.effective, 1), events, lacks, needed)


def _counts_messages(metric: Metric) -> bool:
    """Whether it counts messages that the base writes exactly, of which the packs only say how many there are."""
    return metric.counts_events and metric.over != CONTENT


def _counts_unseen(metric: Metric) -> bool:
    """Whether it counts what a model does on content tokens, and not messages, which lie in the packs."""
    return metric.counts_events and metric.over == CONTENT


def _problems(plan: Plan, cells: list[CellEvidence]) -> tuple[str, ...]:
    found = []
    for cell in cells:
        if not cell.problem:
            continue
        more = f": it needs about {cell.more_rows:,} more rows" if cell.more_rows else ""
        found.append(
            f"{cell.pack} has {cell.problem}{more}" if more else f"{cell.pack} at {cell.seq_len}: {cell.problem}"
        )
    for cell, rule in _undecided(plan, cells):
        found.append(
            f"{rule.metric} can decide nowhere: {cell.pack} at {cell.seq_len} comes nearest with {rule.lacks}"
            f"{_needed(cell, rule)}"
        )
    for cell, rule in _silent(plan, cells):
        found.append(f"no rule can decide in {cell.pack} at {cell.seq_len}: {rule.metric} has {rule.lacks}")
    return tuple(found)


def _undecided(plan: Plan, cells: Sequence[CellEvidence]) -> list[tuple[CellEvidence, RuleEvidence]]:
    """The rules that must decide and can do so nowhere, each in the cell where it comes nearest."""
    found = []
    for metric in plan.must_decide:
        rules = [(cell, rule) for cell in cells for rule in cell.rules if rule.metric == metric and rule.decides]
        if rules and all(rule.lacks for _, rule in rules):
            found.append(min(rules, key=lambda both: both[1].blocks_needed or math.inf))
    return found


def _silent(plan: Plan, cells: Sequence[CellEvidence]) -> list[tuple[CellEvidence, RuleEvidence]]:
    """The deciding cells in which nothing can decide, each with the first of its rules."""
    found = []
    for planned, cell in zip(plan.cells, cells, strict=True):
        rules = [rule for rule in cell.rules if rule.decides]
        if plan.cell_decides(planned) and plan.may_be_silent and rules and all(rule.lacks for rule in rules):
            found.append((cell, rules[0]))
    return found


def _remedy(plan: Plan, rows: Mapping[str, TokenisedPack], cells: Sequence[CellEvidence]) -> Remedy:
    """The least that is enough, tried on the blocks that there are; beyond them it is an estimate."""
    held = min(cell.blocks for cell in cells)
    inexact = any(_counts_messages(METRICS[rule.metric]) for _, rule in _undecided(plan, cells))
    wanted = held if any(cell.num_blocks > cell.blocks for cell in cells) else _wanted(plan, cells)
    while wanted is not None and 0 < wanted <= held:
        cells = [_evidence(plan, cell, rows[cell.pack], wanted) for cell in plan.cells]
        if not (_undecided(plan, cells) or _silent(plan, cells)):
            return Remedy(with_room(wanted, held) if inexact else wanted, wanted, {})
        further = _wanted(plan, cells)
        wanted = None if further is None else max(further, math.ceil(wanted * _STEP))
    return Remedy(wanted or None, wanted or None, {} if wanted is None else _more_rows(plan, rows, wanted))


def _wanted(plan: Plan, cells: Sequence[CellEvidence]) -> int | None:
    """How many blocks would do for everything that cannot decide, as far as the evidence in `cells` can tell."""
    needed = [rule.blocks_needed for _, rule in _undecided(plan, cells)]
    for cell, _ in _silent(plan, cells):
        known = [rule.blocks_needed for rule in cell.rules if rule.decides and rule.blocks_needed is not None]
        needed.append(min(known, default=None))
    known = [blocks for blocks in needed if blocks is not None]
    return max(known) if known and len(known) == len(needed) else None


def _more_rows(plan: Plan, rows: Mapping[str, TokenisedPack], num_blocks: int) -> dict[str, int]:
    """By pack; UNION has what they have."""
    lengths = {cell.seq_len for cell in plan.cells}
    more = {
        name: max(_rows_for(num_blocks - pack.num_tokens // length, length, pack) for length in lengths)
        for name, pack in rows.items()
        if name != UNION
    }
    return {name: count for name, count in more.items() if count}


def _rows_for(blocks: int, seq_len: int, rows: TokenisedPack) -> int:
    """About how many rows make so many blocks more."""
    return math.ceil(max(0, blocks) * seq_len * len(rows.pack) / rows.num_tokens) if rows.num_tokens else 0


def _needed(cell: CellEvidence, rule: RuleEvidence) -> str:
    """At best: a base writes fewer messages exactly than there are."""
    if rule.blocks_needed is None:
        return ""
    blocks = f"; at best {rule.blocks_needed:,} blocks would do"
    return f"{blocks}, and {cell.blocks:,} are there" if rule.blocks_needed > cell.num_blocks else blocks


def _open(plan: Plan, cells: list[CellEvidence]) -> tuple[str, ...]:
    policy = plan.policy
    if not isinstance(policy, IntervalPolicy):
        return ()
    names = {rule.metric for cell in cells for rule in cell.rules if rule.decides}
    return tuple(
        f"{name} needs {policy.rules[name].min_base_events} {events.name}"
        for name in policy.metrics
        if name in names and policy.rules[name].min_base_events and (events := METRICS[name].events)
    )
