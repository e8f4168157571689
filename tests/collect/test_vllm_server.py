"""Scoring and writing by vLLM's server: what a real one has answered, one that takes its place, and one that lies."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from content import content_blocks
from gate_command import BASE
from sglang_server import Server, completions, logprobs_after, serving

from eaftgate.collect.collection import check_stats, concatenate
from eaftgate.collect.collector import ServingScorer
from eaftgate.collect.collectors.vllm import COLLECTOR
from eaftgate.collect.servers import endpoint
from eaftgate.collect.servers.endpoint import EndpointCollector, Servers
from eaftgate.collect.servers.vllm import VLLM
from eaftgate.collect.servers.writer import EndpointWriter
from eaftgate.collect.transformers import score
from eaftgate.errors import UserError
from eaftgate.model.load import default_settings, load_model
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.packs.turns import Ending

RECORDED = json.loads((Path(__file__).parents[2] / "fixtures" / "servers" / "vllm.json").read_text(encoding="utf-8"))
TOKENIZER = load_tokenizer(BASE)
VOCABULARY, SEQ_LEN, BLOCKS = 64, 12, 5
TOKEN_IDS = np.random.default_rng(0).integers(VOCABULARY, size=(BLOCKS, SEQ_LEN), dtype=np.int32)
BLOCK = content_blocks(
    pack="p",
    seq_len=SEQ_LEN,
    token_ids_BS=TOKEN_IDS,
    content_BS=np.arange(SEQ_LEN) * np.ones((BLOCKS, 1)) > 3,
    row_BS=np.zeros((BLOCKS, SEQ_LEN), np.int32),
    identities=("x",),
)


def test_what_a_real_one_answered_is_what_the_model_says() -> None:
    """vLLM 0.32 on a CPU, of the embedded checkpoint written again in bfloat16."""
    token_ids_BS = np.array(RECORDED["scoring"]["prompt"], np.int32)
    assert VLLM.scoring(token_ids_BS) == ("/v1/completions", RECORDED["scoring"])
    scored_BS = np.ones(token_ids_BS.shape, bool)
    scored_BS[:, 0] = False
    answers = VLLM.each(RECORDED["scored"])
    assert answers is not None
    stats = [
        VLLM.stats(answer, *both, vocab_size=2048, largest=2048, where="recorded")
        for answer, *both in zip(answers, token_ids_BS, scored_BS, strict=True)
    ]
    found = concatenate(stats)
    check_stats(found, int(scored_BS.sum()), where="test")
    expected = score(load_model(BASE, default_settings(device="cpu", dtype="float32")), token_ids_BS, scored_BS)
    difference_T = np.abs(found.logprob_T - expected.logprob_T)
    assert difference_T.mean() < 0.02
    assert difference_T.max() < 0.3
    assert np.abs(found.entropy_T - expected.entropy_T).mean() < 0.01
    assert (found.top_ids_TK[:, 0] == expected.top_ids_TK[:, 0]).mean() > 0.95
    size = len(json.dumps(RECORDED["scored"])) / token_ids_BS.size / 21
    assert size < 0.7 * VLLM.entry_bytes


def test_what_a_real_one_wrote_ends_with_the_token_that_it_stopped_at() -> None:
    lengths = []
    for question, answer in zip(RECORDED["writing"], RECORDED["written"], strict=True):
        limit = question["max_tokens"]
        assert VLLM.writing(question["prompt"], Ending(TOKENIZER), limit) == ("/v1/completions", question)
        written = VLLM.written(answer, max_tokens=limit, vocab_size=2048, where="recorded")
        lengths.append((len(written) == limit, written[-1] in Ending(TOKENIZER).ids))
    assert lengths == [(True, False), (False, True)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(endpoint, "RETRY_SECONDS", (0.01,))
    with serving("/models/keep24", VOCABULARY) as state:
        yield state


def of(server: Server, **options: Any) -> EndpointCollector:
    return EndpointCollector(server.url, is_mxfp4=False, vocab_size=VOCABULARY, is_here=False, dialect=VLLM, **options)


def test_every_counted_token_gets_the_servers_numbers(server: Server) -> None:
    found = list(of(server, call_tokens=2 * SEQ_LEN).batches(BLOCK, 0))
    assert [count for count, _ in found] == [2, 2, 1]
    stats = concatenate([stats for _, stats in found])
    check_stats(stats, BLOCK.num_scored, where="test")
    for token, (block, place) in enumerate(np.argwhere(BLOCK.scored_BS)):
        ids = BLOCK.token_ids_BS[block]
        logprobs = logprobs_after(int(ids[place - 1]), int(place), VOCABULARY)
        assert stats.logprob_T[token] == pytest.approx(logprobs[ids[place]], rel=1e-6)
        assert stats.top_ids_TK[token].tolist() == np.argsort(-logprobs)[:20].tolist()


def test_it_says_what_it_serves_and_when_it_was_started(server: Server) -> None:
    scorer = COLLECTOR.open({"endpoint": [server.url]}, batch_size=1, logs=Path())
    assert isinstance(scorer, ServingScorer)
    assert scorer.said(server.url) == {
        "engine": "vLLM", "model": "/models/keep24", "name": "served", "context": 4096, "version": "0.5.16",
        "started": "1.0e+09",
    }  # fmt: skip
    server.at = lambda _: setattr(server, "seed", 5)
    with pytest.raises(UserError, match=r"was changed while it was asked \(started was '1.0e\+09' and is '1.5e\+09'\)"):
        list(of(server).batches(BLOCK, 0))


def test_it_writes(server: Server) -> None:
    prompt = np.array([3, 4, 5], np.int32)
    written = dict(EndpointWriter(of(server)).write([prompt], ending=Ending(TOKENIZER), max_tokens=6))[0]
    whole = prompt.tolist()
    while len(whole) < 3 + len(written):
        whole.append(int(logprobs_after(whole[-1], len(whole), VOCABULARY).argmax()))
    assert written == whole[3:]
    assert EndpointWriter(of(server)).settings()["writer"] == "vllm-endpoint"


def choices(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    def lie(answer: dict[str, Any]) -> Any:
        for choice in answer["choices"]:
            change(choice)
        return answer

    return lie


def entries(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return choices(lambda choice: [change(entry) for entry in choice["prompt_logprobs"][1:]])


def likelier(entry: dict[str, Any]) -> None:
    """The token itself, where it is one more than the top 20."""
    if len(entry) == 21:
        next(iter(entry.values()))["logprob"] = 0.0


def renamed(entry: dict[str, Any]) -> None:
    entry["1_0"] = entry.pop(list(entry)[-1])


def of_others(choice: dict[str, Any]) -> None:
    """As if the last token had been the second."""
    del choice["prompt_token_ids"]
    choice["prompt_logprobs"].insert(1, choice["prompt_logprobs"].pop())


LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no log-probabilities": (choices(lambda choice: choice.update(prompt_logprobs=None)), "no prompt_logprobs"),
    "none at all": (choices(lambda choice: choice.pop("prompt_logprobs")), "there is no 'prompt_logprobs'"),
    "a token too few": (choices(lambda choice: choice["prompt_logprobs"].pop()), "no prompt_logprobs of every token"),
    "other tokens": (choices(lambda choice: choice["prompt_token_ids"].reverse()), "of other tokens"),
    "other tokens, unsaid": (choices(of_others), "of other tokens"),
    "19 of the top": (entries(lambda entry: [entry.pop(list(entry)[-1]) for _ in range(2)]), "its top 20"),
    "numbers as words": (entries(lambda entry: next(iter(entry.values())).update(logprob="-1")), "not a number"),
    "ids that are none": (entries(renamed), "not a whole number"),
    "beyond the top": (entries(likelier), "likelier than one of its top 20"),
    "another order": (lambda answer: {"choices": answer["choices"][::-1]}, "did not answer every block"),
    "a block too few": (lambda answer: {"choices": answer["choices"][:-1]}, "did not answer every block"),
    "nulls": (lambda answer: {"choices": [None] * len(answer["choices"])}, "did not answer every block"),
    "another form": (lambda answer: answer["choices"], "did not answer every block"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_cannot_be_true_is_one_sentence(server: Server, lie: str) -> None:
    server.lie, said = LIES[lie]
    with pytest.raises(UserError, match=said) as raised:
        list(of(server).batches(BLOCK, 0))
    assert str(raised.value).isprintable()


def test_what_is_written_without_its_tokens_is_refused() -> None:
    answer = completions({"prompt": [1, 2], "max_tokens": 3, "stop_token_ids": []}, VOCABULARY)
    assert len(VLLM.written(answer, max_tokens=3, vocab_size=VOCABULARY, where="x")) == 3
    for key, value in (("token_ids", None), ("finish_reason", "abort"), ("token_ids", [1] * 4)):
        lying = deepcopy(answer)
        lying["choices"][0][key] = value
        with pytest.raises(UserError, match=r"^x: what was written cannot be read .*version of vLLM may not suit"):
            VLLM.written(lying, max_tokens=3, vocab_size=VOCABULARY, where="x")


def test_it_is_for_servers_alone() -> None:
    for given in ({}, {"endpoint": ["http://h:1"]}):
        with pytest.raises(UserError, match="--collector=vllm is for servers alone: give --base-endpoint"):
            COLLECTOR.needs(given)
    with pytest.raises(UserError, match="is a vLLM server running there"):
        Servers([], VLLM).said("http://127.0.0.1:9")
