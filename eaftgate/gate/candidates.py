"""What kind of candidates a run had, and what cannot be known of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from eaftgate.collect.collector import Said
from eaftgate.gate.options import CandidateKind
from eaftgate.gate.plan import Plan
from eaftgate.records import Record

UNVERIFIED = "unverified"
"""The flag of a run whose weights nobody has seen, and of its cells."""
_SAID = "said_"
_OWN = frozenset({"model", "name", "weight_version", "random_seed", "context", "started"})
"""What two servers may say differently of themselves, and be comparable."""


class Candidate(Record):
    """`name` is the one in test ids. `rows_known` says whether it is known which rows it was made on, if any: only then
    are gate rows among them found."""

    name: str
    kind: CandidateKind
    rows_known: bool
    yardstick_bits: int | None = None
    """Of the base with rounded experts."""


class ServedIdentity(Record):
    """What is known of the model behind a server: what the server says. `tokenizer_compared`: it makes the same tokens
    of a text as the tokenizer that was given. `like_base`: it has answered in every number as the base's server did."""

    name: str
    url: str
    said: Said
    tokenizer_compared: bool
    like_base: bool = False

    def as_properties(self) -> dict[str, str | float | bool | None]:
        """For JUnit."""
        said = {f"{_SAID}{name}": value for name, value in self.said.items()}
        return {"url": self.url, "tokenizer_compared": self.tokenizer_compared, "like_base": self.like_base, **said}

    @classmethod
    def from_properties(cls, name: str, told: Mapping[str, Any]) -> "ServedIdentity":
        said = {key.removeprefix(_SAID): value for key, value in told.items() if key.startswith(_SAID)}
        known = {key: told[key] for key in ("url", "tokenizer_compared", "like_base")}
        return cls(name=name, said=said, **known)


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
    "served": "unverified, which weights the servers of base and candidate have is their own word",
}


def kind_line(kind: CandidateKind) -> str:
    return f"kind {kind}: {KINDS[kind]}"


def unknown_rows(candidates: Sequence[Candidate]) -> list[str]:
    """One sentence, if there is one to say."""
    unknown = [candidate.name for candidate in candidates if not candidate.rows_known]
    if not unknown:
        return []
    return [f"{', '.join(unknown)}: nothing says which rows it was made on: gate rows among them cannot be found"]


def served_lines(served: Sequence[ServedIdentity]) -> list[str]:
    """What each server says of itself, one sentence each."""
    return [
        f"{one.name} is {one.url}, which says of itself: "
        + ", ".join(f"{key} {value}" for key, value in one.said.items() if value is not None)
        for one in served
    ]


def served_remarks(served: Sequence[ServedIdentity]) -> list[str]:
    """What is odd of servers, one sentence each; `served` has the base's first."""
    said = [
        f"{one.url} does not tell how it tokenises: that its tokenizer is the one given is not known"
        for one in served
        if not one.tokenizer_compared
    ]
    for one in served[1:]:
        base = served[0]
        if one.like_base:
            said.append(f"{one.url} answers in every number as {base.url} does: they have the same weights")
        elif one.said.get("model") == base.said.get("model"):
            said.append(f"{one.url} and {base.url} both say that they serve {one.said['model']}: are these two models?")
        others = [key for key in one.said if key not in _OWN and one.said[key] != base.said.get(key)]
        said += [
            f"{key} is {one.said[key]} at {one.url}, {base.said.get(key)} at {base.url}: what that does is judged, too"
            for key in others
        ]
    return said
