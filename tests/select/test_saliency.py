"""Saliency sums against plain loops over tokens, layers and selections: on random traces, and on a model's own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import (
    CPU,
    Selection,
    load_reference,
    reference_logits,
    reference_routing,
    slow_quantile,
    slow_token_stats,
    write_lively_checkpoint,
    write_packs,
)

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.packs.blocks import build_blocks
from eaftgate.packs.harmony import TokenClass
from eaftgate.packs.pack import UNION, named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.profile import profiler
from eaftgate.profile.profile import ALIGNMENTS, Profile
from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
from eaftgate.profile.trace import NORM_SCALE, Trace, TraceShard
from eaftgate.select.class_sums import region_sums
from eaftgate.select.saliency import EaftWeights, ExpertSums, mean_per_hit, regions

SUMS = ("hits_LE", "norm_LE", "mass_LE", "good_mass_LE", "eaft_mass_LE")
OTHER_WEIGHTS = EaftWeights(good=2.0, conflict=0.5, uncertain=-1.0, low_quantile=0.4)


def expert_sums(trace: Trace, *, alignment: str, weights: EaftWeights) -> ExpertSums:
    return region_sums(trace, alignment=alignment, low_quantile=weights.low_quantile).weighted(weights)


@dataclass(frozen=True)
class Token:
    p: float
    entropy: float
    selected: dict[str, list[list[Selection]]]
    """[alignment][layer] -> top_k selections."""


def slow_region(token: Token, p_lo: float, h_lo: float) -> str:
    if token.entropy <= h_lo:
        return "good" if token.p >= p_lo else "conflict"
    return "uncertain"


def slow_sums(
    tokens: Sequence[Token], alignment: str, weights: EaftWeights, *, layers: int, experts: int
) -> dict[str, list[list[float]]]:
    """SPEC section 4, one selection at a time."""
    p_lo = slow_quantile([token.p for token in tokens], weights.low_quantile)
    h_lo = slow_quantile([token.entropy for token in tokens], weights.low_quantile)
    sums = {name: [[0.0] * experts for _ in range(layers)] for name in SUMS}
    for token in tokens:
        region = slow_region(token, p_lo, h_lo)
        for layer in range(layers):
            for expert, gate, norm in token.selected[alignment][layer]:
                sums["hits_LE"][layer][expert] += 1
                sums["norm_LE"][layer][expert] += norm
                sums["mass_LE"][layer][expert] += gate * norm
                sums["good_mass_LE"][layer][expert] += gate * norm if region == "good" else 0.0
                sums["eaft_mass_LE"][layer][expert] += getattr(weights, region) * gate * norm
    return sums


# On random traces: the same numbers in, so equal to the rounding of float64 sums.

LAYERS, EXPERTS, TOP_K = 2, 5, 2


def random_trace(sizes: Sequence[int], seed: int) -> tuple[Trace, list[Token]]:
    """Shards of `sizes` tokens, p and entropy with many ties, and the same as a list of tokens."""
    rng = np.random.default_rng(seed)
    shards, tokens = [], []
    for size in sizes:
        shape = (size + 1, LAYERS, TOP_K)
        shard = TraceShard(
            expert_XLK=rng.permuted(np.tile(np.arange(EXPERTS), (*shape[:2], 1)), axis=2)[..., :TOP_K].astype(np.uint8),
            gate_XLK=rng.random(shape).astype(np.float16),
            norm_XLK=rng.random(shape).astype(np.float16),
            p_T=(rng.integers(0, 12, size) / 11).astype(np.float32),
            entropy_T=(rng.integers(0, 12, size) / 11).astype(np.float32),
            predicting_T=np.arange(size, dtype=np.int32),
            own_T=np.arange(1, size + 1, dtype=np.int32),
            row_T=np.zeros(size, np.int32),
            pack_T=np.zeros(size, np.uint8),
            token_T=np.arange(size, dtype=np.int32),
            kind_T=np.full(size, TokenClass.FINAL, np.uint8),
            content_T=np.ones(size, bool),
        )
        shards.append(shard)
        for t in range(size):
            selected = {
                alignment: [
                    [
                        (int(shard.expert_XLK[x, layer, k]), float(shard.gate_XLK[x, layer, k]),
                         float(shard.norm_XLK[x, layer, k]) * NORM_SCALE)
                        for k in range(TOP_K)
                    ]
                    for layer in range(LAYERS)
                ]
                for alignment, x in (("predicting", t), ("token", t + 1))
            }  # fmt: skip
            tokens.append(Token(float(shard.p_T[t]), float(shard.entropy_T[t]), selected))
    return Trace(tuple(shards), LAYERS, EXPERTS, TOP_K), tokens


SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=3).filter(any)


@given(SIZES, st.integers(0, 1000), st.sampled_from(ALIGNMENTS), st.sampled_from((EaftWeights(), OTHER_WEIGHTS)))
def test_sums_equal_plain_loops(sizes: list[int], seed: int, alignment: str, weights: EaftWeights) -> None:
    trace, tokens = random_trace(sizes, seed)
    sums = expert_sums(trace, alignment=alignment, weights=weights)
    expected = slow_sums(tokens, alignment, weights, layers=LAYERS, experts=EXPERTS)
    for name in SUMS:
        np.testing.assert_allclose(getattr(sums, name), expected[name], rtol=1e-12, atol=1e-12, err_msg=name)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=4), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_shards_does_not_matter(sizes: list[int], seed: int, random) -> None:  # type: ignore[no-untyped-def]
    trace, _ = random_trace(sizes, seed)
    shards = list(trace.shards)
    random.shuffle(shards)
    one, other = (
        expert_sums(found, alignment="token", weights=EaftWeights())
        for found in (trace, Trace(tuple(shards), LAYERS, EXPERTS, TOP_K))
    )
    for name in SUMS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12, atol=1e-12)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=3), st.integers(0, 1000))
def test_a_pack_has_the_sums_of_its_tokens(sizes: list[int], seed: int) -> None:
    """Where the tokens of all other packs put out nothing, the sums over all packs are those of the one."""
    trace, _ = random_trace(sizes, seed)
    rng = np.random.default_rng(seed)
    packs = [rng.integers(0, 3, size).astype(np.uint8) for size in sizes]
    shards = [replace(shard, pack_T=pack_T) for shard, pack_T in zip(trace.shards, packs, strict=True)]
    sums = expert_sums(replace(trace, shards=tuple(shards)), alignment="predicting", weights=OTHER_WEIGHTS)
    for pack in range(int(np.concatenate(packs).max()) + 1):
        silenced = []
        for shard in shards:
            norm_XLK = shard.norm_XLK.copy()
            norm_XLK[shard.predicting_T[shard.pack_T != pack]] = 0
            silenced.append(replace(shard, norm_XLK=norm_XLK))
        alone = expert_sums(replace(trace, shards=tuple(silenced)), alignment="predicting", weights=OTHER_WEIGHTS)
        for name in SUMS[1:]:
            found = getattr(sums, f"{name[:-3]}_PLE")[pack]
            np.testing.assert_allclose(found, getattr(alone, name), rtol=1e-12, atol=1e-12, err_msg=name)


def test_mean_per_hit_of_an_expert_that_was_never_selected_is_zero() -> None:
    mean = mean_per_hit(np.array([[6.0, 0.0, -3.0]]), np.array([[4.0, 0.0, 1.0]]))
    assert mean.tolist() == [[1.5, 0.0, -3.0]]


# Regions.


def test_default_weights_are_the_specified_ones() -> None:
    assert EaftWeights().as_dict() == {"good": 1.0, "conflict": -2.0, "uncertain": 0.25, "low_quantile": 0.15}


def test_regions_by_hand() -> None:
    """Eleven tokens: place 0.15 * 10 = 1.5. p_lo = 0.15, H_lo = 0.15; on a threshold is inside."""
    p = np.array([0.1, 0.2, 0.9, 0.9, 0.1, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9], dtype=np.float32)
    entropy = np.array([0.1, 0.1, 0.2, 0.2, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], dtype=np.float32)
    found = regions(p, entropy, 0.15)  # p_lo = (0.1 + 0.2) / 2, H_lo = (0.1 + 0.2) / 2
    expected = ["conflict", "uncertain", *["uncertain"] * 9]
    p_sorted, h_sorted = sorted(p.tolist()), sorted(entropy.tolist())
    assert (p_sorted[1], p_sorted[2], h_sorted[1], h_sorted[2]) == pytest.approx((0.1, 0.2, 0.1, 0.2))
    expected[1] = "good"
    assert found.conflict_T.tolist() == [region == "conflict" for region in expected]
    assert found.good_T.tolist() == [region == "good" for region in expected]
    weights = found.weight_T(OTHER_WEIGHTS)
    assert weights.tolist() == [getattr(OTHER_WEIGHTS, region) for region in expected]


@pytest.mark.parametrize("number", [21, 41, 101, 121, 201, 1001])
def test_a_token_on_both_thresholds_is_good(number: int) -> None:
    """0.15 * (number - 1) is whole: the thresholds are that token's own p and H, both inclusive."""
    value = (np.arange(number) / number).astype(np.float32)
    found = regions(value, value, 0.15)
    on = 3 * (number - 1) // 20
    assert found.good_T.nonzero()[0].tolist() == [on]
    assert found.conflict_T.nonzero()[0].tolist() == list(range(on))


# On a tiny model, whose MLPs are redone by hand.


@dataclass(frozen=True)
class Case:
    profile: Profile
    tokens: list[Token]
    layers: int
    experts: int


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    root: Path = tmp_path_factory.mktemp("case")
    base = open_checkpoint(write_lively_checkpoint(root / "base"))
    packs = write_packs(root / "packs", {"chat": 9, "tools": 5})
    request = ProfileRequest(packs, seq_len=28, seed=3407, batch_size=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiler, "SHARD_SECONDS", 0.0)
        profile = profile_checkpoint(base, "digest", request, root / "profile", CPU)
    assert len(profile.trace.shards) > 3

    tokenizer = load_tokenizer(base.path)
    rows = named_packs(packs, seed=3407)[UNION]
    blocks = build_blocks(rows, tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=28, num_blocks=None)
    model = load_reference(base.path)
    tokens = []
    content_BS = blocks.scored_BS & blocks.roles.content
    for token_ids, counted in zip(blocks.token_ids_BS.tolist(), content_BS, strict=True):
        logits, routing = reference_logits(model, token_ids), reference_routing(model, token_ids)
        for t in counted.nonzero()[0]:
            logprob, entropy, _, _ = slow_token_stats(logits[t - 1], token_ids[t])
            selected = {
                "predicting": [layer[t - 1] for layer in routing],
                "token": [layer[t] for layer in routing],
            }
            tokens.append(Token(float(np.exp(logprob)), entropy, selected))
    return Case(profile, tokens, base.num_layers, base.num_experts)


RELATIVE = 2 * 2.0**-11 + 1e-4
"""A float16 gate and a float16 norm are each off by 2^-11 at most, the float32 model by less than 1e-4."""


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("weights", [EaftWeights(), OTHER_WEIGHTS], ids=["default", "other"])
def test_sums_of_a_model_equal_the_slow_reference(case: Case, alignment: str, weights: EaftWeights) -> None:
    sums = expert_sums(case.profile.trace, alignment=alignment, weights=weights)
    expected = slow_sums(case.tokens, alignment, weights, layers=case.layers, experts=case.experts)
    np.testing.assert_array_equal(sums.hits_LE, expected["hits_LE"])
    for name in ("norm_LE", "mass_LE", "good_mass_LE"):
        np.testing.assert_allclose(getattr(sums, name), expected[name], rtol=RELATIVE, err_msg=name)
    # Positive and negative terms cancel: rounding is relative to the terms, not to their sum.
    heaviest = max(abs(weights.good), abs(weights.conflict), abs(weights.uncertain))
    error = np.abs(sums.eaft_mass_LE - expected["eaft_mass_LE"])
    assert (error <= RELATIVE * heaviest * np.array(expected["mass_LE"])).all()


def test_the_case_has_every_region_and_tells_alignments_apart(case: Case) -> None:
    trace = case.profile.trace
    trace = trace.select(trace.column("content_T"))
    assert trace.num_tokens == len(case.tokens) > 150
    found = regions(trace.column("p_T"), trace.column("entropy_T"), 0.15)
    assert 0 < found.conflict_T.sum() < found.good_T.sum() < 0.15 * trace.num_tokens + 1
    predicting, token = (expert_sums(trace, alignment=alignment, weights=EaftWeights()) for alignment in ALIGNMENTS)
    for name in SUMS:
        assert difference(predicting, token, name) > 10 * RELATIVE
    assert np.abs(predicting.eaft_mass_LE / predicting.mass_LE - 0.25).max() > 0.02


def difference(one: ExpertSums, other: ExpertSums, name: str) -> float:
    a, b = getattr(one, name), getattr(other, name)
    return float(np.abs(a - b).sum() / np.abs(a).sum())
