"""Profiling with one layer in memory at a time: the same trace, byte for byte, whatever the groups."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gate_command import BASE, CALIBRATION_PACKS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_checkpoint import Size
from tiny_model import write_lively_checkpoint, write_packs

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.errors import UserError
from eaftgate.families.model import MoeModel
from eaftgate.gate.planning import DEFAULT_REGIME
from eaftgate.judge.policy import load_gates
from eaftgate.model.load import ModelSettings, load_model
from eaftgate.model.stream import StreamedModel
from eaftgate.model.weights import layer_bytes
from eaftgate.profile import profiler, streamed
from eaftgate.profile.observe import observe_batch
from eaftgate.profile.profile import Profile, open_profile
from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
from eaftgate.profile.trace import FORMS, TraceShard, save_shard
from eaftgate.progress import AGAIN, ANEW
from eaftgate.stages.forecast import forecast

DIGEST = "0" * 64
SIZE = Size(layers=3)
CPU, CPU_BF16 = (ModelSettings("cpu", dtype, dequantize=True) for dtype in ("float32", "bfloat16"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_lively_checkpoint(tmp_path_factory.mktemp("base"), size=SIZE))


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packs(tmp_path_factory.mktemp("packs"), {"chat": 6, "tools": 3})


def profile(
    base: Checkpoint, request: ProfileRequest, out: Path, *, stream: bool | None, of: ModelSettings = CPU
) -> Profile:
    return profile_checkpoint(base, DIGEST, request, out, of, stream=stream)


def columns(found: Profile) -> dict[str, bytes]:
    """Of the whole trace, whatever its shards."""
    trace = found.trace
    ends = {"predicting_T", "own_T"}  # which index the shard's positions
    offsets = [0]
    for shard in trace.shards:
        offsets.append(offsets[-1] + len(shard.expert_XLK))
    return {
        name: b"".join(
            (getattr(shard, name) + np.int32(offset) if name in ends else getattr(shard, name)).tobytes()
            for shard, offset in zip(trace.shards, offsets, strict=False)
        )
        for name in FORMS
    }


@pytest.fixture(scope="module")
def whole(base: Checkpoint, packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    request = ProfileRequest(packs, seq_len=24, batch_size=2)
    return profile(base, request, tmp_path_factory.mktemp("whole") / "profile", stream=False)


def assert_identical(found: Profile, expected: Profile) -> None:
    ours, theirs = columns(found), columns(expected)
    assert [name for name in FORMS if ours[name] != theirs[name]] == []
    of_a_run: dict[str, Any] = {"seconds": None, "speed": None, "trace": None}
    assert found.description.model_copy(update=of_a_run) == expected.description.model_copy(update=of_a_run)


@pytest.fixture(scope="module", params=["mxfp4 float32", "mxfp4 bfloat16", "plain bfloat16"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[MoeModel, StreamedModel]:
    stored, dtype = request.param.split()
    path = write_lively_checkpoint(tmp_path_factory.mktemp("models"), size=SIZE, mxfp4=stored == "mxfp4")
    of = ModelSettings("cpu", dtype, dequantize=True)
    return load_model(path, of), StreamedModel(open_checkpoint(path), of)


@settings(max_examples=20)
@example(seq_len=24, sizes=[3, 3, 1], density=0.3, seed=0)
@example(seq_len=24, sizes=[1, 1], density=0.0, seed=0)
@given(
    seq_len=st.integers(2, 70),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    density=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_batches_of_any_shape_are_observed_alike(
    models: tuple[MoeModel, StreamedModel], seq_len: int, sizes: list[int], density: float, seed: int
) -> None:
    whole, parts = models
    rng = np.random.default_rng(seed)
    batches = []
    for size in sizes:
        scored_BS = rng.random((size, seq_len)) < density
        scored_BS[:, 0] = False
        batches.append((rng.integers(0, len(whole.head_VD), (size, seq_len), dtype=np.int32), scored_BS))
    advanced: list[int] = []
    found = streamed.observe_streamed(parts, batches, advanced.append, seconds=60)
    assert sum(advanced) == sum(sizes) * seq_len
    for one, batch in zip(found, batches, strict=True):
        expected = observe_batch(whole, *batch)
        for name in ("expert_XLK", "gate_XLK", "norm_XLK", "predicting_T", "own_T"):
            assert getattr(one, name).tobytes() == getattr(expected, name).tobytes(), name
        for name, column in vars(expected.stats).items():
            assert getattr(one.stats, name).tobytes() == column.tobytes(), name


@pytest.mark.parametrize("of", [CPU, CPU_BF16])
def test_the_trace_of_the_embedded_checkpoint_is_that_of_the_whole_model(of: ModelSettings, tmp_path: Path) -> None:
    """Of two shards, trained, with windows of 128."""
    base, request = open_checkpoint(BASE), ProfileRequest(CALIBRATION_PACKS, num_rows=10, seq_len=160, batch_size=3)
    found = profile(base, request, tmp_path / "streamed", stream=True, of=of)
    whole = profile(base, request, tmp_path / "whole", stream=False, of=of)
    assert_identical(found, whole)
    speeds = found.description.speed, whole.description.speed
    assert [speed and speed.streamed for speed in speeds] == [True, False]
    # Most of the time of the one may have been reading weights: a gate's is not told by it.
    regime = load_gates().regime(DEFAULT_REGIME)
    rates = [forecast(base, [24], regime, None, rate=None, profile=one.path).rate for one in (found, whole)]
    assert rates == [None, speeds[1] and speeds[1].tokens_per_second]


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of batches of every group."""
    sizes: list[int] = []

    def counting(*arguments: Any, **named: Any) -> Any:
        found = streamed.observe_streamed(*arguments, **named)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(profiler, "observe_streamed", counting)
    return sizes


def test_a_group_is_what_memory_allows(
    base: Checkpoint, packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Profile, groups: list[int]
) -> None:
    monkeypatch.setattr(profiler, "group_tokens", lambda *_: 100)
    found = profile(base, ProfileRequest(packs, seq_len=24, batch_size=2), tmp_path / "profile", stream=True)
    assert_identical(found, whole)
    assert sum(groups) == -(-found.description.num_blocks // 2)
    assert set(groups[:-1]) == {2}


@pytest.mark.parametrize(("groups_kept", "said"), [(0, "0 of them kept; " + ANEW), (2, "96 of them kept; " + AGAIN)])
def test_what_an_interrupted_one_keeps_is_said(
    base: Checkpoint,
    packs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    groups_kept: int,
    said: str,
) -> None:
    """Of a group that is not done nothing is."""
    monkeypatch.setattr(profiler, "SHARD_SECONDS", 0.0)
    monkeypatch.setattr(streamed, "READINGS", 0.0)
    saved: list[int] = []

    def interrupted(*arguments: Any) -> None:
        if len(saved) == groups_kept:
            raise KeyboardInterrupt
        save_shard(*arguments)
        saved.append(1)

    monkeypatch.setattr(profiler, "save_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        profile(base, ProfileRequest(packs, seq_len=24, batch_size=2), tmp_path / "profile", stream=True)
    assert said in capsys.readouterr().err


def test_a_group_ends_when_time_is_up(
    base: Checkpoint, packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Profile, groups: list[int]
) -> None:
    """So that an interrupted profile of hours loses minutes."""
    monkeypatch.setattr(profiler, "SHARD_SECONDS", 0.0)
    monkeypatch.setattr(streamed, "READINGS", 0.0)
    found = profile(base, ProfileRequest(packs, seq_len=24, batch_size=2), tmp_path / "profile", stream=True)
    assert_identical(found, whole)
    assert set(groups) == {1}


def test_a_gpu_is_one_layer_behind_at_most(
    models: tuple[MoeModel, StreamedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or weights that wait for it would pile up, pinned, and the time left would be of what is asked, not done."""
    _, parts = models
    order: list[str] = []
    layers = iter(range(SIZE.layers))

    def work_done(_: torch.device) -> Callable[[], None]:
        layer = next(layers, None)
        return lambda: order.append(f"waited for {layer}")

    opened = StreamedModel.layer

    def layer(stream: StreamedModel, number: int) -> Any:
        order.append(f"read {number}")
        return opened(stream, number)

    monkeypatch.setattr(StreamedModel, "layer", layer)
    # Once in the first layer, whose batches are timed, and once at the end of each.
    timed = iter([lambda: order.append("timed")])
    monkeypatch.setattr(streamed, "work_done", lambda device: next(timed, None) or work_done(device))
    batch = (np.zeros((1, 4), np.int32), np.array([[False, True, True, True]]))
    streamed.observe_streamed(parts, [batch], lambda _: None, seconds=60)
    assert order == ["read 0", "timed", "read 1", "waited for 0", "read 2"]


def test_the_states_of_a_group_take_a_part_of_memory(base: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    size = base.dimensions
    assert streamed.group_tokens(base, CPU) == streamed.LEAST_TOKENS, "a tiny model's layers are soon run"
    monkeypatch.setattr(streamed, "LEAST_TOKENS", 1)
    quarter = size.num_experts * 3 * size.hidden_size * size.intermediate_size // 4
    assert streamed.group_tokens(base, CPU) * size.hidden_size == quarter
    gpu = ModelSettings("cuda", "bfloat16", dequantize=True)
    layers = 2 * layer_bytes(base, 2)
    for free, tokens in ((layers + 2**30, 2**29 // (2 * size.hidden_size)), (layers, quarter // size.hidden_size)):
        monkeypatch.setattr(streamed, "free_bytes", lambda _, free=free: free)
        assert streamed.group_tokens(base, gpu) == tokens


# Which way.


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """By which way models were had."""
    taken: list[str] = []
    for name in ("load_model", "StreamedModel"):
        original: Callable[..., Any] = getattr(profiler, name)

        def noted(*arguments: Any, name: str = name, original: Callable[..., Any] = original) -> Any:
            taken.append(name)
            return original(*arguments)

        monkeypatch.setattr(profiler, name, noted)
    return taken


@pytest.mark.parametrize(
    ("free", "stream", "taken", "said"),
    [
        (10**12, None, "load_model", ""),
        (None, None, "load_model", ""),
        (10**4, None, "StreamedModel", "one layer is in memory at a time: BASE takes "),
        (10**4, False, "load_model", ""),
        (10**12, True, "StreamedModel", ""),
    ],
)
def test_one_layer_at_a_time_where_the_whole_does_not_fit(
    base: Checkpoint, packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ways: list[str],
    capsys: pytest.CaptureFixture[str], free: int | None, stream: bool | None, taken: str, said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("eaftgate.model.memory.free_bytes", lambda _: free)
    named = dataclasses.replace(base, name="BASE")
    profile(named, ProfileRequest(packs, num_rows=3, seq_len=24), tmp_path / "profile", stream=stream)
    assert ways == [taken]
    printed = capsys.readouterr().err
    assert ("one layer is in memory" in printed) == bool(said)
    assert said in printed


# Interrupted.


@pytest.mark.parametrize(
    ("first", "then", "saved"), [(True, True, 0), (True, True, 2), (True, False, 1), (False, True, 3)]
)
def test_an_interrupted_profile_is_taken_up_by_either_way(
    base: Checkpoint,
    packs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: Profile,
    first: bool,
    then: bool,
    saved: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(profiler, "SHARD_SECONDS", 0.0)
    monkeypatch.setattr(profiler, "group_tokens", lambda *_: 100)
    request, names = ProfileRequest(packs, seq_len=24, batch_size=2), list[str]()

    def killed(directory: Path, name: str, shard: TraceShard) -> None:
        if len(names) == saved:
            raise KeyboardInterrupt
        names.append(name)
        save_shard(directory, name, shard)

    with monkeypatch.context() as patch:
        patch.setattr(profiler, "save_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            profile(base, request, tmp_path / "profile", stream=first)
    assert_identical(profile(base, request, tmp_path / "profile", stream=then), whole)
    assert len(names) == saved
    assert_identical(open_profile(tmp_path / "profile"), whole)


def test_a_base_that_is_replaced_meanwhile_is_not_profiled(
    base: Checkpoint, packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Profile, groups: list[int]
) -> None:
    """Between the second group and the third; what was profiled of other weights is not kept."""
    copied = Path(shutil.copytree(base.path, tmp_path / "base"))
    weights = copied / "model.safetensors"
    original, observe = weights.read_bytes(), vars(profiler)["observe_streamed"]
    monkeypatch.setattr(profiler, "group_tokens", lambda *_: 100)

    def replaced(*arguments: Any, **named: Any) -> Any:
        if len(groups) == 2:
            weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        return observe(*arguments, **named)

    request, out = ProfileRequest(packs, seq_len=24, batch_size=2), tmp_path / "profile"
    copy = dataclasses.replace(open_checkpoint(copied), name=base.name)
    with monkeypatch.context() as patch:
        patch.setattr(profiler, "observe_streamed", replaced)
        with pytest.raises(UserError, match="was changed or replaced while it was in use"):
            profile(copy, request, out, stream=True)
    assert groups == [2, 2, 2]
    weights.write_bytes(original)
    assert_identical(
        profile(dataclasses.replace(open_checkpoint(copied), name=base.name), request, out, stream=True), whole
    )
    assert sum(groups[3:]) * 2 >= whole.description.num_blocks - 8 > 0, "two groups were kept"


def test_out_of_memory_is_a_sentence(
    base: Checkpoint, packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(profiler, "observe_streamed", full)
    with pytest.raises(UserError, match=r"profiling from block 0 on ran out of GPU memory: lower --batch-size or"):
        profile(base, ProfileRequest(packs, seq_len=24), tmp_path / "profile", stream=True)
