"""The loss that a search lowers: what the gate will judge, in one number.

The default policy's rules that decide in every pack (eaftgate.judge) are asked of UNION and of every pack, on the
calibration blocks, each as a share of its margin:

    loss = 3 * ppl of UNION + root of the mean square of all of them, of what is worse than the base

so that a rule that is near or beyond its margin counts more than one that is far from it, and one that nothing is lost
by nothing. With 1 instead of 3, single classes were bought with more of everything than they were worth
(docs/log/2026-11-27-search.md). Rules over too few documents or messages take no
part: what they say of the next rows is noise.

Shapes: T scored tokens, R rows, I rules in cells, M messages.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from eaftgate.collect.collection import Collection
from eaftgate.judge.policy import IntervalPolicy, load_gates
from eaftgate.packs.blocks import NO_MESSAGE
from eaftgate.packs.harmony import TokenClass
from eaftgate.parity.clusters import Estimate, clustered, clusters_by
from eaftgate.parity.paired import first_choice

UNION_COUNTS = 3.0
FEWEST_DOCUMENTS = 30
"""Of a class's tokens in a cell, and of exact messages under the base: below that a rule takes no part."""

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_MEANS = {"ppl": None} | {f"nll_{kind.name.lower()}": kind for kind in TokenClass}
"""By the names that METRICS gives them: the class whose tokens they are a mean over; None: all content."""
_EXACT = {"exact_calls": TokenClass.CALL, "exact_finals": TokenClass.FINAL}


def gated_margins() -> Mapping[str, float]:
    """The margins of the rules that decide in every pack, by name, of the policy that is the default."""
    _, policy = load_gates().policy(None)
    if not isinstance(policy, IntervalPolicy):
        return {"ppl": 1.0}
    return {
        name: rule.margin.value
        for name, rule in policy.rules.items()
        if rule.role == "decides" and rule.margin is not None and (rule.cells == "every" or name == "ppl")
    }


@dataclass(frozen=True)
class Objective:
    """What `whole`, the base on some blocks, is compared with. `pack_R` numbers the pack of every row from 0."""

    whole: Collection
    pack_R: NDArray[np.integer]
    margins: Mapping[str, float]

    def loss(self, now: Collection, *, messages: bool = True) -> float:
        """Of the model that gave `now`, on the same tokens. Without `messages` none is counted: on few blocks a single
        one would decide."""
        means_I = self._means_I(now)
        return float(UNION_COUNTS * means_I[0] + _size(np.append(means_I, self._exact_I(now) if messages else [])))

    def change(self, now: Collection, other: Collection) -> Estimate:
        """By how much the loss of `other` is larger; its standard error is that of the log-loss's part, to first
        order."""
        means_I, exact_I = self._means_I(now), self._exact_I(now)
        size, terms = _size(np.append(means_I, exact_I)), len(means_I) + len(exact_I)
        slope_I = np.maximum(means_I, 0) / (terms * size) if size else np.zeros(len(means_I))
        slope_I[0] += UNION_COUNTS
        rise_T = (self._share_IT.T @ slope_I) * (_nll_T(other) - _nll_T(now)) * len(now.stats)
        clusterings = (clusters_by(now.row_T), clusters_by(now.block_T))
        return clustered(self.loss(other) - self.loss(now), rise_T, clusterings)

    def _means_I(self, now: Collection) -> FloatArray:
        means_I: FloatArray = self._share_IT @ (_nll_T(now) - _nll_T(self.whole))
        return means_I

    def _exact_I(self, now: Collection) -> FloatArray:
        lost_M = self._exact_M(self.whole).astype(np.float64) - self._exact_M(now)
        exact_I: FloatArray = self._share_IM @ lost_M
        return exact_I

    @cached_property
    def _cells(self) -> list[BoolArray]:
        """Which tokens: UNION, then the packs, where there are several."""
        pack_T = self.pack_R[self.whole.row_T]
        packs = np.unique(pack_T)
        return [np.ones(len(pack_T), bool), *((pack_T == pack for pack in packs) if len(packs) > 1 else ())]

    @cached_property
    def _share_IT(self) -> csr_array:
        """1 / (tokens * margin) where a rule of a cell is over the token; ppl of UNION comes first."""
        roles, row_T = self.whole.roles, self.whole.row_T

        def rules() -> Iterator[tuple[NDArray[np.intp], float]]:
            for cell_T in self._cells:
                for name in sorted(self.margins.keys() & _MEANS.keys(), key=lambda name: name != "ppl"):
                    kind = _MEANS[name]
                    of_T = cell_T & (roles.content if kind is None else roles.kind == kind)
                    first = kind is None and cell_T is self._cells[0]
                    if first or len(np.unique(row_T[of_T])) >= FEWEST_DOCUMENTS:
                        yield np.flatnonzero(of_T), self.margins[name]

        return _shares(list(rules()), len(row_T))

    @cached_property
    def _messages(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The tokens of messages that were scored whole, and the place of each one's message."""
        token_N = np.flatnonzero(self.whole.roles.message != NO_MESSAGE)
        _, place_N = np.unique(self.whole.roles.message[token_N], return_inverse=True)
        return token_N, place_N

    def _exact_M(self, found: Collection) -> BoolArray:
        token_N, place_N = self._messages
        wrong_M = np.bincount(place_N, weights=~first_choice(found.stats)[token_N])
        exact_M: BoolArray = wrong_M == 0
        return exact_M

    @cached_property
    def _share_IM(self) -> csr_array:
        """1 / (messages exact under the base * margin) where a rule of a cell is over the message."""
        token_N, place_N = self._messages
        exact_M, roles = self._exact_M(self.whole), self.whole.roles
        found = []
        for cell_T in self._cells:
            for name in self.margins.keys() & _EXACT.keys():
                of_M = np.zeros(len(exact_M), bool)
                of_M[place_N[(roles.kind[token_N] == _EXACT[name]) & cell_T[token_N]]] = True
                if (events := int((of_M & exact_M).sum())) >= FEWEST_DOCUMENTS:
                    found.append((np.flatnonzero(of_M), self.margins[name] * events / int(of_M.sum())))
        return _shares(found, len(exact_M))


def _shares(rules: list[tuple[NDArray[np.intp], float]], columns: int) -> csr_array:
    """Rows of 1 / (number * margin) at the given places."""
    ends = np.cumsum([0, *(len(places) for places, _ in rules)])
    values = [np.full(len(places), 1 / (len(places) * margin)) for places, margin in rules]
    places = [places for places, _ in rules]
    if not rules:
        return csr_array((0, columns))
    return csr_array((np.concatenate(values), np.concatenate(places), ends), shape=(len(rules), columns))


def _size(ratio_I: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(np.maximum(ratio_I, 0))))) if len(ratio_I) else 0.0


def _nll_T(found: Collection) -> FloatArray:
    return -found.stats.logprob_T.astype(np.float64)
