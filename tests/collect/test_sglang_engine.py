"""The SGLang collector over an engine that cuts blocks up as it likes (tests/fake_sglang)."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_command import BASE, GATE_PACKS

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.collect.collection import TokenStats, check_stats, concatenate
from eaftgate.collect.collector import ScoredModel
from eaftgate.collect.sglang import collector as module
from eaftgate.collect.sglang import spool
from eaftgate.collect.sglang.collector import EngineOptions, Engines, SglangCollector
from eaftgate.collect.transformers import LoadedModel, TransformersCollector
from eaftgate.errors import UserError
from eaftgate.model.load import default_settings
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import named_packs
from eaftgate.packs.tokenizer import load_tokenizer

FAKE = Path(__file__).parents[1] / "fake_sglang"


Start = Callable[..., Engines]


@pytest.fixture(scope="module", autouse=True)
def fake() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(FAKE), str(Path(__file__).parents[2])]))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.syspath_prepend(str(FAKE))
        yield


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(OPTION=...)`: engines of the fake SGLang, with logs in `tmp_path`; ended after the test."""
    with ExitStack() as started:

        def engines(**options: Any) -> Engines:
            return started.enter_context(closing(Engines(EngineOptions(**options), tmp_path)))

        yield engines


@pytest.fixture(scope="module")
def blocks() -> Blocks:
    tokenizer = load_tokenizer(BASE)
    union = named_packs(GATE_PACKS, seed=3407)["UNION"]
    return build_blocks(union, tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=72, num_blocks=11)


def collector(engines: Engines, path: Path = BASE, *, name: str = "x", call_tokens: int = 250) -> SglangCollector:
    model = ScoredModel(name, str(path), path, checkpoint_digest(open_checkpoint(BASE)), is_mxfp4=True)
    return SglangCollector(engines, model, call_tokens=call_tokens)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SglangCollector]:
    """Whose engine has booted after the first batch, and serves more than one test: a boot takes seconds."""
    with closing(Engines(EngineOptions(), tmp_path_factory.mktemp("logs"))) as engines:
        yield collector(engines)


def test_blocks_that_were_cut_up_come_back_with_the_transformers_collectors_numbers(
    blocks: Blocks, running: SglangCollector
) -> None:
    found = list(running.batches(blocks, 0))
    assert [count for count, _ in found] == [3, 3, 3, 2]
    stats = concatenate([stats for _, stats in found])
    check_stats(stats, blocks.num_scored, where="test")
    model = TransformersCollector(LoadedModel(), BASE, "x", default_settings(device="cpu"), batch_size=4)
    expected = concatenate([stats for _, stats in model.batches(blocks, 0)])
    np.testing.assert_allclose(stats.logprob_T, expected.logprob_T, atol=2e-4)
    np.testing.assert_allclose(stats.entropy_T, expected.entropy_T, atol=2e-4)
    np.testing.assert_allclose(stats.top_logprobs_TK, expected.top_logprobs_TK, atol=1e-3)
    assert (stats.top_ids_TK[:, 0] == expected.top_ids_TK[:, 0]).mean() > 0.999


def test_prompts_that_are_scored_too_change_no_bit_of_the_others(blocks: Blocks, running: SglangCollector) -> None:
    everything = blocks.scoring_everything()
    found = concatenate([stats for _, stats in running.batches(everything, 0)])
    assert len(found) == 11 * 71
    written = found.select(~everything.prompts_BS[everything.scored_BS])
    expected = concatenate([stats for _, stats in running.batches(blocks, 0)])
    for field in fields(TokenStats):
        np.testing.assert_array_equal(getattr(written, field.name), getattr(expected, field.name))


def test_it_resumes_at_a_block_and_an_abandoned_run_leaves_the_engine_usable(
    blocks: Blocks, running: SglangCollector
) -> None:
    next(running.batches(blocks, 0))[1]
    rest = concatenate([stats for _, stats in running.batches(blocks, 5)])
    assert len(rest) == int(blocks.scored_BS[5:].sum())


def test_an_engine_that_does_not_boot_is_one_sentence_with_its_log(
    blocks: Blocks, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "no-weights").mkdir()
    shutil.copy(BASE / "config.json", tmp_path / "no-weights")
    with pytest.raises(UserError, match=r"engine ended with code \d+ \(.*Error.*\): see .*log"):
        list(collector(start(), tmp_path / "no-weights").batches(blocks, 0))


def test_an_engine_that_did_not_boot_is_not_tried_again(blocks: Blocks, start: Start, tmp_path: Path) -> None:
    """Every case of a gate asks for it, and a boot takes a minute."""
    (tmp_path / "no-weights").mkdir()
    shutil.copy(BASE / "config.json", tmp_path / "no-weights")
    engines, said = start(), []
    for name in ("first", "second"):
        with pytest.raises(UserError) as refused:
            list(collector(engines, tmp_path / "no-weights", name=name).batches(blocks, 0))
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert "first" in said[0]
    assert [path.name for path in tmp_path.glob("*.log")] == [f"engine-first-{os.getpid()}.log"]


def test_one_engine_at_a_time(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate goes from model to model; two do not fit on a GPU. What was closed may be asked for again."""
    happened: list[str] = []

    class Recorded:
        def __init__(self, path: Path, *_: object, **__: object) -> None:
            self.name = path.name
            happened.append(f"boot {path.name}")

        def close(self) -> None:
            happened.append(f"close {self.name}")

    monkeypatch.setattr(module, "Engine", Recorded)
    shutil.copytree(BASE, tmp_path / "other")
    a, b = (ScoredModel("x", "", path, path.name, is_mxfp4=True) for path in (BASE, tmp_path / "other"))
    engines = start()
    assert engines.engine_of(a) is engines.engine_of(a)
    engines.engine_of(b)
    engines.close()
    engines.close()
    engines.engine_of(b)
    engines.forget()  # it ended by itself
    engines.engine_of(b)
    boots = ["boot checkpoint", "close checkpoint", "boot other", "close other", "boot other", "boot other"]
    assert happened == boots


def test_a_config_that_leaves_the_swiglu_limit_to_its_default_boots(
    blocks: Blocks, start: Start, tmp_path: Path
) -> None:
    shutil.copytree(BASE, tmp_path / "older")
    config = json.loads((BASE / "config.json").read_text(encoding="utf-8"))
    del config["swiglu_limit"]
    (tmp_path / "older" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    one = blocks.reordered(np.arange(1))
    stats = concatenate([stats for _, stats in collector(start(), tmp_path / "older").batches(one, 0)])
    check_stats(stats, one.num_scored, where="test")


def test_blocks_that_the_engine_refuses_are_one_sentence(blocks: Blocks, start: Start, tmp_path: Path) -> None:
    """SGLang goes on after that: nothing ends, nobody answers."""
    shutil.copytree(BASE, tmp_path / "short")
    config = json.loads((BASE / "config.json").read_text(encoding="utf-8")) | {"max_position_embeddings": 50}
    (tmp_path / "short" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"engine refused blocks \(ValueError: The input \(72 tokens\) is longer.*see .*log"
    ):
        list(collector(start(), tmp_path / "short").batches(blocks, 0))


def test_a_backend_that_dequantises_is_refused(blocks: Blocks, start: Start) -> None:
    with pytest.raises(UserError, match="dequantises its MXFP4 experts"):
        list(collector(start(moe_runner_backend="triton")).batches(blocks, 0))


def test_settings_name_what_decides_the_numbers(start: Start) -> None:
    settings = collector(start()).settings()
    assert settings.keys() >= {"sglang", "moe_runner_backend", "attention_backend", "chunked_prefill_size", "tp_size"}
    assert settings != collector(start(), call_tokens=1).settings()


def test_without_sglang_the_sentence_says_what_to_install(
    blocks: Blocks, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"eaftgate\[sglang\]"):
        list(collector(start()).batches(blocks, 0))


# Files between the processes


def test_a_part_that_is_missing_is_an_error(tmp_path: Path) -> None:
    directory = tmp_path / spool.MARK
    directory.mkdir()
    counted = np.array([False, True, True, False, True])
    prompts = np.array([False, False, True, False, False])
    rid = spool.write_request(directory / "000000000", np.arange(5), counted, prompts)
    assert spool.is_ours(rid)
    assert not spool.is_ours("4f5e")
    position, target, prompt = spool.wanted(rid, 0, 2)
    assert (position.tolist(), target.tolist(), prompt.tolist()) == ([0, 1], [1, 2], [False, True])
    none_T, none_TK = np.zeros(2, np.float32), np.zeros((2, 20), np.float32)
    stats = TokenStats(none_T, none_T, none_TK.astype(np.int32), none_TK)
    spool.write_part(rid, 0, stats)
    with pytest.raises(UserError, match="2 of 3 scored tokens"):
        spool.take_answer(directory / "000000000", 3)
    spool.write_part(rid, 2, stats.select(np.s_[:1]))
    assert len(spool.take_answer(directory / "000000000", 3)) == 3
    assert list(directory.iterdir()) == []
