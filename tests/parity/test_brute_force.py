"""The whole path from packs to metrics against a brute force: transformers' own models in float64, a full-vocabulary
softmax for one counted token after the other, SPEC section 3 in plain Python."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import Size
from tiny_model import (
    CPU,
    load_reference,
    reference_logits,
    slow_quantile,
    slow_token_stats,
    write_lively_checkpoint,
    write_packs,
)

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.collect.collection import TokenStats
from eaftgate.collect.store import CollectionStore, Request
from eaftgate.collect.transformers import LoadedModel, TransformersCollector
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import UNION, named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.metrics import cell_metrics
from eaftgate.rewrite.rewrite import rewrite_checkpoint

KEEP = [[0, 1, 2, 4, 6, 7, 9, 11], [1, 2, 3, 5, 6, 8, 10, 11]]
SEED = 0
ROUNDING = 2e-5
"""Float32 against float64 in p and in entropy, after two layers and logits of size 10."""


@dataclasses.dataclass(frozen=True)
class Case:
    base: TokenStats
    candidate: TokenStats
    slow_base: list[tuple[float, float]]
    slow_candidate: list[tuple[float, float]]
    """(p, H) of every counted token, by brute force."""


def spoken(path: Path, blocks: Blocks, seed: int) -> Blocks:
    """`blocks` with every counted token drawn from the model's own predictions, as an assistant's words are."""
    model = load_reference(path)
    rng = np.random.default_rng(seed)
    token_ids = blocks.token_ids_BS.copy()
    for b, s in np.argwhere(blocks.scored_BS):
        logits = np.array(reference_logits(model, token_ids[b, :s].tolist())[-1])
        weight = np.exp(logits - logits.max())
        token_ids[b, s] = rng.choice(len(weight), p=weight / weight.sum())
    return dataclasses.replace(blocks, token_ids_BS=token_ids)


def brute_force(path: Path, blocks: Blocks) -> list[tuple[float, float]]:
    model = load_reference(path)
    tokens = []
    for b in range(blocks.num_blocks):
        token_ids = blocks.token_ids_BS[b].tolist()
        logits = reference_logits(model, token_ids)
        for s in range(blocks.seq_len):
            if blocks.scored_BS[b, s]:
                logprob, entropy, _, _ = slow_token_stats(logits[s - 1], token_ids[s])
                tokens.append((math.exp(logprob), entropy))
    return tokens


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp("case")
    base = open_checkpoint(write_lively_checkpoint(root / "base", size=Size(layers=2, experts=12)))
    rewrite_checkpoint(base, KEEP, root / "candidate", provenance={})
    packs = named_packs(write_packs(root / "packs", {"chat": 12, "tools": 7}), seed=3407)
    tokenizer = load_tokenizer(base.path)
    blocks = build_blocks(packs[UNION], tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=32, num_blocks=14)
    blocks = spoken(base.path, blocks.scoring_content(), seed=SEED)
    store = CollectionStore(root / "store", session="s")

    def collected(path: Path) -> TokenStats:
        collector = TransformersCollector(LoadedModel(), path, path.name, CPU, batch_size=4)
        return store.get(Request(path.name, blocks, collector)).stats

    candidate = root / "candidate"
    return Case(
        collected(base.path), collected(candidate), brute_force(base.path, blocks), brute_force(candidate, blocks)
    )


def distance_to_an_edge(tokens: list[tuple[float, float]]) -> float:
    """Of the nearest p or H to an inner edge of its bins."""
    return min(
        abs(value - edge / bins)
        for token in tokens
        for value, bins in zip(token, (160, 120), strict=True)
        for edge in range(1, bins)
    )


def test_probability_and_entropy_of_every_token(case: Case) -> None:
    for stats, slow in ((case.base, case.slow_base), (case.candidate, case.slow_candidate)):
        assert len(stats) == len(slow) > 100
        np.testing.assert_allclose(np.exp(stats.logprob_T), [p for p, _ in slow], rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(stats.entropy_T, [h for _, h in slow], rtol=0, atol=ROUNDING)


def test_every_metric(case: Case) -> None:
    metrics = cell_metrics(case.base.logprob_T, case.base.entropy_T, case.candidate.logprob_T, case.candidate.entropy_T)
    number = len(case.slow_base)
    p_thr = slow_quantile([p for p, _ in case.slow_base], 0.15)
    h_thr = slow_quantile([h for _, h in case.slow_base], 0.15)
    assert metrics.tokens == number
    assert metrics.thresholds.p == pytest.approx(p_thr, abs=ROUNDING)
    assert metrics.thresholds.h == pytest.approx(h_thr, abs=ROUNDING)
    for tokens, ppl, mean_p, cc in (
        (case.slow_base, metrics.ppl_base, metrics.mean_p_base, metrics.cc_base),
        (case.slow_candidate, metrics.ppl, metrics.mean_p, metrics.cc),
    ):
        assert ppl == pytest.approx(math.exp(-sum(math.log(p) for p, _ in tokens) / number), rel=ROUNDING)
        assert mean_p == pytest.approx(sum(p for p, _ in tokens) / number, abs=ROUNDING)
        assert cc == sum(p <= p_thr and h <= h_thr for p, h in tokens) / number
    # With this seed no token lies so near to an edge that rounding could move it into another bin.
    assert distance_to_an_edge(case.slow_base + case.slow_candidate) > ROUNDING
    assert metrics.js2d == pytest.approx(slow_js2d(case.slow_base, case.slow_candidate), rel=1e-12)


def slow_js2d(base: list[tuple[float, float]], candidate: list[tuple[float, float]]) -> float:
    total = 0.0
    bins = [[(int(p * 160), int(h * 120)) for p, h in tokens] for tokens in (base, candidate)]
    for place in set(bins[0]) | set(bins[1]):
        a, b = (held.count(place) / len(held) for held in bins)
        total += sum(share * math.log(2 * share / (a + b)) for share in (a, b) if share) / 2
    return total


def test_the_case_is_a_hard_one(case: Case) -> None:
    """Both models are sure of some tokens and lost on others, they differ, and some conflicts are confident."""
    for slow in (case.slow_base, case.slow_candidate):
        assert min(p for p, _ in slow) < 1e-3
        print(sorted(p for p, _ in slow)[::10], sorted(h for _, h in slow)[::10])
        assert max(p for p, _ in slow) > 0.5
        assert max(h for _, h in slow) - min(h for _, h in slow) > 0.3
    metrics = cell_metrics(case.base.logprob_T, case.base.entropy_T, case.candidate.logprob_T, case.candidate.entropy_T)
    assert metrics.cc_base > 0
    assert metrics.cc > 0
    assert abs(metrics.delta_ppl) > 0.01 * metrics.ppl_base
    assert metrics.js2d > 0.01
