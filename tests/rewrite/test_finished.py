"""Interruption and resumption of a rewrite, shard by shard. Where any command may write: tests/test_outputs.py."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

import pytest
from tiny_checkpoint import write_tiny_checkpoint

from eaftgate import building
from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.errors import UserError
from eaftgate.rewrite import copy, rewrite
from eaftgate.rewrite.plan import ShardPlan, plan_shards
from eaftgate.rewrite.rewrite import rewrite_checkpoint

KEEP = [[0, 1, 4, 6], [2, 3, 4, 5], [1, 3, 5, 7]]
OTHER = [[0, 1, 2, 3]] * 3


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    write_tiny_checkpoint(tmp_path / "base")
    return open_checkpoint(tmp_path / "base")


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "_MAX_THREADS", 1)


def run(base: Checkpoint, out: Path, *, keep: list[list[int]] = KEEP, seed: int = 0) -> None:
    rewrite_checkpoint(base, keep, out, provenance={"seed": seed}, max_shard_bytes=40_000)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def failing_after(writes: int, error: BaseException) -> Callable[[BinaryIO, memoryview], None]:
    """A disk that takes this many writes."""
    left = iter(range(writes))
    real = copy.write_all

    def write_all(out: BinaryIO, data: memoryview) -> None:
        if next(left, None) is None:
            out.write(data[: len(data) // 2])
            raise error
        real(out, data)

    return write_all


def count_copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    copied: list[str] = []

    def noting(plan: ShardPlan, *rest: Any) -> Any:
        copied.append(plan.name)
        return copy.copy_shard(plan, *rest)

    monkeypatch.setattr(rewrite, "copy_shard", noting)
    return copied


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("error", [NO_SPACE, KeyboardInterrupt(), RuntimeError("planted")])
def test_interrupted_then_resumed(base: Checkpoint, tmp_path: Path, error: BaseException) -> None:
    run(base, tmp_path / "whole")
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy, "write_all", failing_after(40, error))
        with pytest.raises(UserError if error is NO_SPACE else type(error)) as caught:
            run(base, out)
    if error is NO_SPACE:
        assert "no space left" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not out.exists()
    finished = json.loads((partial / "state.json").read_text())
    assert finished
    with pytest.MonkeyPatch.context() as patch:
        copied = count_copies(patch)
        run(base, out)
    assert copied
    assert not set(copied) & finished.keys()
    assert contents(out) == contents(tmp_path / "whole")
    assert not partial.exists()


@pytest.mark.usefixtures("one_thread")
def test_crash_before_the_rename(base: Checkpoint, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "_publish", lambda *_: (_ for _ in ()).throw(SystemExit(9)))
        with pytest.raises(SystemExit):
            run(base, tmp_path / "out")
        copied = count_copies(patch)
        patch.undo()
    assert not (tmp_path / "out").exists()
    with pytest.MonkeyPatch.context() as patch:
        copied = count_copies(patch)
        run(base, tmp_path / "out")
    assert copied == []
    run(base, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_when_a_shard_fails_none_is_begun_and_those_being_copied_stop(
    base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads: the second shard fails while the first is being copied; a third may have been begun by then."""
    begun: list[int] = []
    stopped: list[int] = []
    copying = Event()

    def copy_shard(plan: ShardPlan, source: Path, target: Path, on_bytes: Callable[[int], None]) -> str:
        del source, target
        number = int(plan.name.split("-")[1])
        begun.append(number)
        if number == 2:
            copying.wait(10)
            raise NO_SPACE
        copying.set()
        try:
            for _ in range(1000):
                on_bytes(0)
                time.sleep(0.01)
        except InterruptedError:
            stopped.append(number)
            raise
        return "copied to its end"

    monkeypatch.setattr(rewrite, "copy_shard", copy_shard)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(UserError, match="no space left"):
        run(base, tmp_path / "out")
    assert {1, 2} <= {*begun} <= {1, 2, 3}
    assert {*stopped} == {*begun} - {2}
    assert len(plan_shards(base, KEEP, max_shard_bytes=40_000)) > 3


def interrupt(base: Checkpoint, out: Path) -> Path:
    """Leave a partial directory with at least one finished shard."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy, "write_all", failing_after(40, NO_SPACE))
        with pytest.raises(UserError):
            run(base, out)
    return out.with_name(f".{out.name}.partial")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("change", ["keep", "provenance", "base"])
def test_partial_of_other_inputs_is_discarded(base: Checkpoint, tmp_path: Path, change: str) -> None:
    interrupt(base, tmp_path / "out")
    keep = OTHER if change == "keep" else KEEP
    seed = int(change == "provenance")
    if change == "base":
        write_tiny_checkpoint(tmp_path / "base", seed=1)
        base = open_checkpoint(tmp_path / "base")
    with pytest.MonkeyPatch.context() as patch:
        copied = count_copies(patch)
        run(base, tmp_path / "out", keep=keep, seed=seed)
    run(base, tmp_path / "whole", keep=keep, seed=seed)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert sorted(copied) == sorted(path.name for path in (tmp_path / "whole").glob("*.safetensors"))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "link", "directory", "state", "request"])
def test_damaged_partial_is_repaired(base: Checkpoint, tmp_path: Path, damage: str) -> None:
    partial = interrupt(base, tmp_path / "out")
    shard = partial / "payload" / next(iter(json.loads((partial / "state.json").read_text())))
    data = shard.read_bytes()
    if damage == "flip":
        shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "truncate":
        shard.write_bytes(data[:-1])
    elif damage == "delete":
        shard.unlink()
    elif damage == "directory":
        (partial / "payload" / "strange").mkdir()
        (partial / "payload" / "strange" / "file").touch()
    elif damage == "link":
        shard.rename(tmp_path / "elsewhere")
        shard.symlink_to(tmp_path / "elsewhere")
    else:
        (partial / f"{damage}.json").write_bytes(b"\xff{")
    run(base, tmp_path / "out")
    run(base, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    if damage == "link":
        assert (tmp_path / "elsewhere").read_bytes() == data


def test_unwritable_parent(base: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        run(base, tmp_path / "file" / "out")
    assert "\n" not in str(caught.value)


def test_disk_full_while_writing_the_small_files(base: Checkpoint, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise NO_SPACE

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(UserError, match="no space left"):
            run(base, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(base, tmp_path / "out")
    assert open_checkpoint(tmp_path / "out").num_experts == 4
