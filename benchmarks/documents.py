"""Rows of real documents with what candidates do to their tokens, and cells made of them anew. Pure NumPy.

A cell's rows are drawn from a pool with replacement, laid one after the other and cut into blocks. Tokens that fall on
the first place of a block are not scored, and messages that a block's edge cuts are not eligible, as in a run. What a
rule looks at is summed beforehand, so that a cell costs its pieces and not its tokens.

Shapes: R rows, N tokens of all rows, T scored tokens, M messages, D rows drawn, X pieces of rows within a block, C
clusters, K candidates.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eaftgate.packs.harmony import TokenClass
from eaftgate.parity.clusters import Estimate, Evidence, clustered, clusters_by, evidence_of, jackknifed
from eaftgate.parity.estimates import Measured

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CLASSES = {
    "nll_header": TokenClass.HEADER,
    "nll_call": TokenClass.CALL,
    "nll_final": TokenClass.FINAL,
    "nll_analysis": TokenClass.ANALYSIS,
    "nll_close": TokenClass.CLOSE,
}
CONTENT = ("ppl", "mean_p", "rms_dp")
MEANS = (*CONTENT, *CLASSES)
EXACT = {"exact_calls": TokenClass.CALL, "exact_finals": TokenClass.FINAL}


# Documents


@dataclass(frozen=True)
class Pool:
    """Rows of packs with what their scored tokens are. `before[rule]`, [N + 1], counts a rule's tokens before a place
    of the concatenated rows. Messages are those that were scored whole; `first_M` and `last_M` are places within a row.
    """

    name: str
    seq_len: int
    packs: tuple[str, ...]
    length_R: IntArray
    pack_R: NDArray[np.uint8]
    before: Mapping[str, NDArray[np.int32]]
    row_M: IntArray
    first_M: IntArray
    last_M: IntArray
    kind_M: NDArray[np.uint8]
    exact_base_M: NDArray[np.bool_]

    @cached_property
    def start_R(self) -> IntArray:
        return np.concatenate([[0], np.cumsum(self.length_R)[:-1]])

    @cached_property
    def begin_R(self) -> IntArray:
        """The first of every row's messages, and the end of the last's: [R + 1]."""
        return np.searchsorted(self.row_M, np.arange(len(self.length_R) + 1))


@dataclass(frozen=True)
class Candidate:
    """`sums[rule]`: sums of a rule's differences over its tokens before one, [tokens of the rule + 1]."""

    name: str
    sums: Mapping[str, FloatArray]
    exact_M: NDArray[np.bool_]


def load_pool(directory: Path) -> tuple[Pool, list[Candidate]]:
    """What `collect` wrote."""
    (path,) = directory.glob("*-base.npz")
    name = path.name.removesuffix("-base.npz")
    base = np.load(path)
    length_R = base["lens"].astype(np.int64)
    row_T, offset_T, kind_T, whole_T = (base[key].astype(np.int64) for key in ("row", "offset", "kind", "whole"))
    start_R = np.concatenate([[0], np.cumsum(length_R)[:-1]])
    place_T = start_R[row_T] + offset_T
    chosen = {rule: kind_T == kind for rule, kind in CLASSES.items()}
    chosen |= dict.fromkeys(CONTENT, base["content"])
    before = {rule: _before(place_T[chosen[rule]], int(length_R.sum())) for rule in ("ppl", *CLASSES)}
    before |= dict.fromkeys(CONTENT, before["ppl"])
    in_T = whole_T >= 0
    _, first_M, label_T = np.unique(whole_T[in_T], return_index=True, return_inverse=True)
    last_M = np.searchsorted(label_T, np.arange(len(first_M)), side="right") - 1
    kind_M = np.zeros(len(first_M), np.uint8)
    content_T = np.isin(kind_T[in_T], (TokenClass.HEADER, TokenClass.CLOSE), invert=True)
    kind_M[label_T[content_T]] = kind_T[in_T][content_T]

    def exact(first_T: NDArray[np.bool_]) -> NDArray[np.bool_]:
        missed_M: NDArray[np.bool_] = np.bincount(label_T, weights=~first_T[in_T]) == 0
        return missed_M

    pool = Pool(
        name=name,
        seq_len=int(base["seq_len"]),
        packs=tuple(base["packs"].tolist()),
        length_R=length_R,
        pack_R=base["pack"],
        before=before,
        row_M=row_T[in_T][first_M],
        first_M=offset_T[in_T][first_M],
        last_M=offset_T[in_T][last_M],
        kind_M=kind_M,
        exact_base_M=exact(base["first"]),
    )
    p_T = base["p"].astype(np.float64)
    candidates = []
    for path in sorted(directory.glob(f"{name}-*.npz")):
        if path.name == f"{name}-base.npz":
            continue
        found = np.load(path)
        delta_T = found["d"].astype(np.float64)
        dp_T = np.minimum(p_T * np.exp(-delta_T), 1) - p_T
        value = {rule: delta_T[chosen[rule]] for rule in ("ppl", *CLASSES)}
        value |= {"mean_p": dp_T[chosen["mean_p"]], "rms_dp": dp_T[chosen["rms_dp"]] ** 2}
        sums = {rule: np.concatenate([[0.0], np.cumsum(value_T)]) for rule, value_T in value.items()}
        candidates.append(Candidate(path.name[len(name) + 1 : -4], sums, exact(found["first"])))
    return pool, candidates


def _before(place_T: IntArray, tokens: int) -> NDArray[np.int32]:
    there_N = np.zeros(tokens + 1, np.int32)
    there_N[place_T + 1] = 1
    return np.cumsum(there_N, dtype=np.int32)


# Cells


@dataclass(frozen=True)
class Cell:
    """Rows drawn, laid one after the other and cut into blocks. A piece is what a block has of a row: its scored tokens
    are those from `begin_X` to `end_X` of the pool. Messages are those that lie in one block, by number."""

    pool: Pool
    num_blocks: int
    row_X: IntArray
    block_X: IntArray
    begin_X: IntArray
    end_X: IntArray
    number_M: IntArray
    row_M: IntArray
    block_M: IntArray

    def pieces(self, rule: str) -> tuple[IntArray, IntArray]:
        """Where a rule's tokens of a piece begin and end among all of the rule's."""
        before = self.pool.before[rule]
        return before[self.begin_X].astype(np.int64), before[self.end_X].astype(np.int64)

    @cached_property
    def first_places(self) -> tuple[IntArray, IntArray]:
        """Where every row begins among the pieces, and every block."""
        row_X, block_X = (np.flatnonzero(np.diff(label_X, prepend=-1)) for label_X in (self.row_X, self.block_X))
        return row_X, block_X

    def evidence(self, rule: str) -> Evidence | None:
        """What a rule of means rests on; None where there are none of its tokens."""
        begin_X, end_X = self.pieces(rule)
        count_C = np.add.reduceat(end_X - begin_X, self.first_places[0])
        return evidence_of(count_C, clusters_by(np.arange(len(count_C)))) if count_C.any() else None

    def head(self, num_blocks: int) -> "Cell":
        """Its first blocks."""
        pieces, messages = (int(np.searchsorted(block, num_blocks)) for block in (self.block_X, self.block_M))
        return Cell(
            self.pool,
            num_blocks,
            *(column[:pieces] for column in (self.row_X, self.block_X, self.begin_X, self.end_X)),
            *(column[:messages] for column in (self.number_M, self.row_M, self.block_M)),
        )


def cut(pool: Pool, row_D: IntArray, num_blocks: int, seq_len: int) -> Cell:
    """The rows `row_D`, in this order, must have enough tokens."""
    total = num_blocks * seq_len
    end_D = np.cumsum(pool.length_R[row_D])
    row_D = row_D[: int(np.searchsorted(end_D, total)) + 1]
    start_D = end_D[: len(row_D)] - pool.length_R[row_D]
    at_X = np.union1d(start_D, np.arange(0, total, seq_len))
    row_X = np.searchsorted(start_D, at_X, side="right") - 1
    until_X = np.append(at_X[1:], total)
    shift_X = pool.start_R[row_D[row_X]] - start_D[row_X]
    count_D = (pool.begin_R[1:] - pool.begin_R[:-1])[row_D]
    drawn_M = np.repeat(np.arange(len(row_D)), count_D)
    number_M = np.arange(len(drawn_M)) - np.repeat(np.cumsum(count_D) - count_D, count_D) + pool.begin_R[row_D][drawn_M]
    first_M, last_M = (start_D[drawn_M] + place[number_M] for place in (pool.first_M, pool.last_M))
    whole_M = (first_M % seq_len != 0) & (first_M // seq_len == last_M // seq_len) & (last_M < total)
    return Cell(
        pool=pool,
        num_blocks=num_blocks,
        row_X=row_X,
        block_X=at_X // seq_len,
        begin_X=at_X + shift_X + (at_X % seq_len == 0),
        end_X=until_X + shift_X,
        number_M=number_M[whole_M],
        row_M=drawn_M[whole_M],
        block_M=(first_M // seq_len)[whole_M],
    )


def drawn(pool: Pool, rows: IntArray, rng: np.random.Generator, num_blocks: int, seq_len: int) -> Cell:
    """A cell of rows drawn from `rows` with replacement."""
    total = num_blocks * seq_len
    count = int(1.3 * total / pool.length_R[rows].mean()) + 20
    while True:
        row_D = rows[rng.integers(0, len(rows), count)]
        if pool.length_R[row_D].sum() >= total:
            return cut(pool, row_D, num_blocks, seq_len)
        count *= 2


# Statistics of a cell, of several candidates at once. A piece stands for its tokens: sums over clusters are all that a
# standard error sees of them. `check` of resampling.py holds both to the product's functions on tokens.


@dataclass(frozen=True)
class Sums:
    """A rule's sums over the cell's documents and blocks: `value_KC` and `count_C` of either, clusters without a token
    of it left out."""

    clusters: Sequence[tuple[FloatArray, FloatArray]]

    @classmethod
    def of(cls, cell: Cell, rule: str, candidates: Sequence[Candidate]) -> "Sums | None":
        """None where the cell has none of the rule's tokens."""
        begin_X, end_X = cell.pieces(rule)
        count_X = (end_X - begin_X).astype(np.float64)
        if not count_X.any():
            return None
        value_KX = np.stack([one.sums[rule][end_X] - one.sums[rule][begin_X] for one in candidates])
        return cls([_summed(value_KX, count_X, first_C) for first_C in cell.first_places])

    @property
    def value_K(self) -> FloatArray:
        value_KC, count_C = self.clusters[0]
        mean_K: FloatArray = value_KC.sum(axis=1) / count_C.sum()
        return mean_K

    @property
    def evidence(self) -> Evidence:
        count_C = self.clusters[0][1]
        return evidence_of(count_C, clusters_by(np.arange(len(count_C))))

    def jackknifed(self) -> list[Estimate]:
        """`parity.clusters.jackknifed` of the tokens."""
        value_K, found = self.value_K, []
        for value_KC, count_C in self.clusters:
            total_K, weight, count = value_KC.sum(axis=1), count_C.sum(), len(count_C)
            if count == 1:
                return [Estimate(float(value), math.inf, 0, clusters=1) for value in value_K]
            deviation_KC = value_K[:, None] - (total_K[:, None] - value_KC) / (weight - count_C)
            place_K = np.abs(deviation_KC).argmax(axis=1)
            farthest_K1 = np.take_along_axis(deviation_KC, place_K[:, None], axis=1)
            squares_K, skewness_K = _moments(np.hstack([deviation_KC, farthest_K1, farthest_K1]), count)
            degrees = min(weight**2 / float(count_C @ count_C), count) - 1
            error_K = np.sqrt((count - 1) / count * squares_K)
            rows = _rows(value_K, error_K, skewness_K)
            found.append([Estimate(value, error, degrees, skew, count) for value, error, skew in rows])
        return _larger(found)

    def clustered(self) -> list[Estimate]:
        """`parity.clusters.clustered` of the tokens, as v2 has it."""
        value_K, found = self.value_K, []
        for value_KC, count_C in self.clusters:
            tokens, count = count_C.sum(), len(count_C)
            if count == 1:
                return [Estimate(float(value), math.inf, 0) for value in value_K]
            squares_K, skewness_K = _moments(value_KC - value_K[:, None] * count_C, count)
            error_K = np.sqrt(count / (count - 1) * squares_K) / tokens
            rows = _rows(value_K, error_K, skewness_K)
            found.append([Estimate(value, error, count - 1, skew) for value, error, skew in rows])
        return _larger(found)


def _summed(value_KX: FloatArray, count_X: FloatArray, first_C: IntArray) -> tuple[FloatArray, FloatArray]:
    count_C = np.add.reduceat(count_X, first_C)
    there_C = count_C > 0
    return np.add.reduceat(value_KX, first_C, axis=1)[:, there_C], count_C[there_C]


def _moments(deviation_KC: FloatArray, count: int) -> tuple[FloatArray, FloatArray]:
    """Sum of squares, and skewness of so many clusters."""
    squares_K = np.einsum("kc,kc->k", deviation_KC, deviation_KC)
    scaled_KC = deviation_KC / np.sqrt(np.maximum(squares_K, np.finfo(float).tiny))[:, None]
    return squares_K, np.einsum("kc,kc,kc->k", scaled_KC, scaled_KC, scaled_KC) * math.sqrt(count)


def _rows(*columns: FloatArray) -> Iterator[tuple[float, ...]]:
    return zip(*(column.tolist() for column in columns), strict=True)


def _larger(found: Sequence[Sequence[Estimate]]) -> list[Estimate]:
    return [max(both, key=lambda estimate: estimate.standard_error) for both in zip(*found, strict=True)]


def of_root(estimate: Estimate) -> Estimate:
    """Of the root of a mean of squares, by its influence."""
    root = math.sqrt(estimate.value)
    return replace(estimate, value=root, standard_error=estimate.standard_error / (2 * root))


def times(estimate: Estimate, factor: float) -> Estimate:
    """Of the same with every difference multiplied."""
    return replace(estimate, value=estimate.value * factor, standard_error=estimate.standard_error * factor)


@dataclass(frozen=True)
class Messages:
    """Of a population in which a candidate loses a known share of the base's exact messages of a kind."""

    counts_M: NDArray[np.bool_]
    """Exact under either; the others change nothing."""
    net_M: IntArray
    exact_base_M: NDArray[np.bool_]
    net_loss: float

    def measured(self, cell: Cell) -> Measured | None:
        """As `parity.estimates.exact_loss`."""
        here_M = self.counts_M[cell.number_M]
        number_M = cell.number_M[here_M]
        exact_M, net_M = self.exact_base_M[number_M], self.net_M[number_M]
        exact = int(exact_M.sum())
        if not exact:
            return None
        clusterings = clusters_by(cell.row_M[here_M]), clusters_by(cell.block_M[here_M])
        estimate = jackknifed(net_M.astype(np.float64), clusterings, denominator_T=exact_M, rare=True)
        evidence = evidence_of(exact_M, clusterings[0])
        return Measured(
            estimate, evidence, base_events=exact, lost=int((net_M > 0).sum()), gained=int((net_M < 0).sum())
        )

    def clustered(self, cell: Cell) -> Estimate:
        """As v2 would: the ratio linearised."""
        here_M = self.counts_M[cell.number_M]
        number_M = cell.number_M[here_M]
        exact_M, net_M = self.exact_base_M[number_M], self.net_M[number_M]
        value = float(net_M.sum() / exact_M.sum())
        influence_M = (net_M - value * exact_M) / exact_M.mean()
        clusterings = clusters_by(cell.row_M[here_M]), clusters_by(cell.block_M[here_M])
        return clustered(value, influence_M, clusterings, rare=True)


def messages_losing(
    pool: Pool,
    candidate: Candidate,
    donor: Candidate,
    kind: TokenClass,
    rows: IntArray,
    seq_len: int,
    share: float,
    rng: np.random.Generator,
) -> Messages:
    """The candidate's messages with losses taken back, or the donor's added, until the net loss is `share`. A message
    of n tokens is whole in a block by chance (seq_len - n) / seq_len, and counts by that here."""
    in_M = (pool.kind_M == kind) & np.isin(pool.row_M, rows)
    chance_M = np.maximum(seq_len - (pool.last_M - pool.first_M + 1), 0) / seq_len * in_M
    base_M = pool.exact_base_M & in_M
    lost_M, gained_M = base_M & ~candidate.exact_M, in_M & candidate.exact_M & ~pool.exact_base_M
    exact, gained = float(chance_M @ base_M), float(chance_M @ gained_M)
    wanted = share * exact + gained
    kept_M = np.zeros(len(lost_M), bool)
    if chance_M @ lost_M < wanted:
        kept_M, lost_M = lost_M, base_M & ~donor.exact_M & ~lost_M
    order_M = np.flatnonzero(lost_M)
    order_M = order_M[np.argsort(rng.permutation(len(pool.length_R))[pool.row_M[order_M]], kind="stable")]
    reached_M = chance_M @ kept_M + np.cumsum(chance_M[order_M])
    kept_M = kept_M.copy()
    kept_M[order_M[: int(np.searchsorted(reached_M, wanted)) + 1]] = True
    net_M = kept_M.astype(np.int64) - gained_M
    return Messages(base_M | gained_M, net_M, base_M, float(chance_M @ net_M / exact))
