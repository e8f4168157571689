"""What a token counts in a selection, by what it is to the conversation.

A mean over all content tokens hardly sees what decides whether a call can be carried out: the function's name stands in
the header, an argument is a few tokens among many, and those that go wrong first are rare ones, carried by experts that
do little else. So classes can be weighed, and within a class tokens by how rare their type is:

    weight = w[class] * (count of its (class, type), at least 3) ^ -type_power, that power's mean over the class being 1

so that w[class] is what a token of the class counts on average. Headers and closing tokens are of few types, each of
which is frequent: beside rare words of content, by one mean for all classes, they would count next to nothing, and a
search then gives them up (docs/log/2026-11-26-near-lossless-v3.md).

Counts are the profile's. Weights of 1 for content and 0 for header and close are the plain selection of every token of
content alike.

Shapes: T scored tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from eaftgate.choices import did_you_mean
from eaftgate.errors import UserError
from eaftgate.packs.harmony import TokenClass
from eaftgate.profile.trace import Trace

FloatArray = NDArray[np.float64]
FEWEST = 3
"""Types that occur less often weigh no more: of one or two tokens, chance decides which expert carries them."""
BALANCED = "balanced"
PLAIN = "plain"
_TYPE_BITS = 32


@dataclass(frozen=True)
class ClassWeights:
    """`type_power` 0: every token of a class alike; 1: every type of token alike."""

    header: float = 0.0
    analysis: float = 1.0
    final: float = 1.0
    commentary: float = 1.0
    call: float = 1.0
    other: float = 1.0
    close: float = 0.0
    type_power: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"--class-weight {name} is {value}: it must be a finite number from 0")

    @classmethod
    def named(cls, weights: Mapping[str, float]) -> "ClassWeights":
        """What `as_dict` gave. Raises UserError for the name of no class."""
        if unknown := weights.keys() - cls().as_dict().keys():
            raise UserError(f"{min(unknown)!r} is no class of tokens that is weighed")
        return cls(**weights)

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    def as_option(self) -> str:
        """What `parse_class_weights` takes."""
        return ",".join(f"{name}={value:g}" for name, value in self.as_dict().items())

    @property
    def of_class(self) -> FloatArray:
        """By TokenClass."""
        weight_C = np.zeros(len(TokenClass))
        for kind in TokenClass:
            weight_C[kind] = getattr(self, kind.name.lower(), 0.0)
        return weight_C

    def token_weights(self, trace: Trace) -> "TokenWeights":
        """Raises UserError for a profile that does not say what its tokens are, unless that does not matter."""
        if self == ClassWeights():
            return TokenWeights(self, None)
        if not trace.knows_classes:
            raise UserError("--class-weight needs a profile that says what its tokens are: profile again")
        types = type_weights(trace, self.type_power)
        self.check_total(types.tokens_C)
        return TokenWeights(self, types)

    def check_total(self, tokens_C: NDArray[np.integer]) -> None:
        """Raises UserError when tokens, so many by TokenClass, weigh nothing or beyond all bounds."""
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(sum(tokens_C[kind] * self.of_class[kind] for kind in TokenClass))
        if not 0 < total < math.inf:
            raise UserError(
                f"--class-weight gives the tokens of this profile a total weight of {total:g}, by which experts cannot "
                "be ranked: choose weights near 1, above 0 for a class that the profile has"
            )


BALANCED_WEIGHTS = ClassWeights(header=1.0, call=16.0, close=1.0, type_power=0.75)
"""Chosen on calibration rows of two models (docs/selection.md)."""
PRESETS = {PLAIN: ClassWeights(), BALANCED: BALANCED_WEIGHTS}


@dataclass(frozen=True)
class TypeWeights:
    """What a token counts within its class: `factor_X` by (class, type), of which `key_X` ascends, 1 in the mean of the
    profile's tokens of a class, so many as `tokens_C` says. A type that the profile has not seen weighs as one of its
    class that it saw least often, `rarest_C`."""

    key_X: NDArray[np.int64]
    factor_X: FloatArray
    rarest_C: FloatArray
    tokens_C: NDArray[np.int64]

    def of(self, kind_T: NDArray[np.integer], token_T: NDArray[np.integer]) -> FloatArray:
        key_T = _key(kind_T, token_T)
        place_T = np.minimum(np.searchsorted(self.key_X, key_T), len(self.key_X) - 1)
        weight_T: FloatArray = np.where(self.key_X[place_T] == key_T, self.factor_X[place_T], self.rarest_C[kind_T])
        return weight_T


def type_weights(trace: Trace, type_power: float) -> TypeWeights:
    """Raises UserError for a power by which all tokens of a class would count nothing."""
    key_X, count_X = np.unique(_key(trace.column("kind_T"), trace.column("token_T")), return_counts=True)
    kind_X = key_X >> _TYPE_BITS
    factor_X = np.maximum(count_X, FEWEST) ** -float(type_power)
    tokens_C = np.bincount(kind_X, weights=count_X, minlength=len(TokenClass)).astype(np.int64)
    sum_C = np.bincount(kind_X, weights=count_X * factor_X, minlength=len(TokenClass))
    if not np.all(sum_C[tokens_C > 0] > 0):
        raise UserError(
            f"--class-weight has type_power {type_power:g}, by which experts cannot be ranked: choose one near 1"
        )
    mean_C = np.where(tokens_C > 0, sum_C / np.maximum(tokens_C, 1), 1.0)
    return TypeWeights(key_X, factor_X / mean_C[kind_X], FEWEST**-type_power / mean_C, tokens_C)


@dataclass(frozen=True)
class TokenWeights:
    """`types` None: every token of content alike."""

    classes: ClassWeights
    types: TypeWeights | None

    def of(self, kind_T: NDArray[np.integer], token_T: NDArray[np.integer], content_T: NDArray[np.bool_]) -> FloatArray:
        """The weight of every token, [T]."""
        if self.types is None:
            return content_T.astype(np.float64)
        weight_T: FloatArray = self.classes.of_class[kind_T] * self.types.of(kind_T, token_T)
        return weight_T

    def of_trace(self, trace: Trace) -> FloatArray:
        return self.of(*(trace.column(name) for name in ("kind_T", "token_T", "content_T")))


def parse_class_weights(text: str) -> ClassWeights:
    """`call=8,header=4`, a preset (`plain`, `balanced`), or both: the preset first, then what differs from it. Raises
    UserError."""
    parts = [part.strip() for part in text.split(",")]
    weights = ClassWeights()
    if parts[0] in PRESETS:
        weights, parts = PRESETS[parts[0]], parts[1:]
    names = [field.name for field in fields(ClassWeights)]
    given: set[str] = set()
    for part in parts:
        name, found, value = part.partition("=")
        name = name.strip().replace("-", "_")
        try:
            number = float(value)
        except ValueError:
            found = ""
        if not found or name not in names:
            raise UserError(
                f"--class-weight is {text!r}: it must be {', '.join(PRESETS)}, or weights like call=8,header=4, of "
                f"{', '.join(names)}{did_you_mean(name, [*names, *PRESETS])}"
            )
        if name in given:
            raise UserError(f"--class-weight is {text!r}: it gives {name} twice")
        given.add(name)
        weights = replace(weights, **{name: number})
    return weights


def _key(kind_T: NDArray[np.integer], token_T: NDArray[np.integer]) -> NDArray[np.int64]:
    return (kind_T.astype(np.int64) << _TYPE_BITS) | token_T.astype(np.int64)
