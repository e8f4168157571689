"""Identity is content: not names, not places, not times."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint

from eaftgate.checkpoint import digest
from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest, tokenizer_digest
from eaftgate.errors import UserError
from eaftgate.files import sha256_file


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "base", num_shards=2)
    return tmp_path / "base"


def flip_last_byte(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        (value,) = stream.read(1)
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([value ^ 1]))


def test_names_and_places_do_not_matter(base: Path, tmp_path: Path) -> None:
    expected = checkpoint_digest(open_checkpoint(base))
    other = Path(shutil.copytree(base, tmp_path / "other"))
    index = (other / "model.safetensors.index.json").read_text()
    for old, new in (("model-00001-of-00002", "z"), ("model-00002-of-00002", "a")):
        (other / f"{old}.safetensors").rename(other / f"{new}.safetensors")
        index = index.replace(old, new)
    (other / "model.safetensors.index.json").write_text(index)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(dict(reversed(config.items()))))
    assert checkpoint_digest(open_checkpoint(other)) == expected


def test_every_byte_and_every_config_value_matters(base: Path) -> None:
    digests = {checkpoint_digest(open_checkpoint(base))}
    flip_last_byte(base / "model-00002-of-00002.safetensors")
    digests.add(checkpoint_digest(open_checkpoint(base)))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"rope_theta": 1}))
    digests.add(checkpoint_digest(open_checkpoint(base)))
    assert len(digests) == 3


def test_cache_saves_reading(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache" / "digests.json"
    read: list[str] = []

    def noting(path: Path, *_: object) -> str:
        read.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(digest, "sha256_file", noting)
    checkpoint = open_checkpoint(base)
    expected = checkpoint_digest(checkpoint, cache)
    assert len(read) == 2
    assert checkpoint_digest(checkpoint, cache) == expected
    assert len(read) == 2
    flip_last_byte(base / "model-00001-of-00002.safetensors")
    assert checkpoint_digest(checkpoint, cache) != expected
    assert read[2:] == ["model-00001-of-00002.safetensors"]


def test_cache_is_not_fooled_by_a_restored_mtime(base: Path, tmp_path: Path) -> None:
    cache, shard = tmp_path / "digests.json", base / "model-00001-of-00002.safetensors"
    checkpoint = open_checkpoint(base)
    expected = checkpoint_digest(checkpoint, cache)
    status = shard.stat()
    flip_last_byte(shard)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert checkpoint_digest(checkpoint, cache) != expected


def test_an_edited_digest_is_not_believed(base: Path, tmp_path: Path) -> None:
    """By which one checkpoint would be known as another."""
    cache = tmp_path / "digests.json"
    checkpoint = open_checkpoint(base)
    expected = checkpoint_digest(checkpoint, cache)
    whole = json.loads(cache.read_text())
    one, two = whole
    for edited in (
        {**whole, one: [whole[one][0], whole[two][1], whole[one][2]]},
        {one: whole[two], two: whole[one]},
        {path: [*entry[:1], entry[1]] for path, entry in whole.items()},  # as in an earlier version
    ):
        cache.write_text(json.dumps(edited))
        assert checkpoint_digest(checkpoint, cache) == expected
        assert json.loads(cache.read_text()) == whole


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"3", b'{"a": 3}', b'{"a": [3, 4, 5]}', b"[" * 100_000],
    ids=lambda content: str(content[:10]),
)
def test_broken_cache_is_rebuilt(base: Path, tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "digests.json"
    cache.write_bytes(content)
    checkpoint = open_checkpoint(base)
    assert checkpoint_digest(checkpoint, cache) == checkpoint_digest(checkpoint)
    assert len(json.loads(cache.read_text())) == 2


def test_vanished_shard(base: Path) -> None:
    checkpoint = open_checkpoint(base)
    (base / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint_digest(checkpoint)


def test_shard_that_changes_meanwhile(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changing(path: Path, *_: object) -> str:
        flip_last_byte(path)
        return "0" * 64

    monkeypatch.setattr(digest, "sha256_file", changing)
    checkpoint = open_checkpoint(base)
    with pytest.raises(UserError, match="changed while"):
        checkpoint_digest(checkpoint)


def test_hashing_that_takes_long_is_shown(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = open_checkpoint(base)
    expected = checkpoint_digest(checkpoint)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(digest, "SHOWN_BYTES", 0)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # whose lines begin with its name
    assert checkpoint_digest(checkpoint) == expected
    assert capsys.readouterr().err.startswith(f"hash {base}: ")


def test_tokenizer_digest_ignores_layout_only(base: Path) -> None:
    checkpoint = open_checkpoint(base)
    expected = tokenizer_digest(checkpoint)
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    (base / "tokenizer.json").write_text(json.dumps(dict(reversed(tokenizer.items())), indent=1))
    assert tokenizer_digest(checkpoint) == expected
    tokenizer["model"]["vocab"]["!"] = 7
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert tokenizer_digest(checkpoint) != expected
    (base / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer is missing"):
        tokenizer_digest(checkpoint)
