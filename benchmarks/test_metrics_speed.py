"""All point estimates of one cell of a million tokens."""

from typing import Any

import numpy as np

from benchmarks.measuring import Figure, Report
from eaftgate.parity.metrics import cell_metrics

TOKENS = 1_000_000


def test_metrics(benchmark: Any, pytestconfig: Any, report: Report) -> None:
    rng = np.random.default_rng(0)
    logprob_T = -rng.exponential(1.5, TOKENS).astype(np.float32)
    entropy_T = rng.random(TOKENS, dtype=np.float32)
    noise_T = rng.standard_normal(TOKENS, dtype=np.float32) * np.float32(0.01)
    candidate = (np.minimum(logprob_T + noise_T, 0), np.clip(entropy_T + noise_T, 0, 1))
    benchmark.pedantic(
        cell_metrics,
        (logprob_T, entropy_T, *candidate),
        rounds=pytestconfig.getoption("rounds"),
        warmup_rounds=1,
    )
    report(Figure(f"{TOKENS:,} tokens", "a fixed limit", benchmark.stats.stats.median, "s", at_most=0.5))
