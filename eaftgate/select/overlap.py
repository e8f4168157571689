"""How much two selections agree: the Jaccard index of their keep sets, layer by layer.

Shapes: L layers.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

FloatArray = NDArray[np.float64]


def jaccard_L(keep: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> FloatArray:
    """Experts that both keep over experts that either keeps, 0 to 1; numbers of experts kept may differ.

    Raises ValueError when the two do not have as many layers.
    """
    pairs = ((set(a), set(b)) for a, b in zip(keep, other, strict=True))
    return np.array([len(a & b) / len(a | b) for a, b in pairs])


def jaccard_by_chance(num_experts: int, keep_n: int, other_keep_n: int) -> float:
    """The expected Jaccard index of keep sets drawn at random: what any agreement is to be held against."""
    both = np.arange(min(keep_n, other_keep_n) + 1)
    share = hypergeom.pmf(both, num_experts, keep_n, other_keep_n)
    return float(share @ (both / (keep_n + other_keep_n - both)))
