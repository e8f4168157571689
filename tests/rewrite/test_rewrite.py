"""The rewritten checkpoint is the kept part of the base, bit for bit, or it is not there."""

import json
import os
import shutil
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_checkpoint import Size, Tensor, slice_tensors, write_shard, write_tiny_checkpoint

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.checkpoint.header import DTYPE_BITS
from eaftgate.errors import UserError
from eaftgate.files import sha256_file
from eaftgate.rewrite import copy
from eaftgate.rewrite.integrity import check_artifact, compare_tensors
from eaftgate.rewrite.manifest import read_manifest
from eaftgate.rewrite.plan import ByteRange, balanced, joined, plan_shards
from eaftgate.rewrite.rewrite import rewrite_checkpoint

KEEP = [[0, 1, 4, 6], [2, 3, 4, 5], [1, 3, 5, 7]]
ALL = [list(range(8))] * 3
LAYOUTS = [(True, 1), (True, 3), (False, 1), (False, 3)]
PROVENANCE = {"method": "random", "seed": 3407}


@pytest.fixture(scope="module")
def bases(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[bool, int], tuple[Checkpoint, dict[str, Tensor]]]:
    found = {}
    for mxfp4, num_shards in LAYOUTS:
        directory = tmp_path_factory.mktemp("base")
        tensors = write_tiny_checkpoint(directory, mxfp4=mxfp4, num_shards=num_shards)
        found[mxfp4, num_shards] = (open_checkpoint(directory), tensors)
    return found


@pytest.fixture
def base(bases: dict[tuple[bool, int], tuple[Checkpoint, dict[str, Tensor]]]) -> Checkpoint:
    return bases[True, 3][0]


def rewrite(base: Checkpoint, out: Path, *, keep: list[list[int]] = KEEP, **options: Any) -> Checkpoint:
    rewrite_checkpoint(base, keep, out, provenance=PROVENANCE, **options)
    return open_checkpoint(out)


def library_tensors(directory: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Every tensor as the safetensors library parses the files."""
    return {
        name: (tensor["dtype"], tensor["shape"], bytes(tensor["data"]))
        for shard in directory.glob("*.safetensors")
        for name, tensor in safetensors.deserialize(shard.read_bytes())
    }


def expected_tensors(tensors: dict[str, Tensor]) -> dict[str, tuple[str, list[int], bytes]]:
    return {name: (t.dtype, list(t.array.shape), t.array.tobytes()) for name, t in tensors.items()}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 70_000])
@pytest.mark.parametrize("keep", [KEEP, ALL])
def test_equals_the_slow_oracle(bases, tmp_path: Path, layout, max_shard_bytes: int, keep) -> None:  # type: ignore[no-untyped-def]
    base, tensors = bases[layout]
    candidate = rewrite(base, tmp_path / "out", keep=keep, max_shard_bytes=max_shard_bytes)
    assert library_tensors(candidate.path) == expected_tensors(slice_tensors(tensors, keep))
    assert (candidate.num_experts, candidate.top_k) == (len(keep[0]), 4)
    assert (len(candidate.shards) > 1) == (max_shard_bytes == 70_000)
    assert all(shard.stat().st_size <= max_shard_bytes for shard in candidate.shards)
    assert check_artifact(candidate, base, read_manifest(candidate.path)) == []
    assert compare_tensors(candidate, base, keep) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keep=st.lists(st.sets(st.integers(0, 7), min_size=4, max_size=4).map(sorted), min_size=3, max_size=3),
    limit=st.sampled_from([35_000, 40_000, 100_000]),
)
def test_any_keep_set(bases, tmp_path: Path, keep: list[list[int]], limit: int) -> None:  # type: ignore[no-untyped-def]
    base, tensors = bases[True, 3]
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    candidate = rewrite(base, tmp_path / "out", keep=keep, max_shard_bytes=limit)
    assert library_tensors(candidate.path) == expected_tensors(slice_tensors(tensors, keep))


def test_safe_open_reads_it(base: Checkpoint, tmp_path: Path) -> None:
    candidate = rewrite(base, tmp_path / "out")
    name = "model.layers.1.mlp.experts.down_proj_blocks"
    with safetensors.safe_open(candidate.path / candidate.tensors[name].shard, framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor(name).shape == (4, 64, 1, 16)
    index = json.loads((candidate.path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == candidate.nbytes
    assert index["weight_map"].keys() == base.tensors.keys()


def test_twice_gives_identical_bytes(base: Checkpoint, tmp_path: Path) -> None:
    for out in ("a", "b"):
        rewrite(base, tmp_path / out, max_shard_bytes=70_000)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_what_surrounds_the_shards(base: Checkpoint, tmp_path: Path) -> None:
    candidate = rewrite(base, tmp_path / "out")
    files = contents(candidate.path)
    assert list(candidate.config) == list(base.config)
    assert candidate.config == base.config | {"num_local_experts": 4}
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        assert files[name] == (base.path / name).read_bytes()
    mapping = json.loads(files["expert_mapping.json"])
    assert mapping["layers"]["2"] == {"1": 0, "3": 1, "5": 2, "7": 3}
    assert (mapping["num_experts"], mapping["keep_n"]) == (8, 4)
    manifest = read_manifest(candidate.path)
    assert manifest.base.digest == checkpoint_digest(base)
    assert (manifest.base.name, manifest.keep, manifest.provenance) == (base.name, KEEP, PROVENANCE)
    assert (manifest.keep_n, manifest.keep_frac, manifest.allow_any_keep_n) == (4, 0.5, False)
    assert files.keys() == manifest.files.keys() | {"manifest.json"}
    for name, record in manifest.files.items():
        assert (record.sha256, record.size) == (sha256_file(candidate.path / name), len(files[name]))


def test_only_known_companions_are_copied_and_links_become_files(base: Checkpoint, tmp_path: Path) -> None:
    blobs = Path(shutil.copytree(base.path, tmp_path / "blobs"))
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in ("modeling.py", "pytorch_model.bin", "notes.md", "LICENSE", "LICENSE (1).txt"):
        (blobs / name).write_bytes(b"x")
    (blobs / "original").mkdir()
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    candidate = rewrite(open_checkpoint(snapshot), tmp_path / "out")
    names = {path.name for path in candidate.path.iterdir()}
    assert not names & {"modeling.py", "pytorch_model.bin", "notes.md", "original"}
    assert names >= {"LICENSE", "LICENSE (1).txt", "tokenizer.json", "chat_template.jinja"}
    assert read_manifest(candidate.path).files.keys() == names - {"manifest.json"}
    assert not any(path.is_symlink() for path in candidate.path.iterdir())


def misaligned_unless_sorted(directory: Path) -> Checkpoint:
    """Three attention sinks of two bytes, and after them in the model a bias of four bytes an element."""
    tensors = write_tiny_checkpoint(directory, size=Size(heads=3, kv_heads=1))
    for layer in range(3):
        name = f"model.layers.{layer}.self_attn.v_proj.bias"
        tensors[name] = Tensor("F32", np.arange(tensors[name].array.size, dtype=np.float32))
    write_shard(directory / "model.safetensors", tensors)
    return open_checkpoint(directory)


@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 40_000])
def test_every_tensor_is_aligned_to_its_element(tmp_path: Path, max_shard_bytes: int) -> None:
    base = misaligned_unless_sorted(tmp_path / "base")
    candidate = rewrite(base, tmp_path / "out", max_shard_bytes=max_shard_bytes)
    entries = candidate.tensors.values()
    assert {entry.dtype for entry in entries} == {"F32", "BF16", "U8"}
    assert [entry for entry in entries if entry.begin % (DTYPE_BITS[entry.dtype] // 8)] == []


def test_a_projection_is_never_parted(bases) -> None:  # type: ignore[no-untyped-def]
    for layout in LAYOUTS:
        base = bases[layout][0]
        for plan in plan_shards(base, KEEP, max_shard_bytes=35_000):
            assert len(plan.header) % 8 == 0
            assert plan.size <= 35_000
            for name in plan.tensors:
                if name.endswith("_bias") and ".experts." in name:
                    stem = name.removesuffix("_bias")
                    partners = {n for n in base.tensors if n.startswith(stem)}
                    assert partners <= set(plan.tensors)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(30, 80))
def test_shards_are_few_and_then_balanced(sizes: list[int], limit: int) -> None:
    """Against every way of cutting the sizes into consecutive stretches."""

    def totals(cuts: tuple[int, ...]) -> list[int]:
        bounds = (0, *cuts, len(sizes))
        return [sum(sizes[begin:end]) for begin, end in pairwise(bounds)]

    ways = [totals(cuts) for n in range(len(sizes)) for cuts in combinations(range(1, len(sizes)), n)]
    fewest = min(len(way) for way in ways if max(way) <= limit)
    smallest = min(max(way) for way in ways if len(way) == fewest)
    found = balanced(sizes, limit)
    assert [item for cut in found for item in sizes[cut]] == sizes
    assert (len(found), max(sum(sizes[cut]) for cut in found)) == (fewest, smallest)


def test_no_shard_is_a_remainder(base: Checkpoint) -> None:
    limit = 70_000
    plans = plan_shards(base, KEEP, max_shard_bytes=limit)
    assert len(plans) > 1
    largest = max(plan.size for plan in plans)
    assert largest < limit
    assert largest < 1.3 * sum(plan.size for plan in plans) / len(plans)


def test_tensor_larger_than_a_shard(base: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.embed_tokens\.weight.* raise it with --max-shard-gb 1$"):
        rewrite(base, tmp_path / "out", max_shard_bytes=10_000)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_at_the_total(base: Checkpoint, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    candidate = rewrite(
        base,
        tmp_path / "out",
        max_shard_bytes=70_000,
        progress=lambda done, total: seen.append((done, total)),
    )
    total = sum(shard.stat().st_size for shard in candidate.shards)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_small_chunks_and_few_buffers(base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(base, tmp_path / "a")
    monkeypatch.setattr(copy, "CHUNK_BYTES", 777)
    monkeypatch.setattr(copy, "NUM_BUFFERS", 2)
    rewrite(base, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_shard_is_flushed_when_all_of_it_is_written(
    base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []

    def fsync(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_size)

    (plan,) = plan_shards(base, KEEP, max_shard_bytes=5_000_000_000)
    monkeypatch.setattr(copy, "CHUNK_BYTES", 777)
    monkeypatch.setattr(os, "fsync", fsync)
    copy.copy_shard(plan, base.path, tmp_path / "shard", lambda _: None)
    assert flushed == [plan.size] == [(tmp_path / "shard").stat().st_size]


def test_reads_that_give_less_than_they_were_asked_for(
    base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may; nothing of it is seen in the bytes."""
    whole = contents(rewrite(base, tmp_path / "whole").path)
    preadv = os.preadv
    short: list[int] = []

    def some(descriptor: int, buffers: Any, offset: int) -> int:
        (view,) = buffers
        short.append(len(view))
        return preadv(descriptor, [view[:1001]], offset)

    monkeypatch.setattr(os, "preadv", some)
    assert contents(rewrite(base, tmp_path / "some").path) == whole
    assert max(short) > 2 * 1001


def test_ranges_are_joined_where_one_begins_at_the_end_of_the_one_before_in_its_file() -> None:
    ranges = [ByteRange("a", 0, 4), ByteRange("a", 4, 6), ByteRange("b", 6, 9), ByteRange("b", 10, 11)]
    assert joined(ranges) == [ByteRange("a", 0, 6), *ranges[2:]]


def test_files_that_are_carried_lie_in_the_checkpoint_as_they_are(base: Checkpoint, tmp_path: Path) -> None:
    candidate = rewrite(base, tmp_path / "out", carried={"scores.json": b"{}\n"})
    assert (candidate.path / "scores.json").read_bytes() == b"{}\n"
    manifest = read_manifest(candidate.path)
    assert manifest.files["scores.json"].sha256 == sha256_file(candidate.path / "scores.json")


def test_keep_n_that_is_no_multiple_is_recorded(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "base", size=Size(layers=1))
    base = open_checkpoint(tmp_path / "base")
    keep = [[0, 1, 2, 3, 7]]
    with pytest.raises(UserError, match="not a multiple"):
        rewrite(base, tmp_path / "out", keep=keep)
    candidate = rewrite(base, tmp_path / "out", keep=keep, allow_any_keep_n=True)
    manifest = read_manifest(candidate.path)
    assert manifest.allow_any_keep_n
    assert check_artifact(candidate, base, manifest) == []


def test_source_that_shrinks(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "base")
    base = open_checkpoint(tmp_path / "base")
    os.truncate(tmp_path / "base" / "model.safetensors", 100_000)
    with pytest.raises(UserError, match="became shorter"):
        rewrite(base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_provenance_must_be_json(base: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        rewrite_checkpoint(base, KEEP, tmp_path / "out", provenance={"x": float("nan")})
    assert list(tmp_path.iterdir()) == []
