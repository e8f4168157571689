"""Every paired statistic of a cell with its standard error: what near-lossless-v2 decides on. NumPy and SciPy only.

Shapes: T counted tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from eaftgate.parity.clusters import Clusters, Estimate, clustered, clustered_mean, clusters_by
from eaftgate.parity.js2d import Bins, CorrectedJs2d, corrected_js2d
from eaftgate.parity.metrics import Thresholds, confident_conflict
from eaftgate.parity.paired import PairedTokens


@dataclass(frozen=True)
class CellEstimates:
    """Estimates by metric name:

    ppl: mean of nll_candidate - nll_base, nats a token (ln of the ratio of perplexities)
    mean_p: mean of p_candidate - p_base
    cc_rate: difference of the shares of confident conflicts
    cc_ratio: ln of the ratio of their numbers
    js2d_corrected: JS2D less its bias, nats
    top20_jsd: mean per-token divergence over the common ids of both top 20, nats
    same_top1: share of tokens with the same most likely id
    rms_dp: root mean square of p_candidate - p_base
    """

    by_metric: Mapping[str, Estimate]
    cc_events_base: int
    js2d: CorrectedJs2d | None


def estimate_cell(
    tokens: PairedTokens, thresholds: Thresholds, bins: Bins | None, *, swaps: int, seed: int = 0
) -> CellEstimates:
    """`thresholds` are the base's on the whole cell; `swaps` and `seed` are those of JS2D's null.

    Without `bins`, js2d_corrected is left out.
    """
    documents, blocks = clusters_by(tokens.row_T), clusters_by(tokens.block_T)
    both = (documents, blocks)
    dp_T = tokens.p_T - tokens.p_base_T
    conflict_base_T = confident_conflict(tokens.p_base_T, tokens.h_base_T, thresholds).astype(np.float64)
    conflict_T = confident_conflict(tokens.p_T, tokens.h_T, thresholds).astype(np.float64)
    rms = math.sqrt(float(np.mean(dp_T**2)))
    estimates = {
        "ppl": clustered_mean(tokens.nll_delta_T, both),
        "mean_p": clustered_mean(dp_T, both),
        "cc_rate": clustered_mean(conflict_T - conflict_base_T, both, rare=True),
        "cc_ratio": _log_ratio(conflict_T, conflict_base_T, both),
        "top20_jsd": clustered_mean(tokens.top_jsd_T, both),
        "same_top1": clustered_mean(tokens.same_top1_T, both),
        "rms_dp": clustered(rms, dp_T**2 / (2 * rms) if rms else dp_T, both),
    }
    js2d = None
    if bins is not None:
        js2d = corrected_js2d(tokens, both, documents, bins, swaps=swaps, seed=seed)
        estimates["js2d_corrected"] = js2d.estimate
    return CellEstimates(MappingProxyType(estimates), int(conflict_base_T.sum()), js2d)


def _log_ratio(event_T: NDArray[np.float64], base_event_T: NDArray[np.float64], both: tuple[Clusters, ...]) -> Estimate:
    """ln(events / base events), linearised: event_t / mean(event) - base_event_t / mean(base_event).

    Not a number without an event on either side.
    """
    rate, rate_base = float(event_T.mean()), float(base_event_T.mean())
    if not (rate and rate_base):
        return Estimate(math.nan, math.inf, 0)
    return clustered(math.log(rate / rate_base), event_T / rate - base_event_T / rate_base, both, rare=True)
