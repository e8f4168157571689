"""What kind of candidates a run had, and what cannot be known of them."""

from collections.abc import Mapping, Sequence

from eaftgate.gate.options import CandidateKind
from eaftgate.gate.plan import Plan
from eaftgate.records import Record


class Candidate(Record):
    """`name` is the one in test ids. `rows_known` says whether it is known which rows it was made on, if any: only then
    are gate rows among them found."""

    name: str
    kind: CandidateKind
    rows_known: bool
    yardstick_bits: int | None = None
    """Of the base with rounded experts."""


def candidates_of(plan: Plan) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(
            name=name,
            kind=plan.options.candidate_kind,
            rows_known=name not in plan.rows_unknown,
            yardstick_bits=plan.yardsticks.get(name),
        )
        for name in plan.checkpoints
    )


KINDS: Mapping[CandidateKind, str] = {
    "pruned": "kept tensors are the base's, bit for bit",
    "other": "weights of their own, which were not compared with the base's",
}


def kind_line(kind: CandidateKind) -> str:
    return f"kind {kind}: {KINDS[kind]}"


def unknown_rows(candidates: Sequence[Candidate]) -> list[str]:
    """One sentence, if there is one to say."""
    unknown = [candidate.name for candidate in candidates if not candidate.rows_known]
    if not unknown:
        return []
    return [f"{', '.join(unknown)}: nothing says which rows it was made on: gate rows among them cannot be found"]
