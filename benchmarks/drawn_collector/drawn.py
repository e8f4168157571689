"""--collector=drawn: statistics out of a generator, for runs of any size without a model."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eaftgate.collect.collection import TOP_K, TokenStats
from eaftgate.collect.collector import Needs, ScoredModel
from eaftgate.packs.blocks import Blocks

OFF = {"base": 0.0, "keep28": 0.02, "keep24": 0.08, "keep20": 0.3}
"""By how much the log-odds of a candidate's tokens differ."""


class Drawn:
    """Token statistics drawn from a generator that the block's own tokens seed: the same for every model, but moved."""

    def __init__(self, off: float) -> None:
        self._off = off

    def settings(self) -> dict[str, Any]:
        return {"collector": "drawn", "off": self._off}

    def batches(self, blocks: Blocks, first_block: int) -> Iterator[tuple[int, TokenStats]]:
        for block in range(first_block, blocks.num_blocks):
            ids_T = blocks.token_ids_BS[block][blocks.scored_BS[block]]
            yield 1, self._drawn(ids_T, np.random.default_rng(zlib.crc32(ids_T.tobytes())))

    def _drawn(self, ids_T: np.ndarray[Any, Any], rng: np.random.Generator) -> TokenStats:
        odds_T = rng.normal(6.0, 2.5, len(ids_T)) + self._off * rng.normal(-0.3, 1.0, len(ids_T))
        p_T = 1 / (1 + np.exp(-odds_T))
        best_T = np.where(p_T > 0.5, p_T, 0.5 + 0.4 * (0.5 - p_T))
        rest_TK = rng.uniform(0.1, 0.95, (len(ids_T), 1)) ** np.arange(1, TOP_K)
        rest_TK *= (0.95 * (1 - best_T) / rest_TK.sum(axis=1))[:, None]
        top_TK = np.concatenate([best_T[:, None], rest_TK], axis=1)
        share_TK = top_TK / top_TK.sum(axis=1, keepdims=True)
        entropy_T = -(share_TK * np.log(share_TK)).sum(axis=1) / np.log(TOP_K)
        top_ids_TK = (ids_T[:, None] + np.arange(TOP_K)).astype(np.int32) % 2048
        as_float32 = [array.astype(np.float32) for array in (np.log(p_T), entropy_T, np.log(top_TK))]
        return TokenStats(as_float32[0], np.clip(as_float32[1], 0, 1), top_ids_TK, as_float32[2])


class DrawnScorer:
    def collector(self, model: ScoredModel, *, other_batches: bool = False) -> Drawn:  # noqa: ARG002
        return Drawn(OFF.get(model.name, 0.0))

    def close(self) -> None: ...


class DrawnKind:
    name = "drawn"

    def add_options(self, option: Callable[..., object]) -> None: ...

    def needs(self, given: Mapping[str, Any]) -> Needs:  # noqa: ARG002
        return Needs(scores_copies=False)

    def open(self, given: Mapping[str, Any], *, batch_size: int, logs: Path) -> DrawnScorer:  # noqa: ARG002
        return DrawnScorer()


COLLECTOR = DrawnKind()
