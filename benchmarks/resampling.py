"""How often near-lossless-v3 is wrong on real documents: rows drawn with replacement, blocks cut anew, the truth known.

    export PYTHONPATH=.
    python benchmarks/resampling.py collect MODEL PACKS --calibration PACKS --name NAME --out DIR --device cuda
    python benchmarks/resampling.py simulate DIR... --out docs/data --work FILE --processes N
    python benchmarks/resampling.py check DIR

`collect` scores every block of UNION under the base and under candidates that keep some experts or have rounded ones,
and keeps what each does to every token. `simulate` makes cells of these rows (documents.py), drawn from all of them or
from those of one pack, judges them with the functions of the product, and writes docs/data/resampling-*.json.

The truth is put on the margin: for a mean by scaling every document's differences, for exact messages by taking losses
back, or adding those of the candidate that loses most, document by document in random order, so that messages that are
lost together stay so (a new order every chunk of cells). What a cell finds is then a PASS by mistake. `check` holds the
short cuts taken here to the product's functions on tokens. The work file keeps every finished chunk: a run that was
ended goes on from there.
"""

import argparse
import json
import math
import multiprocessing
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.documents import (
    EXACT,
    MEANS,
    Candidate,
    Cell,
    Messages,
    Pool,
    Sums,
    cut,
    drawn,
    load_pool,
    messages_losing,
    of_root,
    times,
)
from benchmarks.resampling_tables import Where, write_tables
from eaftgate.judge.cell import plan_looks
from eaftgate.judge.metrics import METRICS, Metric
from eaftgate.judge.policy import IntervalPolicy, load_gates
from eaftgate.judge.verdict import MANY, MetricVerdict, decide, judge_intervals
from eaftgate.packs.harmony import TokenClass
from eaftgate.packs.pack import UNION
from eaftgate.parity.bounds import bounds, fixed_width, sequence_width
from eaftgate.parity.clusters import Estimate, Evidence, clustered_mean, clusters_by, evidence_of, jackknifed
from eaftgate.parity.estimates import Measured

BUDGETS = (32, 64, 128, 256, 512)
EXACT_BUDGETS = (128, 192, 256, 384, 512, 768, 1024)
FINE_BUDGETS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
CHUNKS = {"margin": 250, "exact": 250, "looks": 250, "several": 500, "needed": 100}
"""Cells of a job."""
CALLS = "tool_agentic"
"""The pack of calls."""
LONG = ((65_536, 16), (65_536, 64), (131_072, 8), (131_072, 32))
CELLS, MORE_CELLS = 2_000, 10_000
DOUBT = (0.055, 0.075)
"""Shares that get more cells."""
NORMAL = 1.6448536
"""Standard errors to a 95 % bound of a normal estimate: no bound of v3 is nearer."""
FEWEST_EXACT = 150
"""Of a population, below which losses cannot be put on a margin of 3 %."""
LEAST_LOSS = 0.2
"""Share of the margin that a candidate must lose in a class to be a case of one that loses there: scaled up by more,
the few documents that happen to lose anything carry all of it."""


# Verdicts


def policies() -> tuple[IntervalPolicy, IntervalPolicy]:
    """near-lossless-v3, and the same that asks for no evidence."""
    policy = load_gates().policies["near-lossless-v3"]
    assert isinstance(policy, IntervalPolicy)
    return policy, policy.model_copy(update={"evidence": None})


def with_margin(policy: IntervalPolicy, rule: str, margin: float) -> IntervalPolicy:
    known = policy.rules[rule]
    assert known.margin is not None
    threshold = known.margin.model_copy(update={"value": margin})
    return policy.model_copy(update={"rules": {rule: known.model_copy(update={"margin": threshold})}})


def judged(policy: IntervalPolicy, rule: str, found: Measured, num_blocks: int, width: Any) -> MetricVerdict:
    measured = {rule: found}
    return judge_intervals(
        policy,
        measured,
        num_blocks=num_blocks,
        width=width,
        budget=measured,
        budget_blocks=num_blocks,
        deciding=frozenset(measured),
        strict=False,
    )[rule]


def admitted(policy: IntervalPolicy, rule: str, evidence: Evidence, events: int | None, num_blocks: int) -> bool:
    found = Measured(Estimate(0.0, 0.0, 1), evidence, base_events=events)
    return not judged(policy, rule, found, num_blocks, lambda *_: 1.0).underpowered


@cache
def student(alpha: float) -> Callable[[Metric, float], float]:
    return lambda _, degrees_of_freedom: fixed_width(alpha, degrees_of_freedom)


def limit_of(policy: IntervalPolicy, rule: str) -> float:
    margin = policy.rules[rule].margin
    assert margin is not None
    return METRICS[rule].limit(margin.value)


def may_decide(estimate: Estimate, limit: float, least: float = NORMAL) -> bool:
    """Whether a bound of v3 can lie on this side of the limit: none is nearer than `least` standard errors."""
    return abs(estimate.value - limit) > least * estimate.standard_error


def verdict_v3(policy: IntervalPolicy, rule: str, estimate: Estimate, num_blocks: int, alpha: float) -> str:
    if not may_decide(estimate, limit_of(policy, rule)):
        return "inconclusive"
    nothing = Evidence(0, 0, 1)
    return judged(policy, rule, Measured(estimate, nothing), num_blocks, student(alpha)).verdict or ""


def passes_v2(rule: str, estimate: Estimate, limit: float, alpha: float) -> bool:
    lower, upper = bounds(estimate, _student_v2(alpha, estimate.degrees_of_freedom))
    return decide(lower, upper, limit, "worse", less_is_worse=METRICS[rule].less_is_worse) == "pass"


_student_v2 = cache(fixed_width)


# Jobs: a chunk of cells each


@dataclass(frozen=True)
class Setting:
    """Where cells are drawn: of all rows or those of one pack."""

    pool: str
    pack: str
    seq_len: int
    num_blocks: int


@dataclass(frozen=True)
class Job:
    """`asked`: pairs of candidate and rule, or all of them."""

    kind: str
    setting: Setting
    chunk: int
    asked: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        where = self.setting
        return f"{self.kind} {where.pool} {where.pack} {where.seq_len} {where.num_blocks} {self.chunk}"


POOLS: dict[str, tuple[Pool, list[Candidate]]] = {}
Counts = dict[str, Counter[str]]


class Population:
    """A pool's rows of one pack, or all, at one seq_len: what a candidate's differences must be multiplied by."""

    def __init__(self, setting: Setting) -> None:
        self.pool, self.candidates = POOLS[setting.pool]
        every = np.arange(len(self.pool.length_R))
        self.rows = every if setting.pack == UNION else every[self.pool.pack_R == self.pool.packs.index(setting.pack)]
        self.policy, self.unasked = policies()
        self.alpha = self.policy.alpha
        begin_R = self.pool.start_R[self.rows]
        end_R = begin_R + self.pool.length_R[self.rows]
        self.span_R = begin_R, end_R

    def mean(self, candidate: Candidate, rule: str) -> float:
        before = self.pool.before[rule]
        begin_R, end_R = (before[place] for place in self.span_R)
        count = int((end_R - begin_R).sum())
        if not count:
            return 0.0
        mean = float((candidate.sums[rule][end_R] - candidate.sums[rule][begin_R]).sum()) / count
        return math.sqrt(mean) if rule == "rms_dp" else mean

    def factor(self, candidate: Candidate, rule: str) -> float:
        """That puts the truth on the margin; 0 where the candidate loses next to nothing there."""
        share = self.mean(candidate, rule) / limit_of(self.policy, rule)
        return 1 / share if share >= LEAST_LOSS else 0.0

    def means(self, job: Job, rules: Sequence[str] = MEANS) -> "list[Means]":
        found = []
        for rule in rules:
            cases = [(one, factor) for one, name in self.pairs(job, (rule,)) if (factor := self.factor(one, name))]
            if cases:
                found.append(Means(rule, *zip(*cases, strict=True)))
        return found

    def exact(self, kind: TokenClass) -> int:
        return int((self.pool.exact_base_M & (self.pool.kind_M == kind) & np.isin(self.pool.row_M, self.rows)).sum())

    def losing(self, candidate: Candidate, rule: str, share: float, seq_len: int, seed: int) -> Messages:
        donor = min(self.candidates, key=lambda one: int(one.exact_M[self.pool.exact_base_M].sum()))
        rng = np.random.default_rng([seed, round(1e4 * share)])
        return messages_losing(self.pool, candidate, donor, EXACT[rule], self.rows, seq_len, share, rng)

    def exact_pairs(self, job: Job) -> list[tuple[Candidate, str]]:
        enough = [rule for rule, kind in EXACT.items() if self.exact(kind) >= FEWEST_EXACT]
        return self.pairs(job, enough)

    def cells(self, job: Job) -> Iterator[Cell]:
        where = job.setting
        rng = np.random.default_rng(
            [where.seq_len, where.num_blocks, job.chunk, *where.pool.encode(), *where.pack.encode()]
        )
        for _ in range(CHUNKS[job.kind]):
            yield drawn(self.pool, self.rows, rng, where.num_blocks, where.seq_len)

    def pairs(self, job: Job, rules: Sequence[str]) -> list[tuple[Candidate, str]]:
        named = {candidate.name: candidate for candidate in self.candidates}
        if job.asked:
            return [(named[name], rule) for name, rule in job.asked if rule in rules and name in named]
        return [(candidate, rule) for candidate in self.candidates for rule in rules]


@dataclass(frozen=True)
class Means:
    """The candidates that are cases of a rule, and what their differences are multiplied by."""

    rule: str
    candidates: tuple[Candidate, ...]
    factors: tuple[float, ...]

    def sums(self, cell: Cell) -> Sums | None:
        return Sums.of(cell, self.rule, self.candidates)

    def at_margin(self, estimates: Sequence[Estimate]) -> list[Estimate]:
        """With the truth on the margin."""
        if self.rule == "rms_dp":
            estimates = [of_root(one) for one in estimates]
        return [times(one, factor) for one, factor in zip(estimates, self.factors, strict=True)]


def margin_job(job: Job) -> Counts:
    """PASS where the truth is the margin, and power at half and twice of it."""
    population, where = Population(job.setting), job.setting
    policy, unasked, alpha = population.policy, population.unasked, population.alpha
    means = population.means(job)
    counts: Counts = defaultdict(Counter)
    for cell in population.cells(job):
        for case in means:
            rule, sums = case.rule, case.sums(cell)
            if sums is None:
                continue
            evidence, limit = sums.evidence, limit_of(policy, rule)
            may = admitted(policy, rule, evidence, None, where.num_blocks)
            estimates = zip(
                case.candidates, case.at_margin(sums.jackknifed()), case.at_margin(sums.clustered()), strict=True
            )
            for candidate, v3, v2 in estimates:
                count = counts[f"{candidate.name} {rule}"]
                _tally(count, evidence, None, may, verdict_v3(unasked, rule, v3, where.num_blocks, alpha))
                count["v2_pass"] += passes_v2(rule, v2, limit, alpha)
                if may:
                    count["half_pass"] += verdict_v3(unasked, rule, times(v3, 0.5), where.num_blocks, alpha) == "pass"
                    count["twice_fail"] += verdict_v3(unasked, rule, times(v3, 2), where.num_blocks, alpha) == "fail"
    return counts


def exact_job(job: Job) -> Counts:
    """The same for exact messages, which also lose a third of the margin here: 1 %."""
    population, where = Population(job.setting), job.setting
    policy, unasked, alpha = population.policy, population.unasked, population.alpha
    cases = []
    for candidate, rule in population.exact_pairs(job):
        limit = limit_of(policy, rule)
        at = {
            level: population.losing(candidate, rule, level * limit, where.seq_len, job.chunk)
            for level in (1 / 3, 0.5, 1.0, 2.0)
        }
        cases.append((candidate, rule, at, with_margin(unasked, rule, at[1.0].net_loss)))
    counts: Counts = defaultdict(Counter)
    for cell in population.cells(job):
        for candidate, rule, at, own in cases:
            found = at[1.0].measured(cell)
            if found is None:
                continue
            count = counts[f"{candidate.name} {rule}"]
            may = admitted(policy, rule, found.evidence, found.base_events, where.num_blocks)
            verdict = verdict_v3(own, rule, found.estimate, where.num_blocks, alpha)
            _tally(count, found.evidence, found.base_events, may, verdict)
            count["v2_pass"] += passes_v2(rule, at[1.0].clustered(cell), limit_of(own, rule), alpha)
            for level, name, asked in (
                (1 / 3, "third_pass", "pass"),
                (0.5, "half_pass", "pass"),
                (2.0, "twice_fail", "fail"),
            ):
                other = at[level].measured(cell) if may else None
                if other is not None:
                    count[name] += verdict_v3(unasked, rule, other.estimate, where.num_blocks, alpha) == asked
    return counts


def _tally(count: Counter[str], evidence: Evidence, events: int | None, may: bool, verdict: str) -> None:
    count["cells"] += 1
    count["documents"] += evidence.documents
    count["effective"] += round(evidence.effective)
    count["events"] += events or 0
    count["admitted"] += may
    count["pass"] += verdict == "pass"
    count["admitted_pass"] += may and verdict == "pass"


def looks_job(job: Job) -> Counts:
    """PASS at any look of --sequential where the truth is the margin."""
    population, where = Population(job.setting), job.setting
    policy, unasked = population.policy, population.unasked
    looks = plan_looks(policy.sequential, where.num_blocks)
    exact = []
    for candidate, rule in population.exact_pairs(job):
        messages = population.losing(candidate, rule, limit_of(policy, rule), where.seq_len, job.chunk)
        exact.append((candidate, rule, messages, with_margin(unasked, rule, messages.net_loss)))
    means = population.means(job)
    rules = {case.rule for case in means} | {rule for _, rule, *_ in exact}
    names = [(one.name, case.rule) for case in means for one in case.candidates]
    names += [(one.name, rule) for one, rule, *_ in exact]
    counts: Counts = defaultdict(Counter)
    for cell in population.cells(job):
        passed: set[tuple[str, str]] = set()
        left, known = set(rules), set[str]()
        for look in reversed(looks):  # the whole budget first: what it lacks, no look has
            head = cell.head(look.num_blocks)
            found = list(_at_look(head, means, exact, left, policy, unasked))
            may = {rule for _, rule, *_ in found}
            if look is looks[-1]:
                left, known = may, may
            for name, rule, own, measured in found:
                if (name, rule) not in passed and _passes_at(own, rule, measured, head.num_blocks, where.num_blocks):
                    passed.add((name, rule))
        for name, rule in names:
            count = counts[f"{name} {rule}"]
            count["cells"] += 1
            count["admitted"] += rule in known
            count["admitted_pass"] += (name, rule) in passed
    return counts


def _at_look(
    head: Cell,
    means: "Sequence[Means]",
    exact: Sequence[tuple[Candidate, str, Messages, IntervalPolicy]],
    rules: Set[str],
    policy: IntervalPolicy,
    unasked: IntervalPolicy,
) -> Iterator[tuple[str, str, IntervalPolicy, Measured]]:
    """(candidate, rule, policy to judge by, what was found) of the rules that may decide."""
    for case in means:
        evidence = head.evidence(case.rule) if case.rule in rules else None
        if evidence is None or not admitted(policy, case.rule, evidence, None, head.num_blocks):
            continue
        sums = case.sums(head)
        assert sums is not None
        for candidate, estimate in zip(case.candidates, case.at_margin(sums.jackknifed()), strict=True):
            yield candidate.name, case.rule, unasked, Measured(estimate, evidence)
    for candidate, rule, messages, own in exact:
        found = messages.measured(head) if rule in rules else None
        if found is not None and admitted(policy, rule, found.evidence, found.base_events, head.num_blocks):
            yield candidate.name, rule, own, found


def _passes_at(policy: IntervalPolicy, rule: str, found: Measured, num_blocks: int, budget: int) -> bool:
    share = num_blocks / budget
    if not may_decide(found.estimate, limit_of(policy, rule), _least_width(policy.alpha, share)):
        return False

    def width(_: Metric, degrees_of_freedom: float) -> float:
        return sequence_width(policy.alpha, degrees_of_freedom, share)

    return judged(policy, rule, found, num_blocks, width).verdict == "pass"


@cache
def _least_width(alpha: float, share: float) -> float:
    """Of a sequence whose standard error is known."""
    return sequence_width(alpha, MANY, share)


def several_job(job: Job) -> Counts:
    """How often one of several candidates passes by ppl, all with the truth on the margin: over all choices of k."""
    population, where = Population(job.setting), job.setting
    (case,) = population.means(job, ("ppl",))
    candidates = len(case.candidates)
    counts: Counts = defaultdict(Counter)
    for cell in population.cells(job):
        sums = case.sums(cell)
        assert sums is not None
        found = case.at_margin(sums.jackknifed())
        may = admitted(population.policy, "ppl", sums.evidence, None, where.num_blocks)
        for k in (1, 2, 4, 8):
            for name, alpha in (("alpha", population.alpha), ("alpha/k", population.alpha / k)):
                passed = sum(
                    verdict_v3(population.unasked, "ppl", one, where.num_blocks, alpha) == "pass" for one in found
                )
                if k > candidates:
                    continue
                # That none of k drawn from all candidates is one of those that passed.
                none = math.comb(candidates - passed, k) / math.comb(candidates, k)
                count = counts[f"{k} {name}"]
                count["cells"] += 1
                count["admitted"] += may
                count["millionths"] += round(1e6 * (1 - none))
                count["admitted_millionths"] += round(1e6 * (1 - none)) * may
    return counts


LEVELS, EXACT_LEVELS = (0.5, 0.75, 1.25, 2.0), (1 / 3, 0.5, 2.0)
SMALL_BUDGETS = (64, 128)


def needed_job(job: Job) -> Counts:
    """The verdict at shares of the margin, and the blocks that an inconclusive cell says would decide it."""
    population, where = Population(job.setting), job.setting
    unasked, alpha = population.unasked, population.alpha
    counts: Counts = defaultdict(Counter)
    exact = [
        (one, rule, level, population.losing(one, rule, level * limit_of(unasked, rule), where.seq_len, job.chunk))
        for one, rule in population.exact_pairs(job)
        for level in EXACT_LEVELS
    ]
    means = population.means(job, ("ppl", "nll_call"))

    def count_verdict(case: str, rule: str, found: Measured) -> None:
        verdict = judged(unasked, rule, found, where.num_blocks, student(alpha))
        count = counts[case]
        count["cells"] += 1
        count["events"] += found.base_events or 0
        count[str(verdict.verdict)] += 1
        open_ = verdict.verdict == "inconclusive" and not verdict.underpowered
        if where.num_blocks in SMALL_BUDGETS and open_:
            count[f"needs {verdict.blocks_needed or 0}"] += 1

    for cell in population.cells(job):
        for case in means:
            sums = case.sums(cell)
            if sums is None:
                continue
            for candidate, estimate in zip(case.candidates, case.at_margin(sums.jackknifed()), strict=True):
                for level in LEVELS:
                    found = Measured(times(estimate, level), sums.evidence)
                    count_verdict(f"{candidate.name} {case.rule} {level:.4g}", case.rule, found)
        for candidate, rule, level, messages in exact:
            found_messages = messages.measured(cell)
            if found_messages is not None:
                count_verdict(f"{candidate.name} {rule} {level:.4g}", rule, found_messages)
    return counts


KINDS = {"margin": margin_job, "exact": exact_job, "looks": looks_job, "several": several_job, "needed": needed_job}


def _run(job: Job) -> tuple[str, Counts]:
    return job.key, KINDS[job.kind](job)


def finished(jobs: Sequence[Job], work: Path, processes: int) -> dict[str, Counts]:
    """The counts of every job, by key; those that the work file has are not run again."""
    done: dict[str, Counts] = {}
    if work.exists():
        for line in work.read_text(encoding="utf-8").splitlines():
            key, counts = json.loads(line)
            done[key] = {case: Counter(count) for case, count in counts.items()}
    left = [job for job in jobs if job.key not in done]
    started = time.perf_counter()
    with multiprocessing.get_context("fork").Pool(processes) as pool, work.open("a", encoding="utf-8") as file:
        for number, (key, counts) in enumerate(pool.imap_unordered(_run, left), 1):
            done[key] = counts
            print(json.dumps([key, counts]), file=file, flush=True)
            print(f"{number} of {len(left)}, {time.perf_counter() - started:.0f} s: {key}", flush=True)
    return {job.key: done[job.key] for job in jobs}


def run_check(pool: Pool, candidates: Sequence[Candidate]) -> None:
    """Raises AssertionError where a cell of pieces is not what the product makes of its tokens."""
    seq_len, every = pool.seq_len, np.arange(len(pool.length_R))
    whole = cut(pool, every, int(pool.length_R.sum()) // seq_len, seq_len)
    for rule, before in pool.before.items():
        begin_X, end_X = whole.pieces(rule)
        assert (end_X - begin_X).sum() == before[whole.num_blocks * seq_len], f"{rule}: rows in order lack tokens"
    assert len(whole.number_M) >= len(pool.row_M) - 2, "rows in order lack messages"
    rng = np.random.default_rng(0)
    num_blocks, seq_len = 24, seq_len // 2
    for _ in range(20):
        row_D = rng.integers(0, len(every), num_blocks * seq_len)
        cell = cut(pool, row_D, num_blocks, seq_len)
        laid = [np.arange(pool.start_R[row], pool.start_R[row] + pool.length_R[row]) for row in row_D[:2000]]
        place_N = np.concatenate(laid)[: num_blocks * seq_len]
        for rule in MEANS:
            begin_X, end_X = cell.pieces(rule)
            count_X = end_X - begin_X
            piece_T = np.repeat(np.arange(len(count_X)), count_X)
            token_T = np.concatenate([np.arange(*span) for span in zip(begin_X, end_X, strict=True)]).astype(np.int64)
            there_N = np.diff(pool.before[rule])[place_N].astype(bool) & (np.arange(len(place_N)) % seq_len > 0)
            assert np.array_equal(np.flatnonzero(np.diff(pool.before[rule]))[token_T], place_N[there_N])
            assert np.array_equal(cell.block_X[piece_T], np.flatnonzero(there_N) // seq_len)
            documents, blocks = clusters_by(cell.row_X[piece_T]), clusters_by(cell.block_X[piece_T])
            sums = Sums.of(cell, rule, candidates)
            if sums is None:
                assert not len(token_T)
                continue
            one, other = sums.evidence, evidence_of(np.ones(len(token_T)), documents)
            assert one.documents == other.documents
            assert math.isclose(one.effective, other.effective)
            for candidate, v3, v2 in zip(candidates, sums.jackknifed(), sums.clustered(), strict=True):
                value_T = np.diff(candidate.sums[rule])[token_T]
                _assert_near(v3, jackknifed(value_T, (documents, blocks)))
                _assert_near(v2, clustered_mean(value_T, (documents, blocks)))
    print(f"{pool.name}: as the product's own figures")


def _assert_near(found: Estimate, wanted: Estimate) -> None:
    names = ("value", "standard_error", "degrees_of_freedom", "skewness", "num_clusters")
    pairs = [(getattr(found, name), getattr(wanted, name)) for name in names]
    assert all(math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9) for one, other in pairs), (found, wanted)


# Commands


def settings_of(pool: Pool, packs: Sequence[str], budgets: Sequence[int]) -> list[Setting]:
    return [Setting(pool.name, pack, pool.seq_len, blocks) for pack in packs for blocks in budgets]


def margin_jobs(pools: Sequence[Pool]) -> list[Job]:
    """Of exact messages, too, where the budget may have enough of them."""
    settings: list[Setting] = []
    for pool in pools:
        settings += settings_of(pool, (UNION, CALLS), BUDGETS)
        if pool.seq_len == 512:  # the embedded checkpoint, which is judged at 256, too
            settings += [Setting(pool.name, pack, 256, 256) for pack in (UNION, CALLS)]
        else:
            settings += [Setting(pool.name, UNION, *shape) for shape in LONG]
    exact = [where for pool in pools for where in settings_of(pool, (CALLS,), EXACT_BUDGETS)]
    exact += [where for pool in pools for where in settings_of(pool, (UNION,), EXACT_BUDGETS[4:])]
    exact += [where for where in settings if where.seq_len == 256]  # the embedded checkpoint's other length
    jobs = [("exact", where) for where in exact] + [("margin", where) for where in settings]
    return [Job(kind, where, chunk) for kind, where in jobs for chunk in range(CELLS // CHUNKS[kind])]


def doubtful_jobs(jobs: Sequence[Job], done: Mapping[str, Counts]) -> list[Job]:
    """More cells for what lies near the limit."""
    more = []
    for kind, where in dict.fromkeys((job.kind, job.setting) for job in jobs):
        counts = added(done[job.key] for job in jobs if (job.kind, job.setting) == (kind, where))
        asked = [case for case, count in counts.items() if in_doubt(count)]
        pairs = tuple((name, rule) for name, _, rule in (case.partition(" ") for case in asked))
        if pairs:
            chunks = range(CELLS // CHUNKS[kind], MORE_CELLS // CHUNKS[kind])
            more += [Job(kind, where, chunk, pairs) for chunk in chunks]
    return more


def in_doubt(count: Counter[str]) -> bool:
    shares = [count["pass"] / count["cells"], count["admitted_pass"] / max(1, count["admitted"])]
    return count["admitted"] > 0 and any(DOUBT[0] <= share <= DOUBT[1] for share in shares)


def added(parts: Iterable[Counts]) -> Counts:
    counts: Counts = defaultdict(Counter)
    for part in parts:
        for case, count in part.items():
            counts[case].update(count)
    return counts


def simulate(given: argparse.Namespace) -> None:
    for directory in given.directories:
        pool, candidates = load_pool(directory)
        POOLS[pool.name] = pool, candidates
    pools = [pool for pool, _ in POOLS.values()]
    first = margin_jobs(pools)
    other = [
        *(Job("several", w, c) for p in pools for w in settings_of(p, (UNION,), (128, 512)) for c in range(4)),
        *(Job("needed", w, c) for p in pools for w in settings_of(p, (UNION, CALLS), FINE_BUDGETS) for c in range(2)),
        *(Job("looks", w, c) for p in pools for w in settings_of(p, (UNION,), (128, 256, 512)) for c in range(8)),
        *(Job("looks", w, c) for p in pools for w in settings_of(p, (CALLS,), (256, 512)) for c in range(8)),
    ]
    jobs = [*first, *other]
    done = finished(jobs, given.work, given.processes)
    _write(given.out, jobs, done)
    jobs += doubtful_jobs(first, done)
    _write(given.out, jobs, finished(jobs, given.work, given.processes))


def _write(out: Path, jobs: Sequence[Job], done: Mapping[str, Counts]) -> None:
    parts: dict[tuple[str, Where], list[Counts]] = defaultdict(list)
    for job in jobs:
        where = job.setting
        parts[job.kind, (where.pool, where.pack, where.seq_len, where.num_blocks)].append(done[job.key])
    found: dict[str, dict[Where, Counts]] = defaultdict(dict)
    for (kind, place), counts in parts.items():
        found[kind][place] = added(counts)
    write_tables(out, found, BUDGETS, MEANS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("simulate", "check"):
        command = commands.add_parser(name)
        command.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="what collect wrote")
        if name == "simulate":
            command.add_argument("--out", type=Path, default=Path("docs/data"))
            command.add_argument("--work", type=Path, required=True, help="where finished chunks are kept")
            command.add_argument("--processes", type=int, default=1)
    command = commands.add_parser("collect")
    command.add_argument("model", type=Path)
    command.add_argument("packs", type=Path, help="whose every row is scored")
    command.add_argument("--calibration", type=Path, required=True, help="packs that candidates are chosen on")
    command.add_argument("--name", required=True, help="of the pool")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--methods", nargs="+", default=["eaft-reap", "reap-mass"])
    command.add_argument("--keep", type=int, nargs="+", default=[28, 24, 20])
    command.add_argument("--bits", type=int, nargs="*", default=[4, 3])
    command.add_argument("--rows", type=int, help="of the calibration packs")
    command.add_argument("--seq-len", type=int, default=1024)
    command.add_argument("--num-blocks", type=int, help="default: all there are")
    command.add_argument("--batch-size", type=int, default=16)
    command.add_argument("--device")
    command.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    if given.command == "collect":
        from benchmarks.masked_documents import collect  # torch is not needed to simulate

        collect(given)
    elif given.command == "check":
        for directory in given.directories:
            run_check(*load_pool(directory))
    else:
        simulate(given)


if __name__ == "__main__":
    main()
