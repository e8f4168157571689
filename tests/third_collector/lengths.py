"""A collector of a project around: --collector=lengths. A longer token is less likely, and every model agrees."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eaftgate.collect.collection import TOP_K, TokenStats
from eaftgate.collect.collector import Needs, ScoredModel
from eaftgate.errors import UserError
from eaftgate.packs.blocks import Blocks


class Lengths:
    """What scores a model: `slope` nats a token id."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    def settings(self) -> dict[str, Any]:
        return {"collector": "lengths", **self._settings}

    def batches(self, blocks: Blocks, first_block: int) -> Iterator[tuple[int, TokenStats]]:
        for block in range(first_block, blocks.num_blocks):
            ids_T = blocks.token_ids_BS[block][blocks.scored_BS[block]]
            logprob_T = (-0.7 - self._settings["slope"] * (ids_T % 97) / 10).astype(np.float32)
            top_ids_TK = np.tile(np.arange(TOP_K, dtype=np.int32), (len(ids_T), 1))
            top_logprobs_TK = np.tile(np.linspace(-3.1, -4.0, TOP_K, dtype=np.float32), (len(ids_T), 1))
            entropy_T = (0.2 + (ids_T % 89) / 200).astype(np.float32)
            yield 1, TokenStats(logprob_T, entropy_T, top_ids_TK, top_logprobs_TK)


class LengthsScorer:
    def __init__(self, slope: float, batch_size: int) -> None:
        self._slope, self._batch_size, self.closed = slope, batch_size, False

    def collector(self, model: ScoredModel, *, other_batches: bool = False) -> Lengths:
        assert (model.path / "config.json").is_file()
        return Lengths({"slope": self._slope, "batch_size": self._batch_size, "others": other_batches})

    def close(self) -> None:
        self.closed = True


class LengthsKind:
    name = "lengths"

    def add_options(self, option: Callable[..., object]) -> None:
        option("--slope", type=float, metavar="X", help="lengths: how much less likely")
        option("--tp", type=int, metavar="N", help="GPUs that share one model")

    def needs(self, given: Mapping[str, Any]) -> Needs:
        if given.get("slope", 0.0) < 0:
            raise UserError(f"--slope is {given['slope']}: it must be 0 or more")
        return Needs(gpus=given.get("tp", 1), lowered_by=("--tp",), scores_copies=False)

    def open(self, given: Mapping[str, Any], *, batch_size: int, logs: Path) -> LengthsScorer:
        assert logs.name == "run"
        return LengthsScorer(given.get("slope", 1.0), batch_size)


COLLECTOR = LengthsKind()
