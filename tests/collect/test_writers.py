"""Whoever runs the model, what is written for a turn is its greedy text, to where the turn ends."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_command import BASE, GATE_PACKS
from sglang_server import Server, logprobs_after, serving

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.collect.collector import ScoredModel
from eaftgate.collect.servers import endpoint, writer
from eaftgate.collect.servers.answers import tokens_of_answer
from eaftgate.collect.servers.endpoint import EndpointCollector
from eaftgate.collect.servers.writer import EndpointWriter
from eaftgate.collect.sglang.collector import EngineOptions, Engines
from eaftgate.collect.transformers import ModelScorer
from eaftgate.collect.writer import Writer, WritingScorer
from eaftgate.errors import UserError
from eaftgate.model.load import default_settings
from eaftgate.packs.pack import read_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.packs.turns import ChosenTurns, Ending, choose_turns

FAKE = Path(__file__).parents[1] / "fake_sglang"
MAX_TOKENS = 40
TOKENIZER = load_tokenizer(BASE)


@pytest.fixture(scope="module")
def chosen() -> ChosenTurns:
    """Of the pack whose turns are reasoning, and an answer: the first of them is no end."""
    pack = next(pack for pack in read_packs(GATE_PACKS) if pack.name == "reasoning")
    return choose_turns(pack, TOKENIZER, count=2, seed=3, max_tokens=MAX_TOKENS, context=None)


def base() -> ScoredModel:
    return ScoredModel("base", str(BASE), BASE, checkpoint_digest(open_checkpoint(BASE)), is_mxfp4=True)


def texts(found: Writer, chosen: ChosenTurns, max_tokens: int = MAX_TOKENS) -> list[list[int]]:
    written = dict(found.write(chosen.prompts, ending=Ending(TOKENIZER), max_tokens=max_tokens))
    return [written[number] for number in range(len(chosen))]


def test_an_engine_writes_what_transformers_does(
    chosen: ChosenTurns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAKE), str(Path(__file__).parents[2])]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(FAKE))
    scorer = ModelScorer(default_settings(device="cpu"), batch_size=1)
    assert isinstance(scorer, WritingScorer)
    expected = texts(scorer.writer(base()), chosen, 160)
    end = TOKENIZER.backend.token_to_id("<|end|>")
    assert any(Ending(TOKENIZER).ends(text) for text in expected)
    assert any(end in text[:-1] for text in expected), "no turn goes on after a closed message"
    middle = (
        min(text.index(end) for text in expected if end in text[:-1]) + 5
    )  # cut off in what follows a closed message
    cut = texts(scorer.writer(base()), chosen, middle)
    with closing(Engines(EngineOptions(), tmp_path)) as engines:
        assert isinstance(engines, WritingScorer)
        by_engine = engines.writer(base())
        next(by_engine.write(chosen.prompts, ending=Ending(TOKENIZER), max_tokens=3))  # abandoned: it stays usable
        assert texts(by_engine, chosen, 160) == expected
        assert texts(by_engine, chosen, middle) == cut
        assert by_engine.settings()["disable_cuda_graph"] is False
        assert engines.options.arguments()["disable_cuda_graph"] is True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(writer, "RETRY_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(endpoint, "RETRY_SECONDS", (0.01, 0.01))
    with serving("/models/keep24", VOCABULARY) as state:
        yield state


VOCABULARY = TOKENIZER.backend.get_vocab_size()


def of(server: Server) -> EndpointWriter:
    return EndpointWriter(EndpointCollector(server.url, is_mxfp4=True, vocab_size=VOCABULARY))


def test_a_server_is_asked_until_the_turn_ends(server: Server, chosen: ChosenTurns) -> None:
    server.failures = [500, None]
    found = texts(of(server), chosen, 12)
    for prompt, text in zip(chosen.prompts, found, strict=True):
        whole = prompt.tolist()
        while len(whole) < len(prompt) + 12:
            whole.append(int(logprobs_after(whole[-1], len(whole), VOCABULARY).argmax()))
        assert text == whole[len(prompt) :]
    assert of(server).settings()["writer"] == "sglang-endpoint"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda answer: answer.pop("output_ids"), "there is no 'output_ids'"),
        (lambda answer: answer.update(output_ids=[1]), "it has 1 tokens of 4"),
        (lambda answer: answer.update(output_ids=[1] * 5), "it has 5 tokens of 4"),
        (lambda answer: answer.update(output_ids=[1, 2, 3, "4"]), "not a whole number"),
        (lambda answer: answer.update(output_ids=[1, 2, 3, 50]), "not one of the 50"),
        (lambda answer: answer["meta_info"].update(finish_reason=None), "cannot be read"),
        (lambda answer: answer["meta_info"]["finish_reason"].update(type="abort"), "it ended with 'abort'"),
    ],
)
def test_an_answer_of_another_form_is_refused(change: Any, reason: str) -> None:
    answer = {"output_ids": [1, 2, 3, 4], "meta_info": {"finish_reason": {"type": "length", "length": 4}}}
    assert tokens_of_answer(answer, max_tokens=4, vocab_size=50, where="x") == [1, 2, 3, 4]
    change(answer)
    with pytest.raises(UserError, match=reason):
        tokens_of_answer(answer, max_tokens=4, vocab_size=50, where="x")


def test_the_token_that_a_server_stopped_at_belongs_to_the_text() -> None:
    for tokens in ([1, 2], [1, 2, 9]):
        answer = {"output_ids": tokens, "meta_info": {"finish_reason": {"type": "stop", "matched": 9}}}
        assert tokens_of_answer(answer, max_tokens=4, vocab_size=50, where="x") == [1, 2, 9]


def test_a_server_that_serves_another_model_meanwhile_is_not_believed(server: Server, chosen: ChosenTurns) -> None:
    found = of(server)
    server.at = lambda _: setattr(server, "model", "/models/other")
    with pytest.raises(UserError, match="was changed while it was asked"):
        texts(found, chosen, 5)


def test_no_turn_is_lost_where_fewer_are_written_at_a_time(
    server: Server, chosen: ChosenTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = texts(of(server), chosen, 6)
    monkeypatch.setattr(writer, "PLACES", 2)
    assert texts(of(server), chosen, 6) == expected
    assert np.unique([len(text) for text in expected]).tolist() == [6]
