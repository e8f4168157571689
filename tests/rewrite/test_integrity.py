"""Planted damage to a finished checkpoint must be found and named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoint import Tensor, slice_tensors, write_index, write_shard, write_tiny_checkpoint

from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.errors import UserError
from eaftgate.files import sha256_file
from eaftgate.rewrite import integrity
from eaftgate.rewrite.integrity import check_artifact, compare_tensors
from eaftgate.rewrite.manifest import Manifest, read_manifest, verify_files
from eaftgate.rewrite.rewrite import rewrite_checkpoint

KEEP = [[0, 1, 4, 6], [2, 3, 4, 5], [1, 3, 5, 7]]
SHARD = "model-00001-of-00001.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Path, dict[str, Tensor]]:
    root = tmp_path_factory.mktemp("made")
    tensors = write_tiny_checkpoint(root / "base", num_shards=2)
    base = open_checkpoint(root / "base")
    rewrite_checkpoint(base, KEEP, root / "out", provenance={"method": "random"})
    return base, root / "out", tensors


@pytest.fixture
def base(made: tuple[Checkpoint, Path, dict[str, Tensor]]) -> Checkpoint:
    return made[0]


@pytest.fixture
def out(made: tuple[Checkpoint, Path, dict[str, Tensor]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[1], tmp_path / "out"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def sign(out: Path) -> None:
    """Make the manifest's file records true again, so that only the deeper checks can object."""
    records = {
        path.name: {"sha256": sha256_file(path), "size": path.stat().st_size}
        for path in out.iterdir()
        if path.name != "manifest.json"
    }
    edit(out / "manifest.json", lambda manifest: manifest.update(files=records))


def problems(out: Path, base: Checkpoint) -> list[str]:
    return check_artifact(open_checkpoint(out), base, read_manifest(out))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_manifest_round_trip(out: Path) -> None:
    manifest = read_manifest(out)
    assert Manifest.model_validate(json.loads(manifest.model_dump_json())) == manifest
    assert json.loads((out / "manifest.json").read_text()) == manifest.content()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda m: m.pop("keep"), "keep"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m.update(schema_version=2), "schema_version"),
        (lambda m: m.update(format="other"), "format"),
        (lambda m: m.update(keep_n="4"), "keep_n"),
        (lambda m: m.update(keep_n=True), "keep_n"),
        (lambda m: m.update(keep_frac=1.5), "keep_frac"),
        (lambda m: m.update(keep=[[0.5]]), "keep.0.0"),
        (lambda m: m["base"].update(digest="abc"), "base.digest"),
        (lambda m: m["files"].update({"../x": {"sha256": "0" * 64, "size": 1}}), "files"),
        (lambda m: m["files"].update({"x\n": {"sha256": "0" * 64, "size": 1}}), "files"),
        (lambda m: m["files"][SHARD].update(size=-1), f"files.{SHARD}.size"),
        (lambda m: m["files"][SHARD].update(sha256="0" * 64 + "\n"), f"files.{SHARD}.sha256"),
    ],
)
def test_bad_manifest_is_refused(out: Path, change: Callable[[dict[str, Any]], object], where: str) -> None:
    edit(out / "manifest.json", change)
    with pytest.raises(UserError) as caught:
        read_manifest(out)
    assert where in str(caught.value)
    assert str(caught.value).endswith("; rewrite the checkpoint again")
    assert "\n" not in str(caught.value)


def test_missing_manifest(out: Path) -> None:
    (out / "manifest.json").unlink()
    with pytest.raises(UserError, match="manifest is missing"):
        read_manifest(out)


def test_tampered_files_are_named(out: Path) -> None:
    manifest = read_manifest(out)
    assert verify_files(out, manifest.files, hash_contents=True) == []
    flip(out / SHARD, -1)
    with (out / "tokenizer.json").open("a") as stream:
        stream.write(" ")
    (out / "generation_config.json").unlink()
    (out / "extra.safetensors").touch()
    (out / "modeling.py").touch()
    (out / "README.md").touch()
    shallow = verify_files(out, manifest.files, hash_contents=False)
    assert [problem.split()[0] for problem in shallow] == [
        "extra.safetensors",
        "modeling.py",
        "generation_config.json",
        "tokenizer.json",
    ]
    deep = set(verify_files(out, manifest.files, hash_contents=True)) - set(shallow)
    assert deep == {f"{SHARD} does not have the sha256 of the manifest"}


MAPPING = "expert_mapping.json does not agree with the keep sets"
FAULTS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "mapping": (
        lambda out: edit(out / "expert_mapping.json", lambda m: m["layers"]["1"].update({"2": 1, "3": 0})),
        [MAPPING],
    ),
    "mapping_missing": (
        lambda out: (out / "expert_mapping.json").unlink(),
        ["the expert mapping is missing: there is no file OUT/expert_mapping.json; "
         "take a complete copy of the checkpoint"],
    ),
    "config_value": (
        lambda out: edit(out / "config.json", lambda c: c.update(rope_theta=1)),
        ["config.json differs from the base's in 'rope_theta'"],
    ),
    "config_key": (
        lambda out: edit(out / "config.json", lambda c: c.pop("sliding_window")),
        ["config.json differs from the base's in 'sliding_window'"],
    ),
    "config_top_k": (
        lambda out: edit(out / "config.json", lambda c: c.update(num_experts_per_tok=2, experts_per_token=2)),
        ["config.json has top_k 2, the base has 4",
         "config.json differs from the base's in 'experts_per_token', 'num_experts_per_tok'"],
    ),
    "keep_n": (
        lambda out: edit(out / "manifest.json", lambda m: m.update(keep_n=8)),
        ["the manifest says keep_n 8, its keep sets hold 4 experts",
         "config.json has 4 experts, the manifest says 8",
         "the manifest's keep_frac 0.5 is not 8/8",
         MAPPING,
         "config.json differs from the base's in 'num_local_experts'"],
    ),
    "keep_not_uniform": (
        lambda out: edit(out / "manifest.json", lambda m: m["keep"][1].append(7)),
        ["manifest: layer 1 keeps 5 experts and layer 0 keeps 4; every layer must keep the same number", MAPPING],
    ),
    "keep_not_a_multiple": (
        lambda out: edit(out / "manifest.json", lambda m: [row.pop() for row in m["keep"]]),
        ["manifest: keeping 3 experts is fewer than the 4 each token uses; keep at least 4", MAPPING],
    ),
    "keep_frac": (
        lambda out: edit(out / "manifest.json", lambda m: m.update(keep_frac=0.75)),
        ["the manifest's keep_frac 0.75 is not 4/8"],
    ),
    "base_experts": (
        lambda out: edit(out / "manifest.json", lambda m: m["base"].update(num_experts=16)),
        ["the manifest's keep_frac 0.5 is not 4/16", MAPPING, "the base has 8 experts, the manifest says 16"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found_even_when_the_files_are_signed(out: Path, base: Checkpoint, fault: str) -> None:
    assert problems(out, base) == []
    plant, expected = FAULTS[fault]
    plant(out)
    sign(out)
    assert problems(out, base) == [problem.replace("OUT", str(out)) for problem in expected]


def test_blocks_and_scales_apart(made: tuple[Checkpoint, Path, dict[str, Tensor]], out: Path) -> None:
    base, _, tensors = made
    kept = slice_tensors(tensors, KEEP)
    scales = {name: tensor for name, tensor in kept.items() if name.endswith("layers.1.mlp.experts.down_proj_scales")}
    shards = {SHARD: {name: t for name, t in kept.items() if name not in scales}, "z.safetensors": scales}
    for shard, held in shards.items():
        write_shard(out / shard, held)
    write_index(out, shards)
    sign(out)
    (problem,) = problems(out, base)
    assert problem == "model.layers.1.mlp.experts.down_proj: blocks and scales are in different shards"


def test_shard_over_the_limit(out: Path, base: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (out / SHARD).stat().st_size
    monkeypatch.setattr(integrity, "MAX_SHARD_BYTES", size)
    assert problems(out, base) == []
    monkeypatch.setattr(integrity, "MAX_SHARD_BYTES", size - 1)
    assert problems(out, base) == [f"{SHARD} has {size} bytes, more than {size - 1}"]


def test_contents_are_hashed_unless_told_otherwise(out: Path, base: Checkpoint) -> None:
    flip(out / SHARD, -1)
    assert problems(out, base) == [f"{SHARD} does not have the sha256 of the manifest"]
    assert check_artifact(open_checkpoint(out), base, read_manifest(out), hash_contents=False) == []


def test_a_shard_that_cannot_be_read_is_named(out: Path, base: Checkpoint) -> None:
    candidate = open_checkpoint(out)
    (out / SHARD).unlink()
    with pytest.raises(UserError) as caught:
        compare_tensors(candidate, base, KEEP)
    assert str(caught.value) == f"{out / SHARD} cannot be read (No such file or directory); check the checkpoint"


def test_without_the_base(out: Path) -> None:
    edit(out / "config.json", lambda config: config.update(rope_theta=1))
    sign(out)
    assert check_artifact(open_checkpoint(out), None, read_manifest(out)) == []


@pytest.mark.parametrize(
    "name",
    ["model.norm.weight", "model.layers.1.mlp.experts.down_proj_blocks", "model.layers.2.mlp.router.bias"],
)
@pytest.mark.parametrize("chunk_bytes", [64, 1 << 22])
def test_one_flipped_bit_is_found(
    out: Path, base: Checkpoint, monkeypatch: pytest.MonkeyPatch, name: str, chunk_bytes: int
) -> None:
    monkeypatch.setattr(integrity, "CHUNK_BYTES", chunk_bytes)
    candidate = open_checkpoint(out)
    assert compare_tensors(candidate, base, KEEP) == []
    flip(out / SHARD, candidate.tensors[name].end - 1)
    (problem,) = compare_tensors(candidate, base, KEEP)
    assert problem == f"tensor {name!r} differs from the base's kept experts"


def test_wrong_experts_are_found(out: Path, base: Checkpoint) -> None:
    wrong = [KEEP[0], [2, 3, 4, 6], KEEP[2]]
    found = compare_tensors(open_checkpoint(out), base, wrong)
    assert found
    assert all("model.layers.1.mlp." in problem for problem in found)


def test_other_tensors_and_shapes(made: tuple[Checkpoint, Path, dict[str, Tensor]], out: Path) -> None:
    base, _, tensors = made
    kept = slice_tensors(tensors, KEEP)
    sinks, buffer = "model.layers.0.self_attn.sinks", "model.rotary_emb.inv_freq"
    wider = Tensor("F32", np.zeros(kept[sinks].array.shape, np.float32))
    kept |= {sinks: wider, buffer: wider}
    write_shard(out / SHARD, kept)
    write_index(out, {SHARD: kept})
    candidate = open_checkpoint(out)
    assert sorted(compare_tensors(candidate, base, KEEP)) == [
        f"tensor '{sinks}' is F32 [4], not the kept part of the base's",
        f"tensor '{buffer}' is not in the base",
    ]
    without_norm = {name: entry for name, entry in candidate.tensors.items() if "model.norm" not in name}
    assert "tensor 'model.norm.weight' is only in the base" in compare_tensors(
        replace(candidate, tensors=without_norm), base, KEEP
    )


def test_another_base_than_the_manifests_is_a_problem(out: Path, base: Checkpoint) -> None:
    manifest = read_manifest(out)
    candidate = open_checkpoint(out)
    assert check_artifact(candidate, base, manifest, base_digest=manifest.base.digest) == []
    (problem,) = check_artifact(candidate, base, manifest, base_digest="0" * 64)
    assert "was not made from" in problem
