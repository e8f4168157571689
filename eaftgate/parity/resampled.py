"""Estimates of a mean as they would have been on other documents: a bootstrap of documents, the same ones for several
candidates, so that what these have in common counts.

Shapes: K candidates, C documents, B draws.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from eaftgate.parity.clusters import Estimate, FloatArray

_CHUNK = 1 << 20
"""Documents drawn at a time, over all draws."""


def resampled_means(
    delta_KC: FloatArray, weight_C: NDArray[np.integer], *, draws: int, seed: int, jackknife: bool
) -> list[list[Estimate]]:
    """For every draw, an estimate of every candidate's sum(delta) / sum(weight) over as many documents, drawn with
    replacement; a document that is drawn twice is two.

    `delta_KC` sums a candidate's differences in a document, of `weight_C` > 0 tokens. The standard errors are those of
    `clustered`, or with `jackknife` of `jackknifed`, by documents; blocks, which mix documents, are not drawn.
    """
    return [
        [Estimate(*values) for values in zip(*(part_KB[:, draw] for part_KB in parts), strict=True)]
        for parts in _chunks(delta_KC, weight_C.astype(np.float64), draws, seed, jackknife=jackknife)
        for draw in range(parts[0].shape[1])
    ]


def _chunks(
    delta_KC: FloatArray, weight_C: FloatArray, draws: int, seed: int, *, jackknife: bool
) -> Iterator[tuple[FloatArray, ...]]:
    """(value, standard error, degrees of freedom, skewness, clusters), each [K, B] of some draws."""
    rng, count = np.random.default_rng(seed), len(weight_C)
    at_once = max(1, _CHUNK // count)
    for begin in range(0, draws, at_once):
        number = min(at_once, draws - begin)
        drawn_BC = rng.integers(count, size=(number, count)) + count * np.arange(number)[:, None]
        times_BC = np.bincount(drawn_BC.ravel(), minlength=number * count).reshape(number, count).astype(np.float64)
        yield _estimates(times_BC, delta_KC, weight_C, jackknife=jackknife)


def _estimates(
    times_BC: FloatArray, delta_KC: FloatArray, weight_C: FloatArray, *, jackknife: bool
) -> tuple[FloatArray, ...]:
    count, total_B = len(weight_C), times_BC @ weight_C
    value_KB = delta_KC @ times_BC.T / total_B
    squares_KB, cubes_KB = np.empty_like(value_KB), np.empty_like(value_KB)
    for k, (delta_C, value_B) in enumerate(zip(delta_KC, value_KB, strict=True)):
        deviation_BC = delta_C - value_B[:, None] * weight_C
        deviation_BC /= total_B[:, None] - (weight_C if jackknife else 0)
        times_square_BC = times_BC * deviation_BC**2
        squares_KB[k] = times_square_BC.sum(axis=1)
        cubes_KB[k] = (times_square_BC * deviation_BC).sum(axis=1)
        if jackknife:  # whose farthest document counts three times
            place_B1 = np.where(times_BC > 0, np.abs(deviation_BC), -1).argmax(axis=1)[:, None]
            farthest_B = np.take_along_axis(deviation_BC, place_B1, axis=1)[:, 0]
            squares_KB[k] += 2 * farthest_B**2
            cubes_KB[k] += 2 * farthest_B**3
    factor = (count - 1) / count if jackknife else count / (count - 1)
    effective_B = (
        np.minimum(total_B**2 / (times_BC @ weight_C**2), count) if jackknife else np.full(len(total_B), count)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness_KB = np.where(squares_KB > 0, cubes_KB / squares_KB**1.5 * math.sqrt(count), 0.0)
    everywhere = np.broadcast_to
    return (
        value_KB,
        np.sqrt(factor * squares_KB),
        everywhere(effective_B - 1.0, value_KB.shape),
        skewness_KB,
        everywhere(np.float64(count), value_KB.shape),
    )
