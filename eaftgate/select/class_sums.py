"""Sums over a trace by class of token, of which any weights of classes are mixed without the trace.

A token's weight is that of its class times what its type counts in the class, by a power of how often it occurs
(eaftgate.select.class_weights). The first only multiplies sums; the second is in them, so there are sums for every
power that will be asked for: 0, that of `balanced`, and the one in hand. Sums for any power would need one for each
number of times that a type occurs, hundreds a class.

Shapes: T scored tokens, Z type powers, C classes that occur, P packs, R regions, L layers, E experts, K selections.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eaftgate.errors import UserError
from eaftgate.packs.harmony import TokenClass
from eaftgate.profile.trace import Trace
from eaftgate.select.class_weights import BALANCED_WEIGHTS, ClassWeights, type_weights
from eaftgate.select.saliency import RegionSums, ScoreArray, regions

STORED_POWERS = (0.0, BALANCED_WEIGHTS.type_power)
_CHUNK = 1 << 14
"""Tokens at a time: their selections and bins stay in the caches."""


@dataclass(frozen=True)
class ClassSums:
    """RegionSums of every class in `classes` by itself, of `tokens_C` tokens, for every one of `type_powers`: a token
    counts 1 in the mean of its class. Float64."""

    type_powers: tuple[float, ...]
    classes: tuple[TokenClass, ...]
    tokens_C: NDArray[np.int64]
    hits_ZCPLE: ScoreArray
    norm_ZCPLE: ScoreArray
    mass_ZCPRLE: ScoreArray

    def mixed(self, weights: ClassWeights) -> RegionSums:
        """Raises UserError for a type_power that there are no sums of, and for weights that rank nothing."""
        if weights.type_power not in self.type_powers:
            raise UserError(
                f"--scores hold sums for type_power {', '.join(f'{power:g}' for power in self.type_powers)}: give one "
                f"of these, or --profile for {weights.type_power:g}"
            )
        tokens = np.zeros(len(TokenClass), np.int64)
        tokens[list(self.classes)] = self.tokens_C
        weights.check_total(tokens)
        at, weight_C = self.type_powers.index(weights.type_power), weights.of_class[list(self.classes)]
        found = RegionSums(
            *(_mix(weight_C, sums_Z[at]) for sums_Z in (self.hits_ZCPLE, self.norm_ZCPLE, self.mass_ZCPRLE))
        )
        if not all(np.isfinite(sums).all() for sums in (found.hits_PLE, found.norm_PLE, found.mass_PRLE)):
            raise UserError("--class-weight gives sums beyond all bounds: choose weights near 1")
        return found


def _mix(weight_C: ScoreArray, sums_C: ScoreArray) -> ScoreArray:
    """Class after class, so that it is the same bits however the array lies in memory."""
    mixed = np.zeros(sums_C.shape[1:])
    with np.errstate(over="ignore", invalid="ignore"):
        for weight, sums in zip(weight_C, sums_C, strict=True):
            mixed += weight * sums
    return mixed


def region_sums(
    trace: Trace, *, alignment: str, low_quantile: float, classes: ClassWeights | None = None
) -> RegionSums:
    """Sums over the trace, every token by its weight (of content alone, and alike, unless `classes` say otherwise).
    Raises UserError for weights that the trace cannot give."""
    weights = classes or ClassWeights()
    weights.token_weights(trace)  # may refuse
    plain, by_class = sums_of_classes(trace, [weights.type_power], alignment=alignment, low_quantile=low_quantile)
    return plain if weights == ClassWeights() else by_class.mixed(weights)


def sums_of_classes(
    trace: Trace, type_powers: Iterable[float], *, alignment: str, low_quantile: float
) -> tuple[RegionSums, ClassSums]:
    """Of content, every token alike; and of every class by itself. One pass over the trace.

    A token's region is by the quantiles of all content, whatever it weighs. Float64 sums of so many tokens at a time,
    whatever shards they lie in: the same bits from a profile that was interrupted, or streamed.
    """
    kind_T, token_T, content_T = (trace.column(name) for name in ("kind_T", "token_T", "content_T"))
    region = regions(trace.column("p_T"), trace.column("entropy_T"), low_quantile, content_T=content_T)
    region_T = np.where(region.good_T, 0, np.where(region.conflict_T, 1, 2))
    pack_T = trace.column("pack_T").astype(np.intp)
    powers = sorted({0.0, *map(float, type_powers)})
    weight_ZT = [type_weights(trace, power).of(kind_T, token_T) if power else np.ones(len(kind_T)) for power in powers]
    # A token may be of content and of the class that follows it, so content is a group of its own.
    group_G, group_T = np.unique(kind_T.astype(np.intp) * 2 + content_T, return_inverse=True)
    cells = trace.num_layers * trace.num_experts
    shape = (len(group_G), int(pack_T.max()) + 1, 3)
    bins = int(np.prod(shape)) * cells
    place_T = np.ravel_multi_index((group_T, pack_T, region_T), shape) * cells
    cell_L = np.arange(trace.num_layers)[:, None] * trace.num_experts
    sums = np.zeros((3, len(powers), bins))
    first = 0
    for expert_TLK, gate_TLK, norm_TLK in _chunks(trace.selections(alignment)):
        norm = norm_TLK.astype(np.float64)
        here = slice(first, first := first + len(norm))
        bin_N = (place_T[here, None, None] + cell_L + expert_TLK).ravel()
        values: tuple[ScoreArray, ...] = (np.ones(norm.shape), norm, gate_TLK.astype(np.float64) * norm)
        for row, value in zip(sums, values, strict=True):
            for total, weight_T in zip(row, weight_ZT, strict=True):
                total += np.bincount(bin_N, weights=(weight_T[here, None, None] * value).ravel(), minlength=bins)
    hits, norms, mass = sums.reshape(3, len(powers), *shape, trace.num_layers, trace.num_experts)
    hits, norms = hits.sum(axis=3), norms.sum(axis=3)  # whatever the region
    plain = RegionSums(*(_mix(group_G % 2 == 1, each[0]) for each in (hits, norms, mass)))
    kind_C, tokens_C = np.unique(kind_T, return_counts=True)
    by_class = (
        np.stack([each[:, group_G // 2 == kind].sum(axis=1) for kind in kind_C], axis=1) for each in (hits, norms, mass)
    )
    return plain, ClassSums(tuple(powers), tuple(map(TokenClass, kind_C.tolist())), tokens_C, *by_class)


_Selections = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]


def _chunks(shards: Iterable[_Selections]) -> Iterator[_Selections]:
    """The same tokens in the same order, _CHUNK at a time, the last ones fewer."""
    rest: _Selections | None = None
    for shard in shards:
        held = shard if rest is None else _joined(rest, shard)
        whole = len(held[0]) // _CHUNK * _CHUNK
        for start in range(0, whole, _CHUNK):
            yield _cut(held, slice(start, start + _CHUNK))
        rest = _cut(held, slice(whole, None))
    if rest is not None and len(rest[0]):
        yield rest


def _joined(first: _Selections, second: _Selections) -> _Selections:
    (experts, gates, norms), (more_experts, more_gates, more_norms) = first, second
    return (
        np.concatenate([experts, more_experts]),
        np.concatenate([gates, more_gates]),
        np.concatenate([norms, more_norms]),
    )


def _cut(held: _Selections, tokens: slice) -> _Selections:
    experts, gates, norms = held
    return experts[tokens], gates[tokens], norms[tokens]
