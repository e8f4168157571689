"""Profiling: one resumable pass, a directory that is there only when it is finished, and refusals in a sentence."""

import dataclasses
import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_model import (
    CPU,
    TinyModel,
    load_lively,
    load_reference,
    reference_routing,
    slow_quantile,
    write_lively_checkpoint,
    write_packs,
)

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.errors import UserError
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import UNION, named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.profile import profiler
from eaftgate.profile.observe import Observation, observe_batch
from eaftgate.profile.profile import ALIGNMENTS, Profile, ProfileDescription, open_profile
from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
from eaftgate.profile.trace import TraceShard, save_shard, shard_name, shard_ranges
from eaftgate.records import write_model

SEQ_LEN, BATCH = 24, 2
DIGEST = "0" * 64


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_lively_checkpoint(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packs(tmp_path_factory.mktemp("packs"), {"chat": 6, "tools": 3})


@pytest.fixture(scope="module")
def request_(packs: Path) -> ProfileRequest:
    return ProfileRequest(packs, seq_len=SEQ_LEN, seed=5, batch_size=BATCH)


def profile(base: Checkpoint, request: ProfileRequest, out: Path) -> Profile:
    return profile_checkpoint(base, DIGEST, request, out, CPU)


@pytest.fixture(scope="module")
def whole(base: Checkpoint, request_: ProfileRequest, tmp_path_factory: pytest.TempPathFactory) -> Profile:
    """An undisturbed profile, in one shard."""
    return profile(base, request_, tmp_path_factory.mktemp("whole") / "profile")


def blocks_of(base: Checkpoint, request: ProfileRequest) -> Blocks:
    rows = named_packs(request.packs, seed=request.seed)[UNION].head(request.num_rows)
    tokenizer = load_tokenizer(base.path)
    return build_blocks(
        rows, tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=request.seq_len, num_blocks=None
    )  # fmt: skip


def contents(found: Profile) -> dict[str, NDArray[Any]]:
    """Everything a trace says of every token, in token order and without regard to shards."""
    columns = {name: found.trace.column(name) for name in ("p_T", "entropy_T", "row_T", "pack_T")}
    for alignment in ALIGNMENTS:
        parts = zip(*found.trace.selections(alignment), strict=True)
        for name, arrays in zip(("expert", "gate", "norm"), parts, strict=True):
            columns[f"{alignment} {name}"] = np.concatenate(arrays)
    return columns


def assert_identical(a: Profile, b: Profile) -> None:
    for name, array in contents(a).items():
        np.testing.assert_array_equal(array, contents(b)[name], err_msg=name)
    of_a_run: dict[str, Any] = {"seconds": None, "speed": None, "trace": None}  # how long it took, where shards end
    assert a.description.model_copy(update=of_a_run) == b.description.model_copy(update=of_a_run)


# What a profile holds.


def test_description(base: Checkpoint, request_: ProfileRequest, whole: Profile) -> None:
    blocks = blocks_of(base, request_)
    description = json.loads((whole.path / "profile.json").read_text())
    assert description == whole.description.model_dump(by_alias=True)
    assert description["base"] == {"name": base.name, "digest": DIGEST}
    assert description["rows"] == list(blocks.identities)
    assert description["blocks_digest"] == blocks.digest
    assert (description["num_blocks"], description["counted_tokens"]) == (blocks.num_blocks, blocks.num_counted)
    assert description["packs"] == {"chat": 6, "tools": 3}
    assert description["model"]["dtype"] == "float32"
    assert len(description["packs_digest"]) == 64
    assert (description["seed"], description["seq_len"], description["alignment"]) == (5, SEQ_LEN, "predicting")
    tokens = blocks.num_blocks * SEQ_LEN  # prompts are run, too
    assert description["speed"]["tokens_per_second"] == pytest.approx(tokens / description["seconds"])
    assert description["speed"]["on"].startswith("cpu with ")
    trace = whole.trace
    assert description["thresholds"] == {
        name: pytest.approx(slow_quantile(trace.column(column)[trace.column("content_T")].tolist(), q), abs=1e-6)
        for name, column, q in (("p_lo", "p_T", 0.15), ("h_lo", "entropy_T", 0.15), ("h_hi", "entropy_T", 0.85))
    }
    assert sorted(path.name for path in whole.path.iterdir()) == ["made_from.json", "profile.json", "trace"]
    assert sorted(path.name for path in whole.path.parent.iterdir()) == ["profile"]


def test_tokens_know_their_rows_and_packs(base: Checkpoint, request_: ProfileRequest, whole: Profile) -> None:
    blocks = blocks_of(base, request_)
    row_T, pack_T = whole.trace.column("row_T"), whole.trace.column("pack_T")
    np.testing.assert_array_equal(row_T, blocks.row_BS[blocks.scored_BS])
    pack_of = {
        identity: place
        for place, name in enumerate(("chat", "tools"))
        for identity in named_packs(request_.packs, seed=None)[name].identities
    }
    assert pack_T.tolist() == [pack_of[blocks.identities[row]] for row in row_T]
    assert set(pack_T.tolist()) == {0, 1}


def test_predicting_is_the_position_before(base: Checkpoint, request_: ProfileRequest, whole: Profile) -> None:
    """Through shards and batches: the experts of token t under `predicting` are those that the model chose at t - 1."""
    blocks = blocks_of(base, request_)
    model = load_reference(base.path)
    routing = [reference_routing(model, ids.tolist()) for ids in blocks.token_ids_BS]
    found = contents(whole)
    for alignment, shift in (("predicting", 1), ("token", 0)):
        expected = [
            [[expert for expert, _, _ in layer[s - shift]] for layer in routing[b]]
            for b, s in np.argwhere(blocks.scored_BS)
        ]
        assert found[f"{alignment} expert"].tolist() == expected


def test_num_rows_takes_the_first_rows_of_union(base: Checkpoint, request_: ProfileRequest, tmp_path: Path) -> None:
    request = dataclasses.replace(request_, num_rows=4)
    found = profile(base, request, tmp_path / "profile")
    assert set(found.description.rows) <= set(named_packs(request.packs, seed=5)[UNION].identities[:4])
    assert sum(found.description.packs.values()) == len(found.description.rows) <= 4
    assert found.trace.num_tokens == blocks_of(base, request).num_scored


def test_packs_are_named_by_content_whatever_the_seed_and_the_rows_used(
    base: Checkpoint, request_: ProfileRequest, whole: Profile, tmp_path: Path
) -> None:
    fewer = profile(base, dataclasses.replace(request_, num_rows=4, seed=6), tmp_path / "fewer")
    assert fewer.description.rows != whole.description.rows
    assert fewer.description.packs_digest == whole.description.packs_digest
    others = write_packs(tmp_path / "others", {"chat": 6, "tools": 2})
    other = profile(base, dataclasses.replace(request_, packs=others), tmp_path / "other")
    assert other.description.packs_digest != whole.description.packs_digest


def test_batch_size_changes_nothing_but_rounding(
    base: Checkpoint, request_: ProfileRequest, whole: Profile, tmp_path: Path
) -> None:
    one = contents(profile(base, dataclasses.replace(request_, batch_size=1), tmp_path / "one"))
    for name, array in contents(whole).items():
        if "expert" in name or name in ("row_T", "pack_T"):
            np.testing.assert_array_equal(array, one[name], err_msg=name)
        else:  # float16 steps of gates and norms; p and entropy as in float32
            np.testing.assert_allclose(array, one[name], rtol=2.0**-10, atol=1e-4, err_msg=name)


# Shards and resume.


@pytest.fixture
def many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "SHARD_SECONDS", 0.0)


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that were observed."""
    sizes: list[int] = []

    def counting(model: TinyModel, token_ids: Any, counted: Any) -> Observation:
        sizes.append(len(token_ids))
        return observe_batch(model, token_ids, counted)

    monkeypatch.setattr(profiler, "observe_batch", counting)
    return sizes


Kill = Callable[[ProfileRequest, Path, int], None]


@pytest.fixture
def kill(base: Checkpoint, monkeypatch: pytest.MonkeyPatch, observed: list[int]) -> Kill:
    """Profile into a directory, but be killed when a number of shards are saved; what it observed is forgotten."""

    def profile_and_kill(request: ProfileRequest, out: Path, shards: int) -> None:
        saved: list[str] = []

        def killed(directory: Path, name: str, shard: TraceShard) -> None:
            if len(saved) == shards:
                raise KeyboardInterrupt
            saved.append(name)
            save_shard(directory, name, shard)

        with monkeypatch.context() as patch:
            patch.setattr(profiler, "save_shard", killed)
            with pytest.raises(KeyboardInterrupt):
                profile(base, request, out)
        observed.clear()

    return profile_and_kill


@pytest.mark.usefixtures("many_shards")
def test_many_shards_are_one_trace(base: Checkpoint, request_: ProfileRequest, whole: Profile, tmp_path: Path) -> None:
    found = profile(base, request_, tmp_path / "profile")
    assert len(found.trace.shards) == -(-found.description.num_blocks // BATCH) > 3
    assert len(whole.trace.shards) == 1
    assert_identical(found, whole)


@pytest.mark.usefixtures("many_shards")
@pytest.mark.parametrize("shards", [0, 1, 3])
def test_a_killed_profile_is_resumed(
    base: Checkpoint, request_: ProfileRequest, whole: Profile, tmp_path: Path, kill: Kill, observed: list[int],
    shards: int,
) -> None:  # fmt: skip
    out, num_blocks = tmp_path / "profile", whole.description.num_blocks
    kill(request_, out, shards)
    assert not out.exists()
    assert len(shard_ranges(tmp_path / ".profile.partial" / "payload" / "trace")) == shards
    assert_identical(profile(base, request_, out), whole)
    assert sum(observed) == num_blocks - shards * BATCH
    assert sorted(path.name for path in tmp_path.iterdir()) == ["profile"]


@pytest.mark.usefixtures("many_shards")
def test_killed_before_it_is_published(
    base: Checkpoint, request_: ProfileRequest, whole: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    observed: list[int],
) -> None:  # fmt: skip
    """All shards are there: the model is not even loaded again."""
    out = tmp_path / "profile"

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(profiler, "load_trace", killed)
        with pytest.raises(KeyboardInterrupt):
            profile(base, request_, out)
    observed.clear()
    monkeypatch.setattr(profiler, "load_model", killed)
    assert_identical(profile(base, request_, out), whole)
    assert not observed


CHANGES: dict[str, Callable[[ProfileRequest], ProfileRequest]] = {
    "seed": lambda request: dataclasses.replace(request, seed=6),
    "seq_len": lambda request: dataclasses.replace(request, seq_len=20),
    "num_rows": lambda request: dataclasses.replace(request, num_rows=7),
    "batch_size": lambda request: dataclasses.replace(request, batch_size=3),
    "alignment": lambda request: dataclasses.replace(request, alignment="token"),
}


@pytest.mark.usefixtures("many_shards")
@pytest.mark.parametrize("change", CHANGES)
def test_an_unfinished_profile_of_other_inputs_starts_anew(
    base: Checkpoint, request_: ProfileRequest, tmp_path: Path, kill: Kill, observed: list[int], change: str
) -> None:
    kill(request_, tmp_path / "profile", 2)
    changed = CHANGES[change](request_)
    found = profile(base, changed, tmp_path / "profile")
    assert sum(observed) == found.description.num_blocks
    assert found.trace.num_tokens == blocks_of(base, changed).num_scored
    assert found.description.alignment == changed.alignment


@pytest.mark.usefixtures("many_shards")
def test_an_unfinished_profile_of_another_base_starts_anew(
    base: Checkpoint, request_: ProfileRequest, tmp_path: Path, kill: Kill, observed: list[int]
) -> None:
    kill(request_, tmp_path / "profile", 2)
    found = profile_checkpoint(base, "another digest", request_, tmp_path / "profile", CPU)
    assert sum(observed) == found.description.num_blocks


# Refusals.


def test_another_run_finished_in_the_meantime(
    base: Checkpoint, request_: ProfileRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Profile
) -> None:
    """`out` appears between the first look and the lock."""
    out = tmp_path / "profile"

    def slow(*_: Any) -> ProfileDescription:
        shutil.copytree(whole.path, out)
        return whole.description

    monkeypatch.setattr(profiler, "_describe", slow)
    profile(base, request_, out)  # is up to date
    assert [path.name for path in tmp_path.iterdir()] == ["profile"]
    assert_identical(open_profile(out), whole)


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
CUT_OFF = OSError("1048576 requested and 1234 written")  # NumPy's, when the disk is full


@pytest.mark.usefixtures("many_shards")
@pytest.mark.parametrize(("writer", "error"), [("save_shard", NO_SPACE), ("save_shard", CUT_OFF), ("json", NO_SPACE)])
def test_a_full_disk_is_a_sentence_and_the_profile_is_resumed(
    base: Checkpoint, request_: ProfileRequest, whole: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    observed: list[int], writer: str, error: OSError,
) -> None:  # fmt: skip
    out = tmp_path / "profile"
    saved: list[str] = []

    def full_after_two(directory: Path, name: str, shard: TraceShard) -> None:
        if len(saved) == 2:
            raise error
        saved.append(name)
        save_shard(directory, name, shard)

    def full_at_the_end(path: Path, value: Any) -> None:
        if path.name == "profile.json":
            raise error
        write_model(path, value)

    with monkeypatch.context() as patch:
        if writer == "json":
            patch.setattr(profiler, "write_model", full_at_the_end)
        else:
            patch.setattr(profiler, "save_shard", full_after_two)
        with pytest.raises(UserError, match=r"^no space left for .*profile; free some .* is reused$"):
            profile(base, request_, out)
    assert not out.exists()
    observed.clear()
    assert_identical(profile(base, request_, out), whole)
    assert sum(observed) == (0 if writer == "json" else whole.description.num_blocks - 2 * BATCH)
    assert [path.name for path in tmp_path.iterdir()] == ["profile"]


def test_unknown_alignment(base: Checkpoint, request_: ProfileRequest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--alignment is 'next': it must be one of predicting, token"):
        profile(base, dataclasses.replace(request_, alignment="next"), tmp_path / "profile")


def test_more_experts_than_a_trace_holds(base: Checkpoint, request_: ProfileRequest, tmp_path: Path) -> None:
    large = dataclasses.replace(base, dimensions=dataclasses.replace(base.dimensions, num_experts=257))
    with pytest.raises(UserError, match="has 257 experts: a trace holds up to 256"):
        profile(large, request_, tmp_path / "profile")


def nan_logits(model: TinyModel) -> None:
    model.head_VD[7] = torch.nan


def huge_expert(model: TinyModel) -> None:
    model.module.model.layers[-1].mlp.experts.down_proj_bias[:] = 1e7


DAMAGES: dict[Callable[[TinyModel], None], str] = {
    nan_logits: "log-probability or entropy that is not finite",
    huge_expert: "not finite or above 1e6",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_values_that_are_not_finite(
    base: Checkpoint, request_: ProfileRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[TinyModel], None],
) -> None:  # fmt: skip
    model = load_lively(base.path)
    with torch.no_grad():
        damage(model)
    monkeypatch.setattr(profiler, "load_model", lambda *_: model)
    with pytest.raises(UserError, match=f"profiling blocks 0 to {BATCH - 1}: .*{DAMAGES[damage]}"):
        profile(base, request_, tmp_path / "profile")
    assert not (tmp_path / "profile").exists()


def test_a_stored_value_that_is_not_finite_is_named(base: Checkpoint, request_: ProfileRequest, tmp_path: Path) -> None:
    path = Path(shutil.copytree(base.path, tmp_path / "nan"))
    entry = base.tensors["model.layers.1.self_attn.q_proj.weight"]
    with (path / entry.shard).open("r+b") as stream:
        stream.seek(entry.begin + 6)
        stream.write(b"\xc0\x7f")
    with pytest.raises(UserError, match=rf"{entry.shard}: tensor '{entry.name}' holds NaN or infinity at element 3;"):
        profile(open_checkpoint(path), request_, tmp_path / "profile")


def test_out_of_memory(
    base: Checkpoint, request_: ProfileRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def observe(*_: Any) -> Observation:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(profiler, "observe_batch", observe)
    with pytest.raises(UserError, match=r"ran out of GPU memory: lower --batch-size or --seq-len"):
        profile(base, request_, tmp_path / "profile")


@pytest.fixture
def copy(whole: Profile, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole.path, tmp_path / "copy"))


def test_an_untouched_copy_opens(copy: Path, whole: Profile) -> None:
    assert_identical(open_profile(copy), whole)


def test_an_unfinished_profile_does_not_open(copy: Path) -> None:
    (copy / "profile.json").unlink()
    for path in (copy, copy / "nowhere"):
        with pytest.raises(UserError, match=r"is not a finished profile \(no profile\.json\): run eaftgate profile"):
            open_profile(path)


def test_a_damaged_trace_does_not_open(copy: Path) -> None:
    (shard,) = (copy / "trace").iterdir()
    (shard / "gate_XLK.npy").write_bytes((shard / "gate_XLK.npy").read_bytes()[:-2])
    with pytest.raises(UserError, match="has changed since it was made"):
        open_profile(copy)


def test_a_damaged_description_does_not_open(copy: Path) -> None:
    (copy / "profile.json").write_text((copy / "profile.json").read_text()[:-9])
    with pytest.raises(UserError, match=r"profile .*profile\.json is not valid JSON"):
        open_profile(copy)


WRONG: dict[str, Any] = {
    "schema": "profile-9",
    "base": {"name": "x"},
    "dimensions": {"num_layers": 2, "num_experts": "8", "top_k": 4},
    "packs": ["chat"],
    "num_rows": "all",
    "seq_len": None,
    "seed": 1.5,
    "alignment": "next",
    "num_blocks": -1,
    "counted_tokens": "many",
    "blocks_digest": 7,
    "model": None,
    "rows": [1],
}


@pytest.mark.parametrize("key", WRONG)
def test_a_description_that_lacks_something_does_not_open(copy: Path, key: str) -> None:
    file = copy / "profile.json"
    description = json.loads(file.read_text())
    for value in ({k: v for k, v in description.items() if k != key}, {**description, key: WRONG[key]}):
        file.write_text(json.dumps(value))
        with pytest.raises(UserError, match=rf"profile\.json: '{key}.*' is not valid \(.*\); profile again") as caught:
            open_profile(copy)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [[], None, 3, "profile"])
def test_a_description_that_is_no_object_does_not_open(copy: Path, value: Any) -> None:
    (copy / "profile.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match="must be a JSON object"):
        open_profile(copy)


def test_pruning_by_a_scorer_loads_neither_torch_nor_transformers(
    base: Checkpoint, whole: Profile, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from eaftgate.checkpoint.checkpoint import open_checkpoint\n"
        "from eaftgate.profile.profile import open_profile\n"
        "from eaftgate.prune.checkpoint import PruneRequest, prune_checkpoint\n"
        "base, profile, out = map(Path, sys.argv[1:])\n"
        "request = PruneRequest(keep_n=4, method='eaft-reap')\n"
        "prune_checkpoint(open_checkpoint(base), '0' * 64, open_profile(profile), request, out)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, base.path, whole.path, tmp_path / "out"], check=True)
    assert open_checkpoint(tmp_path / "out").num_experts == 4


@pytest.mark.usefixtures("many_shards")
def test_a_trace_that_lacks_a_shard_does_not_open(base: Checkpoint, request_: ProfileRequest, tmp_path: Path) -> None:
    found = profile(base, request_, tmp_path / "profile")
    shutil.rmtree(found.path / "trace" / shard_name(BATCH, 2 * BATCH))
    with pytest.raises(UserError, match=r"has changed since it was made: blocks-\d+-\d+ is another or is not there"):
        open_profile(found.path)
    shutil.rmtree(found.path / "trace")
    with pytest.raises(UserError, match=r"has changed since it was made: blocks-\d+-\d+ is another or is not there"):
        open_profile(found.path)
