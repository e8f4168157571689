"""A checkpoint that is replaced while it is in use is noticed; one that is only touched is not."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import write_tiny_checkpoint

from eaftgate.checkpoint import digest as digests
from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.checkpoint.unchanged import check_unchanged
from eaftgate.errors import UserError
from eaftgate.files import sha256_file
from eaftgate.rewrite.rewrite import rewrite_checkpoint
from eaftgate.rewrite.yardstick import write_yardstick

SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "base", num_shards=2)
    return tmp_path / "base"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that were read from end to end."""
    names: list[str] = []

    def noting(path: Path, *_: object) -> str:
        names.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(digests, "sha256_file", noting)
    return names


def opened(path: Path) -> tuple[Checkpoint, str]:
    checkpoint = open_checkpoint(path)
    return checkpoint, checkpoint_digest(checkpoint)


def flip(path: Path) -> None:
    """The last byte, in place, and the time put back."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_a_flipped_one(path: Path) -> None:
    other = path.with_name("other")
    shutil.copy2(path, other)
    flip(other)
    other.replace(path)


def edit(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"x": 1}))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights in place": (lambda base: flip(base / SHARD), SHARD),
    "weights by a rename": (lambda base: replace_by_a_flipped_one(base / SHARD), SHARD),
    "weights taken away": (lambda base: (base / SHARD).unlink(), SHARD),
    "weights cut off": (lambda base: os.truncate(base / SHARD, 1000), SHARD),
    "configuration": (lambda base: edit(base / "config.json"), "config.json"),
    "index": (lambda base: (base / "model.safetensors.index.json").write_text("{}"), "model.safetensors.index.json"),
    "one file beside": (lambda base: shutil.copy(base / SHARD, base / "model.safetensors"), "model.safetensors"),
    "tokenizer": (lambda base: edit(base / "tokenizer.json"), "tokenizer.json"),
    "end of sequence": (lambda base: edit(base / "tokenizer_config.json"), "tokenizer_config.json"),
    "tokenizer taken away": (lambda base: (base / "tokenizer.json").unlink(), "tokenizer.json"),
    "adapter": (lambda base: (base / "adapter_config.json").write_text("{}"), "adapter_config.json"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_replaced_is_named(base: Path, change: str) -> None:
    checkpoint, digest = opened(base)
    check_unchanged(checkpoint, digest)
    make, name = CHANGES[change]
    make(base)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"/{name} was changed or replaced while it was in use") as caught:
            check_unchanged(checkpoint, digest)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "touch",
    [
        lambda base: os.utime(base / SHARD),
        lambda base: (base / SHARD).chmod(0o600),
        lambda base: os.link(base / SHARD, base / "link"),
        lambda base: (shutil.copy(base / SHARD, base / "copy"), (base / "copy").replace(base / SHARD)),
        lambda base: os.utime(base / "tokenizer.json"),
        lambda base: (base / "README.md").write_text("new"),
        lambda base: (base / "model.fp16.safetensors").write_text("new"),
    ],
)
def test_what_is_the_same_by_content_is_the_same(
    base: Path, touch: Callable[[Path], object], hashed: list[str]
) -> None:
    checkpoint, digest = opened(base)
    touch(base)
    check_unchanged(checkpoint, digest)
    once = len(hashed)
    check_unchanged(checkpoint, digest)
    assert len(hashed) == once, "it is read again for the same touch"


def test_nothing_is_read_where_nothing_moved_unless_it_is_asked(base: Path, hashed: list[str]) -> None:
    checkpoint, digest = opened(base)
    del hashed[:]
    check_unchanged(checkpoint, digest)
    assert hashed == []
    check_unchanged(checkpoint, digest, hash_again=True)
    assert len(hashed) == 2
    with pytest.raises(UserError, match=f"a file of {base} was changed or replaced"):
        check_unchanged(checkpoint, "0" * 64, hash_again=True)


def test_a_snapshot_of_links_whose_blob_is_another_is_noticed(base: Path, tmp_path: Path) -> None:
    """As in the Hub's cache."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in base.iterdir():
        (snapshot / file.name).symlink_to(file)
    checkpoint, digest = opened(snapshot)
    check_unchanged(checkpoint, digest, hash_again=True)
    shutil.copy(base / SHARD, tmp_path / "blob")
    flip(tmp_path / "blob")
    (snapshot / SHARD).unlink()
    (snapshot / SHARD).symlink_to(tmp_path / "blob")
    with pytest.raises(UserError, match=f"{SHARD} was changed or replaced"):
        check_unchanged(checkpoint, digest)


def test_the_cache_of_digests_is_not_fooled_by_another_inode(base: Path, tmp_path: Path) -> None:
    cache = tmp_path / "digests.json"
    checkpoint_digest(open_checkpoint(base), cache)
    assert all(stamp[3] == Path(shard).stat().st_ino for shard, (stamp, *_) in json.loads(cache.read_text()).items())


@pytest.mark.parametrize("write", [rewrite_checkpoint, write_yardstick])
def test_nothing_is_made_of_a_base_that_is_replaced_and_nothing_of_it_is_taken_up(
    base: Path, tmp_path: Path, write: Callable[..., None]
) -> None:
    """A shard that was copied from the other file must not be thought finished when the right one is back."""
    made: dict[str, Any] = {"provenance": {}} if write is rewrite_checkpoint else {"bits": 4}
    given = ([range(8)] * 3,) if write is rewrite_checkpoint else ()

    def run(out: Path, progress: Callable[[int, int], None] | None = None) -> None:
        arguments = (*given, out) if given else (out,)
        write(open_checkpoint(base), *arguments, **made, max_shard_bytes=90_000, progress=progress)

    run(tmp_path / "expected")
    right = shutil.copytree(base, tmp_path / "right")
    replaced: list[bool] = []

    def swap(_: int, __: int) -> None:
        if not replaced:
            replaced.append(True)
            for shard in base.glob("*.safetensors"):
                data = bytearray(shard.read_bytes())
                data[-20_000:] = bytes(20_000)
                shard.with_name("other").write_bytes(data)
                shard.with_name("other").replace(shard)

    with pytest.raises(UserError, match="was changed or replaced while it was in use"):
        run(tmp_path / "out", swap)
    assert not (tmp_path / "out").exists()
    shutil.rmtree(base)
    right.rename(base)
    run(tmp_path / "out")
    expected, found = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("expected", "out")
    )
    assert found == expected
