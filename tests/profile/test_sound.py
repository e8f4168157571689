"""A trace is believed for what it holds: nothing is cut from a changed byte, or from what no model can have done."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_model import write_lively_checkpoint, write_packs

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.errors import UserError
from eaftgate.model.load import default_settings
from eaftgate.profile import profiler
from eaftgate.profile.observe import Observation, observe_batch
from eaftgate.profile.profile import Profile, open_profile
from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
from eaftgate.profile.sound import shard_problem
from eaftgate.profile.trace import FORMS, TraceShard, load_shard

Change = Callable[[dict[str, NDArray[Any]]], object]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("inputs")
    return write_lively_checkpoint(root / "base"), write_packs(root / "packs", {"chat": 4})


def profiled(inputs: tuple[Path, Path], out: Path) -> Profile:
    base, packs = inputs
    settings = default_settings(device="cpu", dtype="float32")
    return profile_checkpoint(open_checkpoint(base), "0" * 64, ProfileRequest(packs, seq_len=24), out, settings)


@pytest.fixture(scope="module")
def whole(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return profiled(inputs, tmp_path_factory.mktemp("whole") / "profile")


@pytest.fixture
def copy(whole: Profile, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole.path, tmp_path / "profile"))


@pytest.mark.parametrize("column", FORMS)
def test_no_byte_of_an_array_can_change(copy: Path, column: str) -> None:
    (file,) = copy.glob(f"trace/*/{column}.npy")
    whole, rng = file.read_bytes(), np.random.default_rng(17)
    for place in rng.integers(len(whole), size=25).tolist():
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(flipped)
        with pytest.raises(UserError, match="profile again"):
            open_profile(copy)
    file.write_bytes(whole)
    open_profile(copy)


def test_a_shard_of_another_profile_is_not_believed(copy: Path, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    base, packs = inputs
    settings = default_settings(device="cpu", dtype="float32")
    request = ProfileRequest(packs, seq_len=24, seed=4)
    other = profile_checkpoint(open_checkpoint(base), "0" * 64, request, tmp_path / "other", settings)
    shutil.rmtree(copy / "trace")
    shutil.copytree(other.path / "trace", copy / "trace")
    with pytest.raises(
        UserError, match=r"has changed since it was made: blocks-.* is another or is not there; profile again"
    ):
        open_profile(copy)


def without_digests(path: Path, change: Change) -> None:
    """The profile as an earlier version has left it, with `change` made to its arrays."""
    description = json.loads((path / "profile.json").read_text())
    del description["trace"]
    (path / "profile.json").write_text(json.dumps(description))
    (shard,) = (path / "trace").iterdir()
    (shard / "sha256").unlink()
    arrays = {name: np.load(shard / f"{name}.npy") for name in FORMS}
    change(arrays)
    for name, array in arrays.items():
        np.save(shard / f"{name}.npy", array)


def test_a_profile_without_digests_opens_when_it_is_sound(copy: Path, whole: Profile) -> None:
    without_digests(copy, lambda _: None)
    opened = open_profile(copy)
    assert opened.description.trace is None
    assert opened.trace.column("p_T").tolist() == whole.trace.column("p_T").tolist()


def put(name: str, place: Any, value: Any) -> Change:
    def change(arrays: dict[str, NDArray[Any]]) -> None:
        arrays[name][place] = value

    return change


def twice(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["expert_XLK"][2, 1, 3] = arrays["expert_XLK"][2, 1, 0]


def retyped(name: str, dtype: str) -> Change:
    def change(arrays: dict[str, NDArray[Any]]) -> None:
        arrays[name] = arrays[name].astype(dtype)

    return change


def shortened(name: str) -> Change:
    def change(arrays: dict[str, NDArray[Any]]) -> None:
        arrays[name] = arrays[name][:-1]

    return change


AT = (2, 1, 0)
UNSOUND: dict[str, tuple[Change, str]] = {
    "an expert that is none": (put("expert_XLK", AT, 8), "names expert 8 of 8"),
    "an expert twice": (twice, "names an expert twice in a selection"),
    "a NaN gate": (put("gate_XLK", AT, np.nan), "a gate that is not within 0 and 1"),
    "a gate above 1": (put("gate_XLK", AT, 1.01), "a gate that is not within 0 and 1"),
    "a negative gate": (put("gate_XLK", AT, -0.1), "a gate that is not within 0 and 1"),
    "gates of a half": (put("gate_XLK", (2, 1), 0.125), "gates that do not sum to 1"),
    "a NaN norm": (put("norm_XLK", AT, np.nan), "a norm that is not finite and 0 or more"),
    "an infinite norm": (put("norm_XLK", AT, np.inf), "a norm that is not finite and 0 or more"),
    "a negative norm": (put("norm_XLK", AT, -1), "a norm that is not finite and 0 or more"),
    "NaN p": (put("p_T", 0, np.nan), "p_T holds a value that is not within 0 and 1"),
    "p above 1": (put("p_T", 0, 1.5), "p_T holds a value that is not within 0 and 1"),
    "entropy below 0": (put("entropy_T", 0, -1e-3), "entropy_T holds a value that is not within 0 and 1"),
    "a position too far": (put("predicting_T", 0, 10_000), "predicting_T holds 1 to 10000, and there are"),
    "a position before the first": (put("own_T", 0, -1), "own_T holds -1 to"),
    "a row that is none": (put("row_T", 0, 4), "row_T holds 0 to 4, and there are 4"),
    "a pack that is none": (put("pack_T", 0, 1), "pack_T holds 0 to 1, and there are 1"),
    "a class that is none": (put("kind_T", 0, 8), "and there are 8"),
    "wider experts": (retyped("expert_XLK", "u2"), "expert_XLK is uint16 of shape"),
    "gates of float32": (retyped("gate_XLK", "f4"), "gate_XLK is float32 of shape"),
    "foreign byte order": (retyped("p_T", ">f4"), "p_T is >f4 of shape"),
    "fewer gates": (shortened("gate_XLK"), "gate_XLK is float16 of shape"),
    "fewer classes": (shortened("kind_T"), "kind_T is uint8 of shape"),
    "fewer tokens": (shortened("p_T"), "of shape"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_what_no_model_can_have_done_does_not_open(copy: Path, name: str) -> None:
    change, reason = UNSOUND[name]
    without_digests(copy, change)
    with pytest.raises(UserError, match=rf"trace/blocks-\d+-\d+: .*{reason}.*; profile again") as caught:
        open_profile(copy)
    assert "\n" not in str(caught.value)


def test_a_trace_of_several_chunks_is_looked_at_whole(whole: Profile) -> None:
    shard = load_shard(next((whole.path / "trace").iterdir()))
    many = {name: np.concatenate([getattr(shard, name)] * 300) for name in ("expert_XLK", "gate_XLK", "norm_XLK")}
    long = dataclasses.replace(shard, **many)
    assert len(long.expert_XLK) > 1 << 15 > len(shard.expert_XLK)
    dimensions = whole.description.dimensions
    assert shard_problem(long, dimensions, rows=4, packs=1) is None
    many["gate_XLK"][-1, -1, -1] = np.nan
    assert shard_problem(dataclasses.replace(shard, **many), dimensions, rows=4, packs=1) is not None


def test_what_is_unsound_is_not_written(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(*given: Any) -> Observation:
        seen = observe_batch(*given)
        seen.expert_XLK[:, 0] = 3
        return seen

    monkeypatch.setattr(profiler, "observe_batch", twice)
    with pytest.raises(UserError, match="names an expert twice in a selection; profile again"):
        profiled(inputs, tmp_path / "profile")
    assert not (tmp_path / "profile").exists()


def test_what_an_interrupted_run_left_is_used_as_it_was_written(
    inputs: tuple[Path, Path], whole: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "profile"
    with monkeypatch.context() as patch:
        patch.setattr(profiler, "SHARD_SECONDS", 0.0)
        patch.setattr(profiler, "check_trace", killed)
        with pytest.raises(KeyboardInterrupt):
            profiled(inputs, out)
    shards = sorted((tmp_path / ".profile.partial" / "payload" / "trace").iterdir())
    rotten = shards[2] / "gate_XLK.npy"
    data = bytearray(rotten.read_bytes())
    data[-1] ^= 1
    rotten.write_bytes(data)
    (shards[4] / "row_T.npy").unlink()
    (shards[5] / "sha256").unlink()
    again: list[int] = []

    def noted(*given: Any) -> Observation:
        again.append(len(given[1]))
        return observe_batch(*given)

    monkeypatch.setattr(profiler, "observe_batch", noted)
    found = profiled(inputs, out)
    assert again == [1, 1, 1]
    assert f"profiled again: {shards[2].name}, {shards[4].name}, {shards[5].name} of" in capsys.readouterr().err
    for name in ("p_T", "expert_XLK", "gate_XLK"):
        assert np.array_equal(found.trace.column(name), whole.trace.column(name))


def test_every_array_has_its_type() -> None:
    assert [field.name for field in dataclasses.fields(TraceShard)] == list(FORMS)
