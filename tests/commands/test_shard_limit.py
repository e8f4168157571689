"""A base whose projections are larger than published shards are: known from headers alone, and there is an option."""

import json
import struct
from pathlib import Path

import pytest
from cli_command import Command, refused
from tiny_checkpoint import Size, build_config, write_tiny_checkpoint

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.families.gpt_oss import GptOss
from eaftgate.rewrite.integrity import check_artifact
from eaftgate.rewrite.manifest import read_manifest
from eaftgate.rewrite.plan import GB, in_gb, plan_shards, smallest_limit
from eaftgate.rewrite.rewrite import rewrite_checkpoint


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A layer of the 120B in float32, gate and up of 8.5 GB; nothing of it is on the disk."""
    path = tmp_path / "wide"
    write_tiny_checkpoint(path)
    size = Size(layers=1, experts=128, hidden=2880, intermediate=2880, heads=64, kv_heads=8, head_dim=64)
    vocab_size = json.loads((path / "config.json").read_text())["vocab_size"]
    config = build_config(size, mxfp4=False, vocab_size=vocab_size)
    (path / "config.json").write_text(json.dumps(config))
    family, header, end = GptOss(), {}, 0
    sizes = family.dimensions(config, where=path)
    for name, shape in family.needed(config, sizes, is_mxfp4=False, where=path).items():
        begin, end = end, end + 4
        for count in shape:
            end = begin + (end - begin) * count
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (path / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)
    return path


def test_it_is_said_before_the_base_is_hashed(
    wide: Path,
    tmp_path: Path,
    eaftgate: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eaftgate.checkpoint.digest.sha256_file", lambda _: pytest.fail("it was hashed"))
    out = tmp_path / "out"
    needed = "raise it with --max-shard-gb 9"
    refused(eaftgate("prune", wide, "--keep-n", 128, "--out", out), needed)
    assert not out.exists()
    told = eaftgate("cost", wide, "--keep-n", 128)
    assert told.code == 0
    assert told.out.rstrip().endswith("a file of weights is larger than 5 GB: prune needs --max-shard-gb 9")
    assert "--max-shard-gb" not in eaftgate("cost", wide, "--keep-n", 64).out


def test_the_option_is_enough(wide: Path) -> None:
    base = open_checkpoint(wide)
    limit = in_gb(smallest_limit(base, 128)) * GB
    plans = plan_shards(base, [range(128)], max_shard_bytes=limit)
    assert 5 * GB < max(plan.size for plan in plans) <= limit


def test_a_checkpoint_says_that_its_limit_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_checkpoint(tmp_path / "base")
    base = open_checkpoint(tmp_path / "base")
    for name, limit in (("usual", 5 * GB), ("raised", 6 * GB)):
        rewrite_checkpoint(base, [range(8)] * 3, tmp_path / name, provenance={"seed": None}, max_shard_bytes=limit)
    usual, raised = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("usual", "raised"))
    assert "max_shard_bytes" not in usual
    assert raised == {**usual, "max_shard_bytes": 6 * GB, "files": raised["files"]}
    monkeypatch.setattr("eaftgate.rewrite.integrity.MAX_SHARD_BYTES", 100)
    problems = {
        name: check_artifact(open_checkpoint(tmp_path / name), base, read_manifest(tmp_path / name))
        for name in ("usual", "raised")
    }
    assert problems["raised"] == []
    assert "more than 100" in problems["usual"][0]
