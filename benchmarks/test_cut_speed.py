"""Cutting keep sets from a trace of the 20B's size: below 2 s, so that a new keep_n or weighting costs nothing.

Shapes: X positions, L layers, K selections, T counted tokens.
"""

from typing import Any

import numpy as np
import pytest

from benchmarks.measuring import Figure, Report
from eaftgate.packs.harmony import TokenClass
from eaftgate.profile.trace import Trace, TraceShard
from eaftgate.select.keep import select_keep_sets

SHARDS, TOKENS, LAYERS, EXPERTS, TOP_K = 10, 30_000, 24, 32, 4
"""300,000 counted tokens: what 512 blocks of 2048 hold when 29 % of the tokens count."""


def shard(seed: int) -> TraceShard:
    rng = np.random.default_rng(seed)
    shape = (TOKENS + 1, LAYERS, TOP_K)
    at_T = np.arange(TOKENS, dtype=np.int32)
    return TraceShard(
        expert_XLK=rng.integers(0, EXPERTS, shape, dtype=np.uint8),
        gate_XLK=rng.random(shape, np.float32).astype(np.float16),
        norm_XLK=rng.random(shape, np.float32).astype(np.float16),
        p_T=rng.random(TOKENS, np.float32),
        entropy_T=rng.random(TOKENS, np.float32),
        predicting_T=at_T,
        own_T=at_T + 1,
        row_T=at_T,
        pack_T=rng.integers(0, 3, TOKENS, dtype=np.uint8),
        token_T=np.arange(TOKENS, dtype=np.int32),
        kind_T=np.full(TOKENS, TokenClass.FINAL, np.uint8),
        content_T=np.ones(TOKENS, bool),
    )


@pytest.mark.parametrize("method", ["eaft-reap", "worst-pack"])
def test_cut(benchmark: Any, pytestconfig: Any, report: Report, method: str) -> None:
    trace = Trace(tuple(shard(seed) for seed in range(SHARDS)), LAYERS, EXPERTS, TOP_K)
    options = {"method": method, "keep_n": 20, "alignment": "predicting"}
    rounds = pytestconfig.getoption("rounds")
    keep = benchmark.pedantic(select_keep_sets, (trace,), options, rounds=rounds, warmup_rounds=1)
    assert [len(kept) for kept in keep] == [20] * LAYERS
    tokens = SHARDS * TOKENS
    report(Figure(f"{method}, {tokens:,} tokens", "a fixed limit", benchmark.stats.stats.median, "s", at_most=2.0))
