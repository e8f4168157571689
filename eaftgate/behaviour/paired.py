"""What two models did in the same turns, paired: every statistic of behaviour with its standard error. Documents are
its clusters, for turns of one conversation share it.

Shapes: N turns.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eaftgate.behaviour.turn import Did, Judged, judge_call, repeated_share, what_was_done
from eaftgate.chats.signatures import offered_functions
from eaftgate.generate.generations import Asked, Generations, Written
from eaftgate.parity.clusters import UNKNOWN, Clusters, clusters_by, evidence_of, jackknifed
from eaftgate.parity.estimates import Measured

CIRCLE = 0.5
"""Share of repeated 8-grams above which a turn goes in circles: a list or a sentence said twice has less."""

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """What one model did, by turn; `call` is as it was judged, None where it called nothing."""

    ended_N: BoolArray
    length_N: NDArray[np.int64]
    repeated_N: FloatArray
    did: tuple[Did, ...]
    call: tuple[Judged | None, ...]

    def select(self, chosen_N: BoolArray) -> "Side":
        at = np.flatnonzero(chosen_N).tolist()
        return Side(
            self.ended_N[chosen_N],
            self.length_N[chosen_N],
            self.repeated_N[chosen_N],
            tuple(self.did[place] for place in at),
            tuple(self.call[place] for place in at),
        )


@dataclass(frozen=True)
class PairedTurns:
    """`row_N` numbers a turn's document, `pack_N` names its pack. `reference` is what stands in the pack, done as if a
    model had."""

    row_N: NDArray[np.int64]
    pack_N: tuple[str, ...]
    reference: Side
    base: Side
    candidate: Side

    def __len__(self) -> int:
        return len(self.row_N)

    def of_pack(self, pack: str) -> "PairedTurns":
        chosen_N = np.array([name == pack for name in self.pack_N], bool)
        return PairedTurns(
            self.row_N[chosen_N],
            tuple(name for name in self.pack_N if name == pack),
            *(side.select(chosen_N) for side in (self.reference, self.base, self.candidate)),
        )

    @cached_property
    def right(self) -> "dict[str, tuple[BoolArray, BoolArray, BoolArray]]":
        """By metric: the turns that are right under the base, under the candidate, and those that it is about."""
        return {
            name: (right(self, self.base), right(self, self.candidate), about(self))
            for name, (right, about) in RIGHT.items()
        }

    @cached_property
    def documents(self) -> Clusters:
        return clusters_by(np.unique(self.row_N, return_inverse=True)[1])

    @cached_property
    def calls_N(self) -> BoolArray:
        """Turns in which somebody calls."""
        sides = (self.reference, self.base, self.candidate)
        return np.array(
            [any(call is not None for call in calls) for calls in zip(*(s.call for s in sides), strict=True)]
        )

    @cached_property
    def tools_known_N(self) -> BoolArray:
        """Those of them whose reference does not itself call what its prompt does not offer, or with arguments that do
        not suit: there the prompt does not say what may be called."""
        known_N: BoolArray = self.calls_N & np.array([call is None or call.suits for call in self.reference.call], bool)
        return known_N


def pair_turns(base: Sequence[Generations], candidate: Sequence[Generations]) -> PairedTurns:
    """The generations of several packs. Raises ValueError when the two are of other turns."""
    ours, theirs = ([g.turns for g in generations] for generations in (base, candidate))
    if ours != theirs:
        raise ValueError("base and candidate were asked for different turns")
    asked = [turn for generations in base for turn in generations.asked]
    rows = {row: place for place, row in enumerate(dict.fromkeys(turn.row for turn in asked))}
    tools = {text: offered_functions(text) for generations in base for text in generations.tools}
    offered = [tools[generations.tools[turn.tools]] for generations in base for turn in generations.asked]

    def side(written: Sequence[Written]) -> Side:
        did = tuple(what_was_done(turn.text) for turn in written)
        return Side(
            ended_N=np.array([turn.ended for turn in written], bool),
            length_N=np.array([len(turn.tokens) for turn in written], np.int64),
            repeated_N=np.array([repeated_share(turn.tokens) for turn in written]),
            did=did,
            call=tuple(
                None if done.call is None else judge_call(done.call, functions)
                for done, functions in zip(did, offered, strict=True)
            ),
        )

    return PairedTurns(
        row_N=np.array([rows[turn.row] for turn in asked], np.int64),
        pack_N=tuple(turn.pack for turn in asked),
        reference=side([_as_written(turn) for turn in asked]),
        base=side([turn for generations in base for turn in generations.written]),
        candidate=side([turn for generations in candidate for turn in generations.written]),
    )


def _as_written(turn: Asked) -> Written:
    """Its tokens are nobody's concern."""
    return Written((0,), turn.reference, ended=True)


def _same_calls(turns: PairedTurns, side: Side) -> BoolArray:
    """The same function with the same arguments as the reference's."""
    pairs = zip(turns.reference.did, side.did, strict=True)
    return np.array([r.call is not None and d.call is not None and d.call.is_same(r.call) for r, d in pairs], bool)


def _same_answers(turns: PairedTurns, side: Side) -> BoolArray:
    pairs = zip(turns.reference.did, side.did, strict=True)
    return np.array([r.answer is not None and r.answer == d.answer for r, d in pairs], bool)


def _no_faulty_call(fault: str) -> "Right":
    return lambda _, side: np.array([call is None or bool(getattr(call, fault)) for call in side.call], bool)


Right = Callable[[PairedTurns, Side], BoolArray]
About = Callable[[PairedTurns], BoolArray]

RIGHT: Mapping[str, tuple[Right, About]] = {
    "ends": (lambda _, side: side.ended_N, lambda turns: np.ones(len(turns), bool)),
    "repeats": (lambda _, side: side.repeated_N <= CIRCLE, lambda turns: np.ones(len(turns), bool)),
    "calls_parse": (_no_faulty_call("parses"), lambda turns: turns.calls_N),
    "calls_offered": (_no_faulty_call("offered"), lambda turns: turns.tools_known_N),
    "calls_suit": (_no_faulty_call("suits"), lambda turns: turns.tools_known_N),
    "calls_equal": (_same_calls, lambda turns: np.array([did.call is not None for did in turns.reference.did], bool)),
    "finals_equal": (
        _same_answers,
        lambda turns: np.array([did.answer is not None for did in turns.reference.did], bool),
    ),
}
"""By metric: in which turns a model does right, and which turns it is about."""
OF_THE_BASE = ("calls_equal", "finals_equal")
"""What is only lost where the base has it: shares of the turns that are right under it."""

Statistic = Callable[[PairedTurns], Measured | None]
"""None where no turn has anything of what it speaks of."""


def lost_of(name: str) -> Statistic:
    """(lost - gained) / the turns that `RIGHT[name]` is about, or where the base has to be right first, those that are
    right under it. Lost: right under the base and not under the candidate; gained: the other way round."""

    def measure(turns: PairedTurns) -> Measured | None:
        base_N, candidate_N, among_N = turns.right[name]
        if not among_N.any():
            return None
        base_N, candidate_N = base_N & among_N, candidate_N & among_N
        lost_N, gained_N = base_N & ~candidate_N, candidate_N & ~base_N
        weight_N = base_N if name in OF_THE_BASE else among_N
        estimate, evidence = UNKNOWN, evidence_of(among_N, turns.documents)
        if weight_N.any():
            difference_N, weights_N = lost_N.astype(np.float64) - gained_N, weight_N.astype(np.float64)
            estimate = jackknifed(difference_N, (turns.documents,), denominator_T=weights_N, rare=True)
            evidence = evidence_of(weight_N, turns.documents)
        return Measured(
            estimate,
            evidence,
            base_events=int(base_N.sum()) if name in OF_THE_BASE else None,
            lost=int(lost_N.sum()),
            gained=int(gained_N.sum()),
            details={"turns": int(among_N.sum()), "base": int(base_N.sum()), "candidate": int(candidate_N.sum())},
        )

    return measure


def log_length_ratio(turns: PairedTurns) -> Measured:
    """ln of the ratio of the candidate's mean length to the base's, tokens a turn."""
    base_N, length_N = turns.base.length_N.astype(float), turns.candidate.length_N.astype(float)
    found = jackknifed(length_N - base_N, (turns.documents,), denominator_T=base_N)
    ratio = 1 + found.value
    estimate = replace(found, value=math.log(ratio), standard_error=found.standard_error / ratio)
    details = {"base": float(base_N.mean()), "candidate": float(length_N.mean())}
    return Measured(estimate, evidence_of(base_N, turns.documents), details=details)
