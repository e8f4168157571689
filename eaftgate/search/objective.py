"""The loss that a search lowers: what the gate will judge, in one number.

The default policy's rules that decide in every pack (eaftgate.judge) are asked of UNION and of every pack, on the
calibration blocks, each as a share of its margin. What a token's log-loss rises by is taken as the base expects it,
the divergence of the pruned model's prediction from the base's, not as the one token that stands in the text has it:
their means agree as far as the base is calibrated, and a swap's standard error is a fraction
(docs/log/2026-11-27-search.md).

    loss = 16 * ppl of UNION + 2 * messages of UNION beyond their margins
         + fourth root of the mean fourth power of the rules of means

of what is worse than the base. Of the rules of means, over classes and packs, the one that is farthest beyond its
margin counts most, as in a verdict. Exact messages count for themselves, so that they do however far another rule is
beyond its own, and only what is lost beyond the margin: below it, what a few messages say decided against perplexity.
They are counted in UNION alone: of a pack there are too few; and by how far their tokens lead the other choices, not
as exact or not. Rules over too few documents or messages take no part: what they say of the next rows is noise.

Shapes: T scored tokens, R rows, I rules in cells, M messages.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import log_expit

from eaftgate.judge.policy import IntervalPolicy, load_gates
from eaftgate.packs.blocks import NO_MESSAGE, Blocks, Roles
from eaftgate.packs.harmony import TokenClass
from eaftgate.parity.clusters import Clusters, Estimate, clustered, clusters_by

SOFT = 0.5
"""Nats: a message is as exact as the product, over its tokens, of the logistic function of their leads by this. Counted
as exact or not, messages are so few that a search fits those of the calibration (docs/log/2026-11-27-search.md)."""
UNION_COUNTS, MESSAGES_COUNT = 16.0, 2.0
"""Of eight ways to count, each measured whole on three models by three seeds: of those that keep 97 % of the calls at
keep 24 on both models that can pass there, the one that loses least there (docs/log/2026-11-28-search.md)."""
POWER = 4
"""With 2, among some thirty rules one that was 28 times its margin made no difference."""
FEWEST, FEWEST_MESSAGES = 30, 8
"""Documents with a class's tokens in a cell, and messages exact under the base: below that a rule takes no part."""

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
class Predictions:
    """Of every scored token of some blocks the divergence of the prediction from the base's, in nats
    (eaftgate.search.evaluate), and by how many nats the token leads the best of the others, below 0: is behind it."""

    divergence_T: FloatArray
    lead_T: FloatArray

    def at(self, chosen_T: BoolArray) -> "Predictions":
        return Predictions(self.divergence_T[chosen_T], self.lead_T[chosen_T])


@dataclass(frozen=True)
class Reference:
    """What the base says of every scored token: its first K choices with their log-probabilities, descending, and
    by how many nats the token leads the best of the others."""

    id_TK: NDArray[np.int32]
    logprob_TK: NDArray[np.float32]
    lead_T: FloatArray

    def at(self, chosen_T: BoolArray) -> "Reference":
        return Reference(self.id_TK[chosen_T], self.logprob_TK[chosen_T], self.lead_T[chosen_T])


@dataclass(frozen=True)
class Objective:
    """Of models that are compared with `base` on `blocks`. `pack_R` numbers the pack of every row from 0."""

    blocks: Blocks
    base: Reference
    pack_R: NDArray[np.integer]
    margins: Mapping[str, float]

    def of_blocks(self, chosen: NDArray[np.intp]) -> "Objective":
        """The same on some of the blocks, ascending."""
        kept_T = np.isin(self._block_T, chosen)
        return replace(self, blocks=self.blocks.reordered(chosen), base=self.base.at(kept_T))

    def loss(self, now: Predictions, *, messages: bool = True) -> float:
        """Of the model that predicts `now`. Without `messages` none is counted: on few blocks one would decide."""
        means_I = self._means_I(now)
        exact_I = self._exact_I(now) if messages else np.zeros(0)
        beyond = float(np.maximum(exact_I - 1, 0).sum())
        return float(UNION_COUNTS * means_I[0] + MESSAGES_COUNT * beyond + _size(means_I))

    def change(self, now: Predictions, other: Predictions) -> Estimate:
        """By how much the loss of `other` is larger; the standard error is to first order, of messages also where only
        `other` is beyond their margin: else what is lost there would have an error of 0."""
        slope_I, beyond_I = self._slope_I(now), np.maximum(self._exact_I(now), self._exact_I(other)) > 1
        rise_T = (self._share_IT.T @ slope_I) * (other.divergence_T - now.divergence_T)
        rise_M = (self._share_IM.T @ (MESSAGES_COUNT * beyond_I)) * (
            self._exact_M(now.lead_T) - self._exact_M(other.lead_T)
        )
        rise_T += np.bincount(self._end_M, weights=rise_M, minlength=len(rise_T))
        return clustered(self.loss(other) - self.loss(now), rise_T * len(rise_T), self._clusterings)

    def _slope_I(self, now: Predictions) -> FloatArray:
        """By how much the loss rises with every rule of a mean."""
        means_I = self._means_I(now)
        worse_I, size = np.maximum(means_I, 0), _size(means_I)
        slope_I: FloatArray = (worse_I / size) ** (POWER - 1) / len(worse_I) if size else np.zeros(len(worse_I))
        slope_I[0] += UNION_COUNTS
        return slope_I

    def _means_I(self, now: Predictions) -> FloatArray:
        means_I: FloatArray = self._share_IT @ now.divergence_T
        return means_I

    def _exact_I(self, now: Predictions) -> FloatArray:
        lost_M = self._exact_M(self.base.lead_T) - self._exact_M(now.lead_T)
        exact_I: FloatArray = self._share_IM @ lost_M
        return exact_I

    @cached_property
    def _roles(self) -> Roles:
        return self.blocks.roles.at(self.blocks.scored_BS)

    @cached_property
    def _row_T(self) -> NDArray[np.int32]:
        return self.blocks.row_BS[self.blocks.scored_BS]

    @cached_property
    def _block_T(self) -> NDArray[np.intp]:
        return np.nonzero(self.blocks.scored_BS)[0]

    @cached_property
    def _clusterings(self) -> tuple[Clusters, Clusters]:
        return clusters_by(self._row_T), clusters_by(self._block_T)

    @cached_property
    def _share_IT(self) -> csr_array:
        """1 / (tokens * margin) where a rule of a cell is over the token; ppl of UNION comes first."""
        pack_T = self.pack_R[self._row_T]
        packs = np.unique(pack_T)
        every_T = np.ones(len(pack_T), bool)
        cells = [every_T, *((pack_T == pack for pack in packs) if len(packs) > 1 else ())]
        names = sorted(self.margins.keys() & _MEANS.keys(), key=lambda name: (name != "ppl", name))

        def rules() -> Iterator[tuple[NDArray[np.intp], float]]:
            for cell_T in cells:
                for name in names:
                    kind = _MEANS[name]
                    of_T = cell_T & (self._roles.content if kind is None else self._roles.kind == kind)
                    first = kind is None and cell_T is every_T
                    if first or len(np.unique(self._row_T[of_T])) >= FEWEST:
                        yield np.flatnonzero(of_T), self.margins[name]

        return _shares(list(rules()), len(pack_T))

    @cached_property
    def _messages(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The tokens of messages that were scored whole, and the place of each one's message."""
        token_N = np.flatnonzero(self._roles.message != NO_MESSAGE)
        _, place_N = np.unique(self._roles.message[token_N], return_inverse=True)
        return token_N, place_N

    def _exact_M(self, lead_T: FloatArray) -> FloatArray:
        token_N, place_N = self._messages
        exact_M: FloatArray = np.exp(np.bincount(place_N, weights=log_expit(lead_T[token_N] / SOFT)))
        return exact_M

    @cached_property
    def _end_M(self) -> NDArray[np.intp]:
        """A token of each message."""
        token_N, place_N = self._messages
        end_M = np.zeros(int(place_N.max(initial=-1)) + 1, np.intp)
        end_M[place_N] = token_N
        return end_M

    @cached_property
    def _share_IM(self) -> csr_array:
        """1 / (messages exact under the base * margin) where a rule of UNION is over the message."""
        token_N, place_N = self._messages
        exact_M = np.bincount(place_N, weights=self.base.lead_T[token_N] < 0) == 0
        found = []
        for name in sorted(self.margins.keys() & _EXACT.keys()):
            of_M = np.zeros(len(exact_M), bool)
            of_M[place_N[self._roles.kind[token_N] == _EXACT[name]]] = True
            if (events := int((of_M & exact_M).sum())) >= FEWEST_MESSAGES:
                found.append((np.flatnonzero(of_M), self.margins[name] * events / int(of_M.sum())))
        return _shares(found, len(exact_M))


def _shares(rules: list[tuple[NDArray[np.intp], float]], columns: int) -> csr_array:
    """Rows of 1 / (number * margin) at the given places; perplexity's are none where blocks hold the ends of messages
    alone."""
    ends = np.cumsum([0, *(len(places) for places, _ in rules)])
    values = [np.full(len(places), 1 / (max(len(places), 1) * margin)) for places, margin in rules]
    places = [places for places, _ in rules]
    if not rules:
        return csr_array((0, columns))
    return csr_array((np.concatenate(values), np.concatenate(places), ends), shape=(len(rules), columns))


def _size(ratio_I: FloatArray) -> float:
    return float(np.mean(np.maximum(ratio_I, 0) ** POWER) ** (1 / POWER)) if len(ratio_I) else 0.0
