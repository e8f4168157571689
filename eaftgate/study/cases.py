"""The cases of a sweep: methods and keep_n crossed, every other factor varied alone.

Two cases differ in one factor, or in what the grid crosses on purpose (method and keep_n), so that no effect is
confounded with another.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from eaftgate.choices import listed
from eaftgate.errors import UserError
from eaftgate.profile.profile import ALIGNMENTS
from eaftgate.prune.methods import METHODS, using
from eaftgate.search.settings import SearchSettings
from eaftgate.select.saliency import EaftWeights


@dataclass(frozen=True)
class Case:
    """One selection from the first `rows` rows to choose on. `varied` says in what it departs from the standard ones,
    like `uncertain=1`."""

    method: str
    keep_n: int
    rows: int
    alignment: str
    varied: str = ""
    weights: EaftWeights = field(default_factory=EaftWeights)
    search: SearchSettings = field(default_factory=SearchSettings)

    @property
    def name(self) -> str:
        return f"{self.method} {self.varied}".strip()


@dataclass(frozen=True)
class Factor:
    """`part` is the field of a case that holds it ("": the case does); a value is a number of the type `kind` from
    `least` to `most`, or one of `choices`. Which methods it matters to, their `uses` say: others would only repeat
    themselves."""

    part: str
    kind: type[float] | type[int] = float
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()

    def value(self, name: str, text: str) -> float | int | str:
        """Raises UserError when `text` is no value."""
        if self.choices:
            if text not in self.choices:
                raise UserError(
                    f"--vary {name}={text} is not possible: choose among {listed(self.choices, meant=text)}"
                )
            return text
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and self.least <= value <= self.most):
            number = "a whole number" if self.kind is int else "a finite number"
            limits = (("from", self.least), ("to", self.most))
            number += "".join(f" {word} {limit:g}" for word, limit in limits if math.isfinite(limit))
            raise UserError(f"--vary {name}={text} is not possible: it must be {number}")
        return value


FACTORS = {
    "good": Factor("weights"),
    "conflict": Factor("weights"),
    "uncertain": Factor("weights"),
    "low_quantile": Factor("weights", least=0, most=1),
    "alignment": Factor("", choices=ALIGNMENTS),
    "rows": Factor("", kind=int, least=1),
    "max_positions": Factor("search", kind=int, least=1),
    "seed": Factor("search", kind=int, least=0),
}


def planned(
    methods: Sequence[str],
    keep_ns: Sequence[int],
    vary: Mapping[str, Sequence[str]],
    *,
    rows: int,
    alignment: str,
    search: SearchSettings,
) -> list[Case]:
    """Every method at every keep_n, and again with one factor of `vary` at a time set to one of its values, where that
    matters to the method and is not the standard value: `rows` (all there are to choose on), `alignment`, `search` and
    the default weights.

    Raises UserError for an unknown method, factor or value, and for more rows than there are.
    """
    for method in methods:
        if method not in METHODS:
            raise UserError(f"--methods: {method!r} is no method: choose among {listed(METHODS, meant=method)}")
    for name in vary:
        if name not in FACTORS:
            raise UserError(f"--vary: {name!r} cannot be varied: choose among {listed(FACTORS, meant=name)}")
        if not set(methods) & set(using(name)):
            raise UserError(f"--vary {name} changes nothing: it matters to {', '.join(using(name))} alone")
    standard = [Case(method, keep_n, rows, alignment, search=search) for keep_n in keep_ns for method in methods]
    varied = [
        _varied(case, name, FACTORS[name].value(name, text))
        for name, texts in vary.items()
        for text in texts
        for case in standard
        if name in METHODS[case.method].uses
    ]
    if (most := max((case.rows for case in varied), default=rows)) > rows:
        raise UserError(
            f"--vary rows={most} is not possible: the profile has {rows} rows to choose on, the others are held out "
            "for scoring; profile more rows or lower --score-frac"
        )
    return [*standard, *(case for case in varied if replace(case, varied="") not in standard)]


def _varied(case: Case, name: str, value: float | int | str) -> Case:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    part = FACTORS[name].part
    changed: dict[str, Any] = {part: replace(getattr(case, part), **{name: value})} if part else {name: value}
    return replace(case, varied=f"{name}={shown}", **changed)
