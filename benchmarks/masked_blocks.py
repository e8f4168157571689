"""What selections do to blocks, by masking: the rise of the log-loss by document, calls lost, a verdict.

Shapes: T scored tokens of content, R rows, D documents.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.classes import told
from benchmarks.paired_bootstrap import FloatArray, by_document, ratio, share_difference
from eaftgate.collect.collection import Collection
from eaftgate.families.model import MoeModel
from eaftgate.judge.cell import judge_cell
from eaftgate.judge.policy import load_gates
from eaftgate.packs.blocks import Blocks
from eaftgate.packs.harmony import TokenClass
from eaftgate.packs.pack import UNION
from eaftgate.parity.messages import paired_messages
from eaftgate.parity.paired import PairedTokens
from eaftgate.search.evaluate import collected, masked_tokens
from eaftgate.select.keep import KeepSets

POLICY = "near-lossless-v3"


@dataclass(frozen=True)
class Scored:
    """Some blocks, and what the whole model says of their tokens."""

    model: MoeModel
    blocks: Blocks
    batch_size: int

    @cached_property
    def _whole_nll_T(self) -> FloatArray:
        return self._nll_T()

    def _nll_T(self) -> FloatArray:
        return -collected(self.model, self.blocks, batch_size=self.batch_size).stats.logprob_T.astype(np.float64)

    @cached_property
    def content_T(self) -> NDArray[np.bool_]:
        content_T: NDArray[np.bool_] = self.blocks.roles.content[self.blocks.scored_BS]
        return content_T

    @cached_property
    def document_R(self) -> NDArray[np.intp]:
        """The number of every row's document: rows of the same text are one."""
        there = self.blocks.identities[: int(self.blocks.row_BS.max()) + 1]
        return np.unique(np.array(there), return_inverse=True)[1]

    @property
    def num_documents(self) -> int:
        return int(self.document_R.max()) + 1

    def first(self, num_blocks: int) -> "Scored":
        """The first blocks, which hold the first rows."""
        return replace(self, blocks=self.blocks.reordered(np.arange(min(num_blocks, self.blocks.num_blocks))))

    def by_document(self, row_X: NDArray[np.integer], value_X: NDArray[Any]) -> FloatArray:
        """[D]: sums over what is of every document's rows."""
        return by_document(self.document_R[row_X], value_X, self.num_documents)

    def rises_T(self, keep: KeepSets) -> FloatArray:
        """By how much the log-loss of every token of content is larger with `keep`."""
        whole_nll_T = self._whole_nll_T  # before anything is masked
        with self.model.keeping(keep):
            rise_T: FloatArray = (self._nll_T() - whole_nll_T)[self.content_T]
        return rise_T

    def rises_D(self, keep: KeepSets) -> FloatArray:
        row_T = self.blocks.row_BS[self.blocks.scored_BS][self.content_T]
        return self.by_document(row_T, self.rises_T(keep))


@dataclass(frozen=True)
class Judged:
    """Gate blocks of UNION or of a pack under the whole model; near-lossless-v3 judges the first `verdict_blocks`."""

    scored: Scored
    base: Collection
    verdict_blocks: int

    def tokens(self, keep: KeepSets) -> PairedTokens:
        return masked_tokens(self.scored.model, self.scored.blocks, self.base, keep, batch_size=self.scored.batch_size)

    def cell(self, tokens: PairedTokens) -> dict[str, Any]:
        """Its verdict, as `classes.py` tells it."""
        _, policy = load_gates().policy(POLICY)
        first = tokens.select(tokens.block_T < self.verdict_blocks)
        primary = self.scored.blocks.pack == UNION
        return told(judge_cell(policy, None, first, self.verdict_blocks, strict=False, primary_pack=primary))


@dataclass(frozen=True)
class Outcome:
    """What a selection does on gate rows, to be written, and by document: the rise of the log-loss, summed over content
    tokens, exact calls lost less gained, and calls that are exact under the base."""

    told: dict[str, Any]
    rise_D: FloatArray
    net_D: FloatArray
    exact_D: FloatArray


def outcome(judged: Judged, keep: KeepSets, pack_R: NDArray[np.str_]) -> Outcome:
    """`pack_R` names the pack of every row."""
    tokens = judged.tokens(keep)
    content, calls = tokens.content(), paired_messages(tokens, TokenClass.CALL)
    rise, pack_T = float(content.nll_delta_T.mean()), pack_R[content.row_T]
    packs = {str(pack): float(np.expm1(content.nll_delta_T[pack_T == pack].mean())) for pack in np.unique(pack_R)}
    lost, gained, exact = (int(found.sum()) for found in (calls.lost_M, calls.gained_M, calls.exact_base_M))
    described = {
        "rise": rise,
        "dppl": float(np.expm1(rise)),
        "packs": packs,
        "worst_over_union": max(packs.values()) / float(np.expm1(rise)) if rise > 0 else None,
        "calls": {
            "exact": exact, "lost": lost, "gained": gained, "net": (lost - gained) / exact if exact else None,
        },
        "v3": judged.cell(tokens),
        "keep": keep,
    }  # fmt: skip
    by_document = judged.scored.by_document
    return Outcome(
        described,
        by_document(content.row_T, content.nll_delta_T),
        by_document(calls.row_M, calls.lost_M.astype(np.float64) - calls.gained_M),
        by_document(calls.row_M, calls.exact_base_M),
    )


def compared(one: Outcome, other: Outcome, seed: int) -> dict[str, Any]:
    """`one` over `other`, and less it, on the same documents."""
    return {
        "rise": ratio(one.rise_D, other.rise_D, seed=seed),
        "net_calls": share_difference(one.net_D, other.net_D, one.exact_D, seed=seed),
    }
