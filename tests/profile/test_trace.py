"""A trace on disk: shards that are there as a whole, read back as they were written, and no damaged ones."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eaftgate.errors import UserError
from eaftgate.packs.harmony import TokenClass
from eaftgate.profile.trace import (
    NORM_SCALE,
    TraceDimensions,
    TraceShard,
    load_shard,
    load_trace,
    save_shard,
    shard_name,
    shard_ranges,
)

LAYERS, EXPERTS, TOP_K = 2, 6, 3
DIMENSIONS = TraceDimensions(num_layers=LAYERS, num_experts=EXPERTS, top_k=TOP_K)
COLUMNS = [field.name for field in dataclasses.fields(TraceShard)]


def shard(tokens: int, seed: int) -> TraceShard:
    rng = np.random.default_rng(seed)
    positions = tokens + 2
    shape = (positions, LAYERS, TOP_K)
    own = np.sort(rng.choice(np.arange(1, positions), tokens, replace=False)).astype(np.int32)
    return TraceShard(
        expert_XLK=rng.integers(0, EXPERTS, shape, dtype=np.uint8),
        gate_XLK=rng.random(shape).astype(np.float16),
        norm_XLK=(rng.random(shape) * 10).astype(np.float16),
        p_T=rng.random(tokens, dtype=np.float32),
        entropy_T=rng.random(tokens, dtype=np.float32),
        predicting_T=own - 1,
        own_T=own,
        row_T=rng.integers(0, 9, tokens, dtype=np.int32),
        pack_T=rng.integers(0, 2, tokens, dtype=np.uint8),
        token_T=np.arange(tokens, dtype=np.int32),
        kind_T=np.full(tokens, TokenClass.FINAL, np.uint8),
        content_T=np.ones(tokens, bool),
    )


SHARDS = {shard_name(0, 4): shard(5, 0), shard_name(4, 6): shard(0, 1), shard_name(6, 20): shard(9, 2)}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in reversed(SHARDS):
        save_shard(tmp_path / "trace", name, SHARDS[name])
    return tmp_path / "trace"


def test_a_shard_comes_back_as_it_was_saved(directory: Path) -> None:
    for name, saved in SHARDS.items():
        loaded = load_shard(directory / name)
        for column in COLUMNS:
            expected = getattr(saved, column)
            assert np.array_equal(getattr(loaded, column), expected)
            assert getattr(loaded, column).dtype == expected.dtype


def test_shards_are_found_in_block_order(directory: Path) -> None:
    (directory / ".blocks-00000020-00000030.1-x.tmp").mkdir()  # one that was being written
    (directory / "blocks-00000099-00000100").touch()
    assert shard_ranges(directory) == dict(zip(SHARDS, (range(4), range(4, 6), range(6, 20)), strict=True))
    assert list(shard_ranges(directory)) == list(SHARDS)
    assert shard_ranges(directory / "nowhere") == {}


def test_columns_and_selections_run_over_all_shards(directory: Path) -> None:
    trace = load_trace(directory, DIMENSIONS)
    assert (trace.num_layers, trace.num_experts, trace.top_k, trace.num_tokens) == (LAYERS, EXPERTS, TOP_K, 14)
    for column in ("p_T", "entropy_T", "row_T", "pack_T"):
        assert trace.column(column).tolist() == [x for s in SHARDS.values() for x in getattr(s, column).tolist()]


@pytest.mark.parametrize(("alignment", "column"), [("predicting", "predicting_T"), ("token", "own_T")])
def test_selections_are_those_of_the_alignments_position(directory: Path, alignment: str, column: str) -> None:
    trace = load_trace(directory, DIMENSIONS)
    for (expert, gate, norm), saved in zip(trace.selections(alignment), SHARDS.values(), strict=True):
        assert len(expert) == len(gate) == len(norm) == len(saved.p_T)
        for token, position in enumerate(getattr(saved, column)):
            assert expert[token].tolist() == saved.expert_XLK[position].tolist()
            assert gate[token].tolist() == saved.gate_XLK[position].tolist()
            assert norm[token].tolist() == (saved.norm_XLK[position].astype(np.float64) * NORM_SCALE).tolist()
    with pytest.raises(KeyError):
        next(trace.selections("neither"))


def test_a_failing_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = np.save

    def failing(path: Path, array: Any) -> None:
        if path.name == "own_T.npy":
            raise OSError("disk full")
        save(path, array)

    monkeypatch.setattr(np, "save", failing)
    with pytest.raises(OSError, match="disk full"):
        save_shard(tmp_path, shard_name(0, 4), shard(5, 0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("column", COLUMNS)
def test_damaged_shards(directory: Path, column: str) -> None:
    path = directory / shard_name(0, 4) / f"{column}.npy"
    whole = path.read_bytes()
    for bad in (None, b"", whole[:6], whole[:40], whole[:-1], b"not numpy at all" * 20, b"\x80\x04N."):
        path.unlink()
        if bad is not None:
            path.write_bytes(bad)
        with pytest.raises(UserError, match=r"trace shard .*blocks-00000000-00000004 is damaged .*: profile again"):
            load_trace(directory, DIMENSIONS)
        path.write_bytes(whole)
    assert load_trace(directory, DIMENSIONS).num_tokens == 14


def test_no_shards(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()
    with pytest.raises(UserError, match="holds no trace shards: profile again"):
        load_trace(directory, DIMENSIONS)


def test_chosen_tokens_of_a_trace(directory: Path) -> None:
    trace = load_trace(directory, DIMENSIONS)
    chosen_T = np.arange(trace.num_tokens) % 3 == 1
    selected = trace.select(chosen_T)
    assert selected.num_tokens == chosen_T.sum()
    for name in ("p_T", "entropy_T", "row_T", "pack_T"):
        np.testing.assert_array_equal(selected.column(name), trace.column(name)[chosen_T])
    for alignment in ("predicting", "token"):
        all_of_it, part = (list(zip(*t.selections(alignment), strict=True)) for t in (trace, selected))
        for before, after in zip(all_of_it, part, strict=True):
            np.testing.assert_array_equal(np.concatenate(after), np.concatenate(before)[chosen_T])
