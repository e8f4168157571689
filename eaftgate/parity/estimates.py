"""Every paired statistic of a cell with its standard error, for policies with intervals. NumPy and SciPy only.

Which of them is a metric of which name, and what there is to know of that, is eaftgate.judge.metrics.

Shapes: T counted tokens.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eaftgate.packs.harmony import TokenClass
from eaftgate.parity.clusters import (
    UNKNOWN,
    Clusters,
    Estimate,
    Evidence,
    clustered,
    clusters_by,
    evidence_of,
    jackknifed,
)
from eaftgate.parity.js2d import Bins, corrected_js2d
from eaftgate.parity.messages import PairedMessages, paired_messages
from eaftgate.parity.metrics import Thresholds, confident_conflict
from eaftgate.parity.paired import PairedTokens

FloatArray = NDArray[np.float64]
PERCENTILES = {"maximum": 100.0, "p99_9": 99.9, "p99": 99.0, "p95": 95.0, "p90": 90.0, "median": 50.0}
"""Of a token's divergence, as llama.cpp's llama-perplexity --kl-divergence shows them."""


@dataclass(frozen=True)
class BaseTokens:
    """Counted tokens under the base alone; `thresholds` are the base's on the whole cell."""

    p_T: FloatArray
    h_T: FloatArray
    thresholds: Thresholds

    @cached_property
    def conflict_T(self) -> FloatArray:
        return confident_conflict(self.p_T, self.h_T, self.thresholds).astype(np.float64)


@dataclass(frozen=True)
class Measured:
    """A statistic of a cell, and the documents it rests on. `base_events` counts the base's events that it speaks of,
    where it speaks of events, of which so many were `lost` and `gained`; `details` say how it came about."""

    estimate: Estimate
    evidence: Evidence
    base_events: int | None = None
    lost: int | None = None
    gained: int | None = None
    details: Mapping[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class PairedCell:
    """What a statistic is computed from. `tokens` are those of content, `scored` all that were scored; `bins`, `swaps`
    and `seed` are those of js2d and its null. `jackknife`: how standard errors are made (eaftgate.parity.clusters)."""

    tokens: PairedTokens
    scored: PairedTokens
    thresholds: Thresholds
    bins: Bins
    swaps: int
    seed: int = 0
    jackknife: bool = False

    def estimate(self, value: float, influence_T: NDArray[Any], *, rare: bool = False) -> Estimate:
        """`value` with the standard error of the mean of its influence function."""
        if not self.jackknife:
            return clustered(value, influence_T, self.clusterings, rare=rare)
        return replace(jackknifed(influence_T, self.clusterings, rare=rare), value=value)

    def mean(self, value_T: NDArray[Any], *, rare: bool = False) -> Measured:
        value = float(np.mean(value_T, dtype=np.float64))
        return self.measured(self.estimate(value, value_T, rare=rare))

    def measured(self, estimate: Estimate, **said: Any) -> Measured:
        return Measured(estimate, self.evidence, **said)

    @cached_property
    def evidence(self) -> Evidence:
        return evidence_of(np.ones(len(self.tokens)), self.documents)

    @cached_property
    def base(self) -> BaseTokens:
        return BaseTokens(self.tokens.p_base_T, self.tokens.h_base_T, self.thresholds)

    @cached_property
    def documents(self) -> Clusters:
        return clusters_by(self.tokens.row_T)

    @cached_property
    def clusterings(self) -> tuple[Clusters, ...]:
        """By document and by block: no one of them covers all that tokens share."""
        return self.documents, clusters_by(self.tokens.block_T)

    @cached_property
    def conflict_T(self) -> FloatArray:
        """The candidate's confident conflicts."""
        return confident_conflict(self.tokens.p_T, self.tokens.h_T, self.thresholds).astype(np.float64)

    @cached_property
    def dp_T(self) -> FloatArray:
        """p_candidate - p_base."""
        return self.tokens.p_T - self.tokens.p_base_T


def nll_delta(cell: PairedCell) -> Measured:
    """Mean of nll_candidate - nll_base, nats a token: ln of the ratio of perplexities."""
    return cell.mean(cell.tokens.nll_delta_T)


def mean_p_delta(cell: PairedCell) -> Measured:
    """Mean of p_candidate - p_base."""
    return cell.mean(cell.dp_T)


def cc_rate_delta(cell: PairedCell) -> Measured:
    """Difference of the shares of confident conflicts."""
    return cell.mean(cell.conflict_T - cell.base.conflict_T, rare=True)


def cc_log_ratio(cell: PairedCell) -> Measured:
    """ln(conflicts / the base's), linearised: conflict_t / mean(conflict) - base_conflict_t / mean(base_conflict).

    Not a number without a conflict on either side.
    """
    rate, rate_base = float(cell.conflict_T.mean()), float(cell.base.conflict_T.mean())
    estimate = UNKNOWN
    if rate and rate_base:
        influence_T = cell.conflict_T / rate - cell.base.conflict_T / rate_base
        estimate = cell.estimate(math.log(rate / rate_base), influence_T, rare=True)
    return cell.measured(estimate, base_events=base_conflicts(cell.base))


def base_conflicts(base: BaseTokens) -> int:
    return int(base.conflict_T.sum())


def js2d_corrected(cell: PairedCell) -> Measured:
    """JS2D less its bias, nats."""
    found = corrected_js2d(cell.tokens, cell.clusterings, cell.documents, cell.bins, swaps=cell.swaps, seed=cell.seed)
    details = {
        "plug_in": found.plug_in,
        "bias": found.bias,
        "p_value": found.p_value,
        "occupied_bins": found.occupied_bins,
        "moved_share": found.moved_share,
    }
    return cell.measured(found.estimate, details=details)


def top20_jsd(cell: PairedCell) -> Measured:
    """Mean per-token divergence over the common ids of both top 20, nats."""
    return cell.mean(cell.tokens.top_jsd_T)


def top20_kld(cell: PairedCell) -> Measured:
    """Mean per-token KL(base || candidate), bounded from below by both top 20, nats; with its distribution, and what
    is to be put beside llama.cpp's figures: standard errors, of `nll_delta` too, as if tokens were independent."""
    kld_T = cell.tokens.top_kld_T
    details = {
        **dict(zip(PERCENTILES, np.percentile(kld_T, list(PERCENTILES.values())).tolist(), strict=True)),
        "iid_standard_error": _independent(kld_T),
        "ppl_iid_standard_error": _independent(cell.tokens.nll_delta_T),
        "unshared": float(np.mean(cell.tokens.unshared_T, dtype=np.float64)),
    }
    return replace(cell.mean(kld_T), details=details)


def _independent(value_T: NDArray[Any]) -> float:
    """The standard error of a mean over tokens of which none has to do with another."""
    return float(np.std(value_T, dtype=np.float64)) / math.sqrt(max(len(value_T) - 1, 1))


def same_top1(cell: PairedCell) -> Measured:
    """Share of tokens with the same most likely id."""
    return cell.mean(cell.tokens.same_top1_T)


def rms_dp(cell: PairedCell) -> Measured:
    """Root mean square of p_candidate - p_base."""
    rms = math.sqrt(float(np.mean(cell.dp_T**2)))
    influence_T = cell.dp_T**2 / (2 * rms) if rms else cell.dp_T
    return cell.measured(cell.estimate(rms, influence_T))


Statistic = Callable[[PairedCell], Measured | None]
"""None where a cell has nothing of what it speaks of."""


def nll_delta_of(kind: TokenClass) -> Statistic:
    """The same as `nll_delta`, over the tokens of one class."""

    def measure(cell: PairedCell) -> Measured | None:
        return _nll_delta_where(cell, cell.scored.roles.kind == kind)

    return measure


def nll_delta_of_recipients(cell: PairedCell) -> Measured | None:
    """Over the names that calls are addressed to."""
    return _nll_delta_where(cell, cell.scored.roles.recipient)


def nll_delta_of_everything(cell: PairedCell) -> Measured | None:
    """Over all tokens, prompts too, where they were scored."""
    return _nll_delta_where(cell, np.ones(len(cell.scored), bool)) if (cell.scored.roles.kind == 0).any() else None


def _nll_delta_where(cell: PairedCell, chosen_T: NDArray[np.bool_]) -> Measured | None:
    if not chosen_T.any():
        return None
    measured = nll_delta(replace(cell, tokens=cell.scored.select(chosen_T)))
    return replace(measured, details={"tokens": int(chosen_T.sum())})


def exact_loss(kind: TokenClass) -> Statistic:
    """(lost - gained) / the messages exact under the base, of those whose content is of one class.

    Lost: exact under the base and not under the candidate; gained the other way round. Tokens of a message stand and
    fall together, so that a message is one event; its document and its block are its clusters.
    """

    def measure(cell: PairedCell) -> Measured | None:
        messages = paired_messages(cell.scored, kind)
        if not len(messages):
            return None
        documents = clusters_by(messages.row_M)
        exact = int(messages.exact_base_M.sum())
        estimate, evidence = UNKNOWN, evidence_of(np.ones(len(messages)), documents)
        if exact:
            evidence = evidence_of(messages.exact_base_M, documents)
            estimate = jackknifed(
                messages.lost_M.astype(np.float64) - messages.gained_M,
                (documents, clusters_by(messages.block_M)),
                denominator_T=messages.exact_base_M,
                rare=True,
            )
        return Measured(
            estimate,
            evidence,
            base_events=exact,
            lost=int(messages.lost_M.sum()),
            gained=int(messages.gained_M.sum()),
            details={"messages": len(messages), "close": int(messages.close_M.sum()), **_by_prompt(messages)},
        )

    return measure


def _by_prompt(messages: PairedMessages) -> dict[str, int]:
    """Of the messages whose block lacks a part of their prompt."""
    cut = messages.cut_M
    columns = {"exact": messages.exact_base_M, "lost": messages.lost_M, "gained": messages.gained_M}
    return {"prompt_cut": int(cut.sum())} | {
        f"prompt_cut_{name}": int((cut & flag_M).sum()) for name, flag_M in columns.items()
    }
