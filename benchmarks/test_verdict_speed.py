"""A cell of a million tokens judged by near-lossless-v2: paired, with intervals, swap null, and every look of a
sequential run that never decides."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from content import content_roles

from benchmarks.measuring import Figure, Report
from eaftgate.collect.collection import TOP_K, Collection, TokenStats
from eaftgate.judge.cell import judge_in_looks, plan_looks
from eaftgate.judge.policy import IntervalPolicy, load_gates
from eaftgate.parity.paired import PairedTokens, pair

TOKENS, BLOCKS, ROWS = 1_000_000, 2000, 5000


def collection(rng: np.random.Generator, noise: float) -> Collection:
    order = np.random.default_rng(1)
    logprob_T = np.minimum(-order.exponential(1.5, TOKENS) + noise * rng.standard_normal(TOKENS), 0)
    entropy_T = np.clip(order.random(TOKENS) + noise * rng.standard_normal(TOKENS), 0, 1)
    top_TK = -np.sort(order.exponential(5.0, (TOKENS, TOP_K)).astype(np.float32), axis=1) - 3
    ids_TK = order.integers(0, 200_000, (TOKENS, 1), np.int32) + np.arange(TOP_K, dtype=np.int32)
    ids_TK[rng.random(TOKENS) < noise, -1] = 0
    stats = TokenStats(logprob_T.astype(np.float32), entropy_T.astype(np.float32), ids_TK, top_TK)
    row_T = (np.arange(TOKENS) * ROWS // TOKENS).astype(np.int32)
    block_T = (np.arange(TOKENS) * BLOCKS // TOKENS).astype(np.int32)
    content = np.ones(TOKENS, bool)
    return Collection(stats, row_T, row_T, block_T, content_roles(content), ~content, (), {})


def test_verdict(benchmark: Any, pytestconfig: Any, report: Report) -> None:
    policy = load_gates().policies["near-lossless-v2"]
    assert isinstance(policy, IntervalPolicy)
    base, candidate = (collection(np.random.default_rng(seed), noise) for seed, noise in ((2, 0.0), (3, 0.1)))
    # The margin lies on the estimate, so that no look decides.
    ppl = policy.rules["ppl"]
    assert ppl.margin is not None
    margin = ppl.margin.model_copy(update={"value": float(pair(base, candidate).nll_delta_T.mean())})
    rules = {metric: rule.model_copy(update={"role": "advisory"}) for metric, rule in policy.rules.items()}
    policy = policy.model_copy(update={"rules": {**rules, "ppl": ppl.model_copy(update={"margin": margin})}})
    looks = plan_looks(policy.sequential, BLOCKS)
    order = np.random.default_rng(4).permutation(BLOCKS)

    def whole() -> None:
        tokens = pair(base, candidate)

        def parts() -> Iterator[PairedTokens]:
            begin = 0
            for look in looks:
                yield tokens.select(np.isin(tokens.block_T, order[begin : look.num_blocks]))
                begin = look.num_blocks

        judged = judge_in_looks(policy, None, pair(base, base), looks, parts(), strict=False)
        assert judged.num_blocks == BLOCKS

    benchmark.pedantic(whole, rounds=pytestconfig.getoption("rounds"), warmup_rounds=1)
    median = benchmark.stats.stats.median
    report(Figure(f"{TOKENS:,} tokens, {len(looks)} looks", "a fixed limit", median, "s", at_most=3.0))
