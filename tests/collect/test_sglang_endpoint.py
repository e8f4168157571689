"""Scoring over HTTP: a server on this machine that answers in SGLang's form, sometimes late, sometimes not at all."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from content import content_blocks
from gate_command import BASE
from sglang_server import Server, answer, logprobs_after, serving

from eaftgate.collect.collection import check_stats, concatenate
from eaftgate.collect.servers import endpoint
from eaftgate.collect.servers.answers import stats_of_answer
from eaftgate.collect.servers.endpoint import EndpointCollector, endpoint_for
from eaftgate.collect.transformers import score
from eaftgate.errors import UserError
from eaftgate.model.load import default_settings, load_model

VOCABULARY, SEQ_LEN, BLOCKS = 64, 12, 9
RNG = np.random.default_rng(0)
TOKEN_IDS = RNG.integers(VOCABULARY, size=(BLOCKS, SEQ_LEN), dtype=np.int32)
TOKEN_IDS[3, -1] = VOCABULARY - 1
BLOCK = content_blocks(
    pack="p",
    seq_len=SEQ_LEN,
    token_ids_BS=TOKEN_IDS,
    content_BS=(RNG.random((BLOCKS, SEQ_LEN)) < 0.4) & (np.arange(SEQ_LEN) > 0) | (TOKEN_IDS == VOCABULARY - 1),
    row_BS=np.zeros((BLOCKS, SEQ_LEN), np.int32),
    identities=("x",),
)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving("/models/keep24", VOCABULARY) as state:
        yield state


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "RETRY_SECONDS", (0.01, 0.01))


def test_every_counted_token_gets_the_servers_numbers(server: Server) -> None:
    collector = EndpointCollector(server.url, is_mxfp4=True, vocab_size=VOCABULARY, call_tokens=2 * SEQ_LEN)
    found = list(collector.batches(BLOCK, 0))
    assert [count for count, _ in found] == [2, 2, 2, 2, 1]
    stats = concatenate([stats for _, stats in found])
    check_stats(stats, BLOCK.num_scored, where="test")
    for token, (block, place) in enumerate(np.argwhere(BLOCK.scored_BS)):
        ids = BLOCK.token_ids_BS[block]
        logprobs = logprobs_after(int(ids[place - 1]), int(place), VOCABULARY)
        assert stats.logprob_T[token] == pytest.approx(logprobs[ids[place]], rel=1e-6)
        best = np.argsort(-logprobs)[:20]
        assert stats.top_ids_TK[token].tolist() == best.tolist()
        q = np.exp(logprobs[best]) / np.exp(logprobs[best]).sum()
        assert stats.entropy_T[token] == pytest.approx(-(q * np.log(q)).sum() / np.log(20), rel=1e-5)


def test_it_resumes_at_a_block(server: Server) -> None:
    collector = EndpointCollector(server.url, is_mxfp4=True, vocab_size=VOCABULARY, call_tokens=2 * SEQ_LEN)
    stats = concatenate([stats for _, stats in collector.batches(BLOCK, 6)])
    assert len(stats) == int(BLOCK.scored_BS[6:].sum())


def test_a_dropped_connection_and_a_busy_server_are_asked_again(server: Server) -> None:
    server.failures = [None, 503]
    collector = EndpointCollector(server.url, is_mxfp4=True, vocab_size=VOCABULARY, call_tokens=BLOCKS * SEQ_LEN)
    ((count, stats),) = collector.batches(BLOCK, 0)
    assert (count, len(stats), server.asked) == (BLOCKS, BLOCK.num_scored, 3)


@pytest.mark.parametrize("failures", [[503] * 3, [400]])
def test_a_server_that_stays_broken_or_refuses_is_one_sentence(server: Server, failures: list[int | None]) -> None:
    server.failures = list(failures)
    collector = EndpointCollector(server.url, is_mxfp4=True, vocab_size=VOCABULARY, call_tokens=BLOCKS * SEQ_LEN)
    with pytest.raises(UserError, match="does not answer"):
        list(collector.batches(BLOCK, 0))
    assert server.asked == len(failures)


def test_a_server_that_dequantises_is_refused(server: Server) -> None:
    server.backend = "triton"
    with pytest.raises(UserError, match="dequantises MXFP4 experts"):
        EndpointCollector(server.url, is_mxfp4=True, vocab_size=VOCABULARY)
    assert (
        EndpointCollector(server.url, is_mxfp4=False, vocab_size=VOCABULARY).settings()["moe_runner_backend"]
        == "triton"
    )


def test_the_endpoint_is_the_one_that_serves_the_checkpoint(server: Server) -> None:
    assert endpoint_for([server.url], Path("/elsewhere"), "/models/keep24") == server.url
    with pytest.raises(UserError, match=r"no --endpoint serves other .*serves /models/keep24"):
        endpoint_for([server.url], Path("/elsewhere"), "other")
    with pytest.raises(UserError, match="is an SGLang server running there"):
        endpoint_for(["http://127.0.0.1:9"], Path("/x"), "x")


IDS, COUNTED = BLOCK.token_ids_BS[0], BLOCK.scored_BS[0]


def other_tokens(meta: dict[str, Any]) -> None:
    for entry in meta["input_token_logprobs"]:
        entry[1] += 1


def no_tokens(meta: dict[str, Any]) -> None:
    for entry in meta["input_token_logprobs"]:
        entry[1] = 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda meta: meta.pop("input_top_logprobs"),
        lambda meta: meta["input_token_logprobs"].pop(),
        lambda meta: [tops.pop() for tops in meta["input_top_logprobs"][1:]],
        other_tokens,
        no_tokens,
    ],
)
def test_an_answer_of_another_form_or_block_is_refused(damage: Any) -> None:
    said = answer(IDS.tolist(), VOCABULARY)
    damage(said["meta_info"])
    with pytest.raises(UserError, match=r"^block 7: the answer cannot be read \(.*its version of SGLang may not suit$"):
        stats_of_answer(said, IDS, COUNTED, vocab_size=VOCABULARY, where="block 7")


RECORDED = Path(__file__).parents[2] / "fixtures" / "sglang" / "answer.json"


def test_what_an_engine_answered_is_what_the_model_says() -> None:
    """Recorded on a GPU (benchmarks/h200_sglang.py --sections record): the format is SGLang's own."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    token_ids_BS = np.array(recorded["input_ids"], np.int32)
    scored_BS = np.ones(token_ids_BS.shape, bool)
    scored_BS[:, 0] = False
    found = concatenate(
        [
            stats_of_answer(answer, ids_S, counted_S, vocab_size=1 << 11, where="recorded")
            for answer, ids_S, counted_S in zip(recorded["answers"], token_ids_BS, scored_BS, strict=True)
        ]
    )
    check_stats(found, int(scored_BS.sum()), where="test")
    expected = score(load_model(BASE, default_settings(device="cpu", dtype="float32")), token_ids_BS, scored_BS)
    # bfloat16 against float32: on 21,023 tokens of the fixture 0.0006 on average, 0.12 at most (docs/scaling.md).
    difference_T = np.abs(found.logprob_T - expected.logprob_T)
    assert difference_T.mean() < 0.01
    assert difference_T.max() < 0.2
    assert np.abs(found.entropy_T - expected.entropy_T).mean() < 0.01
    assert (found.top_ids_TK[:, 0] == expected.top_ids_TK[:, 0]).mean() > 0.95
