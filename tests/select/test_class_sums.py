"""Weights of classes mixed from sums are those of the trace: counted selection by selection, cut from a snapshot."""

from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots import described, write

from eaftgate.errors import UserError
from eaftgate.packs.harmony import TokenClass
from eaftgate.profile.profile import Profile
from eaftgate.profile.trace import NORM_SCALE, Trace, TraceShard
from eaftgate.select import class_sums
from eaftgate.select.class_sums import STORED_POWERS, region_sums, sums_of_classes
from eaftgate.select.class_weights import BALANCED_WEIGHTS, ClassWeights
from eaftgate.select.keep import scored_keep_sets, select_keep_sets
from eaftgate.select.saliency import EaftWeights, RegionSums, regions
from eaftgate.select.scorers import SCORERS
from eaftgate.select.scores import open_scores, scores_files, scores_of

LAYERS, EXPERTS, TOP_K, PACKS = 2, 8, 4, 3
KINDS = [kind for kind in TokenClass if kind is not TokenClass.NONE]
TYPES = [0.6, 0.2, 0.1, 0.1]
EAFT = EaftWeights(conflict=-1.3, uncertain=0.4)


def random_trace(seed: int, sizes: tuple[int, ...] = (90, 60), *, of_before: bool = False) -> Trace:
    """Few types a class, so that some are frequent; every fourth token of a header or close is of content, too."""
    rng = np.random.default_rng(seed)
    shards = []
    for size in sizes:
        shape = (size + 1, LAYERS, TOP_K)
        kind_T = rng.choice(KINDS, size).astype(np.uint8)
        edge_T = np.isin(kind_T, (TokenClass.HEADER, TokenClass.CLOSE))
        shards.append(
            TraceShard(
                expert_XLK=rng.permuted(np.tile(np.arange(EXPERTS), (*shape[:2], 1)), axis=2)[..., :TOP_K].astype("u1"),
                gate_XLK=rng.random(shape).astype(np.float16),
                norm_XLK=rng.random(shape).astype(np.float16),
                p_T=(rng.integers(0, 12, size) / 11).astype(np.float32),
                entropy_T=(rng.integers(0, 12, size) / 11).astype(np.float32),
                predicting_T=np.arange(size, dtype=np.int32),
                own_T=np.arange(1, size + 1, dtype=np.int32),
                row_T=np.zeros(size, np.int32),
                pack_T=rng.integers(0, PACKS, size).astype(np.uint8),
                token_T=np.full(size, -1, np.int32) if of_before else rng.choice(4, size, p=TYPES).astype(np.int32),
                kind_T=np.zeros(size, np.uint8) if of_before else kind_T,
                content_T=np.ones(size, bool) if of_before else ~edge_T | (rng.random(size) < 0.25),
            )
        )
    return Trace(tuple(shards), LAYERS, EXPERTS, TOP_K)


def slow_sums(trace: Trace, weights: ClassWeights) -> RegionSums:
    """One selection at a time, at the predicting positions."""
    kind, token, content, pack = (trace.column(name).tolist() for name in ("kind_T", "token_T", "content_T", "pack_T"))
    types = list(zip(kind, token, strict=True))
    count = Counter(types)
    factor = [max(count[each], 3) ** -weights.type_power for each in types]
    mean = {k: float(np.mean([f for f, other in zip(factor, kind, strict=True) if other == k])) for k in set(kind)}
    found = regions(
        trace.column("p_T"), trace.column("entropy_T"), 0.15, content_T=trace.column("content_T")
    )  # fmt: skip
    hits, norms = np.zeros((PACKS, LAYERS, EXPERTS)), np.zeros((PACKS, LAYERS, EXPERTS))
    mass = np.zeros((PACKS, 3, LAYERS, EXPERTS))
    t = 0
    for experts, gates, norm_TLK in trace.selections("predicting"):
        for expert_LK, gate_LK, norm_LK in zip(experts, gates, norm_TLK, strict=True):
            region = 0 if found.good_T[t] else 1 if found.conflict_T[t] else 2
            name = TokenClass(kind[t]).name.lower()
            weight = getattr(weights, name, 0.0) * factor[t] / mean[kind[t]]
            if weights == ClassWeights():
                weight = float(content[t])
            for layer in range(LAYERS):
                for expert, gate, norm in zip(expert_LK[layer], gate_LK[layer], norm_LK[layer], strict=True):
                    hits[pack[t], layer, expert] += weight
                    norms[pack[t], layer, expert] += weight * float(norm)
                    mass[pack[t], region, layer, expert] += weight * float(gate) * float(norm)
            t += 1
    return RegionSums(hits, norms, mass)


WEIGHT = st.sampled_from([0.0, 0.5, 1.0, 3.0, 16.0])
WEIGHTS = st.builds(
    ClassWeights,
    header=WEIGHT, analysis=WEIGHT, final=WEIGHT, commentary=WEIGHT, call=st.sampled_from([1.0, 8.0]), other=WEIGHT,
    close=WEIGHT, type_power=st.sampled_from(STORED_POWERS),
)  # fmt: skip


@settings(max_examples=15)
@given(st.integers(0, 1000), WEIGHTS | st.just(ClassWeights()) | st.just(ClassWeights(final=0, type_power=1.0)))
def test_sums_are_those_of_selection_by_selection(seed: int, weights: ClassWeights) -> None:
    trace = random_trace(seed, (70, 0, 40))
    found = region_sums(trace, alignment="predicting", low_quantile=0.15, classes=weights)
    expected = slow_sums(trace, weights)
    for name in ("hits_PLE", "norm_PLE", "mass_PRLE"):
        packs = len(getattr(found, name))
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name)[:packs], rtol=1e-10, err_msg=name)
        assert not getattr(expected, name)[packs:].any()
    assert NORM_SCALE == 16  # which `selections` has in it


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("snapshot")


@settings(max_examples=25)
@given(
    st.integers(0, 1000), WEIGHTS | st.sampled_from([ClassWeights(), BALANCED_WEIGHTS]), st.sampled_from([4, 6]),
    st.sampled_from(["predicting", "token"]),
)  # fmt: skip
def test_a_snapshot_cuts_what_the_trace_does(
    place: Path, seed: int, weights: ClassWeights, keep_n: int, alignment: str
) -> None:
    """The same bits, for every scorer."""
    trace = random_trace(seed)
    profile = Profile(place, described(LAYERS, EXPERTS, packs=PACKS), trace)
    made = scores_of(profile, alignment=alignment, low_quantile=0.15)
    read = open_scores(write(place, scores_files(made)))
    sums = region_sums(trace, alignment=alignment, low_quantile=0.15, classes=weights)
    for name in ("hits_PLE", "norm_PLE", "mass_PRLE"):
        assert getattr(read.weighed(weights), name).tobytes() == getattr(sums, name).tobytes()
    for method in SCORERS:
        assert scored_keep_sets(
            read.weighed(weights), method=method, keep_n=keep_n, weights=EAFT
        ) == select_keep_sets(
            trace, method=method, keep_n=keep_n, alignment=alignment, weights=EAFT, classes=weights
        )  # fmt: skip


def test_weights_change_what_is_cut() -> None:
    """Else the comparison above would say little."""
    plain, balanced = (
        select_keep_sets(random_trace(5), method="reap-mass", keep_n=4, alignment="token", classes=classes)
        for classes in (None, BALANCED_WEIGHTS)
    )
    assert plain != balanced


def test_another_type_power_is_there_only_if_it_was_cut_with_it(place: Path) -> None:
    profile = Profile(place, described(LAYERS, EXPERTS, packs=PACKS), random_trace(1))
    odd = ClassWeights(type_power=0.5)
    made = scores_of(profile, alignment="token", low_quantile=0.15)
    with pytest.raises(UserError, match=r"sums for type_power 0, 0\.75: give one of these, or --profile for 0\.5"):
        made.weighed(odd)
    also = scores_of(profile, alignment="token", low_quantile=0.15, classes=odd)
    read = open_scores(write(place, scores_files(also)))
    assert read.weighed(odd).hits_PLE.any()
    assert read.weighed(ClassWeights()).hits_PLE.tobytes() == made.sums.hits_PLE.tobytes()


@pytest.mark.parametrize("weights", [ClassWeights(call=1e308), ClassWeights(call=2.5e306)])
def test_weights_beyond_all_bounds_are_refused(weights: ClassWeights) -> None:
    with pytest.raises(UserError, match="choose weights near 1"):
        region_sums(random_trace(2, (400,)), alignment="token", low_quantile=0.15, classes=weights)


def test_a_profile_of_before_classes_has_a_plain_snapshot(place: Path) -> None:
    profile = Profile(place, described(LAYERS, EXPERTS, packs=PACKS), random_trace(1, of_before=True))
    made = scores_of(profile, alignment="token", low_quantile=0.15)
    read = open_scores(write(place, scores_files(made)))
    assert read.by_class is None
    assert read.weighed(ClassWeights()).mass_PRLE.tobytes() == made.sums.mass_PRLE.tobytes()
    with pytest.raises(UserError, match="hold sums of one weighting, cut without --class-weight"):
        read.weighed(BALANCED_WEIGHTS)


def test_every_class_has_its_own_tokens() -> None:
    trace = random_trace(9)
    _, by_class = sums_of_classes(trace, [0.75], alignment="token", low_quantile=0.15)
    assert by_class.type_powers == (0.0, 0.75)
    assert by_class.tokens_C.sum() == trace.num_tokens
    np.testing.assert_allclose(by_class.hits_ZCPLE[0].sum(axis=(1, 3)), TOP_K * by_class.tokens_C[:, None] * [1, 1])
    np.testing.assert_allclose(by_class.hits_ZCPLE[1].sum(axis=(1, 3)), TOP_K * by_class.tokens_C[:, None] * [1, 1])


def in_one_shard(trace: Trace) -> Trace:
    starts = np.cumsum([0, *(len(shard.expert_XLK) for shard in trace.shards)])
    columns = {
        field.name: np.concatenate(
            [
                getattr(shard, field.name) + (start if field.name in ("predicting_T", "own_T") else 0)
                for shard, start in zip(trace.shards, starts, strict=False)
            ]
        ).astype(getattr(trace.shards[0], field.name).dtype)
        for field in fields(TraceShard)
    }
    return Trace((TraceShard(**columns),), trace.num_layers, trace.num_experts, trace.top_k)


@pytest.mark.parametrize("sizes", [(90, 60), (1, 2, 147), (6, 7, 8, 7, 122)])
@pytest.mark.parametrize("chunk", [7, 64, 1 << 14])
def test_sums_do_not_depend_on_how_a_trace_lies_in_shards(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], chunk: int
) -> None:
    """To the bit: an interrupted profile, or one that was streamed, gives the same snapshot."""
    monkeypatch.setattr(class_sums, "_CHUNK", chunk)
    trace = random_trace(3, sizes)
    (plain, by_class), (same, same_by_class) = (
        sums_of_classes(of, STORED_POWERS, alignment="predicting", low_quantile=0.1)
        for of in (trace, in_one_shard(trace))
    )
    for name in ("hits_PLE", "norm_PLE", "mass_PRLE"):
        assert np.array_equal(getattr(plain, name), getattr(same, name)), name
    for name in ("tokens_C", "hits_ZCPLE", "norm_ZCPLE", "mass_ZCPRLE"):
        assert np.array_equal(getattr(by_class, name), getattr(same_by_class, name)), name
