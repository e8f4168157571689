"""The transformers collector scores every counted token from the position before it, whatever the batch."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import (
    CPU,
    load_lively,
    load_reference,
    reference_logits,
    slow_token_stats,
    write_lively_checkpoint,
    write_packs,
)

from eaftgate.collect import transformers as module
from eaftgate.collect.collection import TokenStats, concatenate
from eaftgate.collect.store import CollectionStore, Request
from eaftgate.collect.transformers import LoadedModel, TransformersCollector, score
from eaftgate.errors import UserError
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import read_pack
from eaftgate.packs.tokenizer import load_tokenizer

ROUNDING = 1e-4
"""Float32 logits of size 10 after three layers; see tests/model/test_attention.py."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lively_checkpoint(tmp_path_factory.mktemp("lively"))


@pytest.fixture(scope="module")
def blocks(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Blocks:
    packs = write_packs(tmp_path_factory.mktemp("packs"), {"p": 30})
    tokenizer = load_tokenizer(path)
    pack = read_pack(packs / "p.parquet")
    found = build_blocks(pack, tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=24, num_blocks=11)
    counted = found.scored_BS.copy()
    counted[4] = False  # a block of nothing but a user's words
    return dataclasses.replace(found, scored_BS=counted)


LOADED = LoadedModel()
"""Of the tests that do not mind which model is loaded."""


def collect(path: Path, blocks: Blocks, *, batch_size: int, first_block: int = 0) -> TokenStats:
    collector = TransformersCollector(LOADED, path, "digest", CPU, batch_size=batch_size)
    return concatenate([stats for _, stats in collector.batches(blocks, first_block)])


def assert_close(a: TokenStats, b: TokenStats) -> None:
    np.testing.assert_allclose(a.logprob_T, b.logprob_T, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(a.entropy_T, b.entropy_T, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(a.top_logprobs_TK, b.top_logprobs_TK, rtol=0, atol=ROUNDING)
    np.testing.assert_array_equal(a.top_ids_TK, b.top_ids_TK)


def test_equals_brute_force(path: Path, blocks: Blocks) -> None:
    """transformers' own model in float64, full-vocabulary softmax, one token after the other."""
    stats = collect(path, blocks, batch_size=3)
    reference = load_reference(path)
    expected = []
    for b in range(blocks.num_blocks):
        logits = reference_logits(reference, blocks.token_ids_BS[b].tolist())
        expected += [
            slow_token_stats(logits[s - 1], int(blocks.token_ids_BS[b, s]))
            for s in range(blocks.seq_len)
            if blocks.scored_BS[b, s]
        ]
    assert len(stats) == len(expected) > 80
    columns = [np.array(column) for column in zip(*expected, strict=True)]
    assert_close(stats, TokenStats(columns[0], columns[1], columns[2], columns[3]))
    assert np.ptp(stats.logprob_T) > 3  # tokens differ, so a shift by one would show
    assert np.ptp(stats.entropy_T) > 0.3


@pytest.mark.parametrize("batch_size", [2, 5, 64])
def test_batch_size_changes_nothing_but_rounding(path: Path, blocks: Blocks, batch_size: int) -> None:
    assert_close(collect(path, blocks, batch_size=batch_size), collect(path, blocks, batch_size=1))


def test_batches_cover_the_blocks_in_order(path: Path, blocks: Blocks) -> None:
    collector = TransformersCollector(LoadedModel(), path, "digest", CPU, batch_size=4)
    sizes = [(number, len(stats)) for number, stats in collector.batches(blocks, 0)]
    counted = blocks.scored_BS.sum(axis=1)
    assert sizes == [(4, counted[:4].sum()), (4, counted[4:8].sum()), (3, counted[8:].sum())]
    assert [number for number, _ in collector.batches(blocks, 9)] == [2]


def test_a_block_without_counted_tokens(path: Path, blocks: Blocks) -> None:
    stats = score(load_lively(path), blocks.token_ids_BS[4:5], blocks.scored_BS[4:5])
    assert len(stats) == 0
    assert stats.top_logprobs_TK.shape == (0, 20)


def test_a_resumed_collection_is_the_same(
    path: Path, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eaftgate.collect.store.PART_SECONDS", 0.0)
    request = Request("digest", blocks, TransformersCollector(LoadedModel(), path, "digest", CPU, batch_size=3))
    whole = CollectionStore(tmp_path / "whole", session="s").get(request).stats
    calls = 0

    def killed(*arguments: Any) -> TokenStats:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return score(*arguments)

    store = CollectionStore(tmp_path / "resumed", session="s")
    with monkeypatch.context() as patch:
        patch.setattr(module, "score", killed)
        with pytest.raises(KeyboardInterrupt):
            store.get(request)
    assert_close(store.get(request).stats, whole)


def test_settings_are_part_of_the_key(path: Path, blocks: Blocks, tmp_path: Path) -> None:
    store = CollectionStore(tmp_path, session="s")
    bf16 = dataclasses.replace(CPU, dtype="bfloat16")
    collectors = [
        TransformersCollector(LoadedModel(), path, "d", settings, batch_size=batch_size)
        for settings, batch_size in ((CPU, 1), (CPU, 2), (bf16, 1))
    ]
    assert len({store.path(Request("d", blocks, collector)) for collector in collectors}) == 3
    # Where the checkpoint lies does not matter; its digest is the request's.
    moved = TransformersCollector(LoadedModel(), tmp_path, "d", CPU, batch_size=1)
    assert store.path(Request("d", blocks, moved)) == store.path(Request("d", blocks, collectors[0]))


def test_bfloat16_runs_and_differs_by_its_rounding(path: Path, blocks: Blocks) -> None:
    half = TransformersCollector(LoadedModel(), path, "d", dataclasses.replace(CPU, dtype="bfloat16"), batch_size=4)
    (_, stats), *_ = half.batches(blocks, 0)
    difference = np.abs(stats.logprob_T - collect(path, blocks, batch_size=4).logprob_T[: len(stats)])
    assert 1e-3 < difference.mean() < 0.5


def test_prompts_that_are_scored_too_change_no_bit_of_the_others(path: Path, blocks: Blocks) -> None:
    everything = blocks.scoring_everything()
    found = collect(path, everything, batch_size=4)
    assert len(found) == blocks.num_blocks * (blocks.seq_len - 1)
    alone = dataclasses.replace(blocks, scored_BS=everything.scored_BS & ~everything.prompts_BS)
    written, expected = found.select(~everything.prompts_BS[everything.scored_BS]), collect(path, alone, batch_size=4)
    for field in dataclasses.fields(TokenStats):
        np.testing.assert_array_equal(getattr(written, field.name), getattr(expected, field.name))


def test_one_model_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []

    def load(_: Path, settings: Any) -> Any:
        loads.append(settings.dtype)
        return object()

    monkeypatch.setattr(module, "load_model", load)
    bf16 = dataclasses.replace(CPU, dtype="bfloat16")
    loaded = LoadedModel()
    first = loaded.get(path, "d", CPU)
    assert loaded.get(path, "d", CPU) is first
    loaded.get(path, "d", bf16)
    loaded.get(path, "d", CPU)
    loaded.get(path, "another digest", CPU)
    assert loads == ["float32", "bfloat16", "float32", "float32"]
    assert len(loaded._loaded) == 1
    loaded.unload()
    loaded.get(path, "another digest", CPU)
    assert len(loads) == 5


def test_the_model_is_not_loaded_before_the_first_batch(tmp_path: Path) -> None:
    collector = TransformersCollector(LoadedModel(), tmp_path / "nowhere", "digest", CPU, batch_size=1)
    assert collector.settings()["batch_size"] == 1


def test_out_of_memory(path: Path, blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(*_: Any) -> TokenStats:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(module, "score", score)
    message = "cpu ran out of memory scoring 3 blocks of 24 tokens: lower --batch-size"
    with pytest.raises(UserError, match=message):
        collect(path, blocks, batch_size=3)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_must_be_positive(tmp_path: Path, batch_size: int) -> None:
    with pytest.raises(UserError, match=f"--batch-size is {batch_size}: it must be at least 1"):
        TransformersCollector(LoadedModel(), tmp_path, "digest", CPU, batch_size=batch_size)
