"""Two servers, one verdict: nothing of the models is here but their tokenizer."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_command import Command, refused
from gate_command import BASE, GATE_PACKS, Run, gate
from prepared import TINY
from sglang_server import Server, serving

from eaftgate.collect.collectors.sglang import COLLECTOR
from eaftgate.collect.servers import endpoint
from eaftgate.errors import UserError
from eaftgate.gate.again import differences, judged_again
from eaftgate.gate.plan import Plan
from eaftgate.gate.planning import make_plan
from eaftgate.gate.request import GateOptions
from eaftgate.gate.results import read_parity
from eaftgate.gate.served import PROBE, ServedModels
from eaftgate.packs.tokenizer import load_tokenizer

TOKENIZER = load_tokenizer(BASE).backend
VOCABULARY = TOKENIZER.get_vocab_size()


def tokenise(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text, add_special_tokens=False).ids
    return ids


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A directory of nothing else."""
    directory = tmp_path / "tokenizer"
    directory.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE / name, directory)
    return directory


Servers = tuple[Server, Server]


@pytest.fixture
def servers() -> Iterator[Servers]:
    with serving("/models/base", VOCABULARY) as base, serving("/models/keep24", VOCABULARY) as other:
        for number, server in enumerate((base, other)):
            server.tokenise, server.seed = tokenise, number
        yield base, other


def gated(results: Path, servers: Servers, tokenizer: Path, *options: str) -> Run:
    base, other = servers
    return gate(
        results, *TINY, "--collector=sglang", f"--base-endpoint={base.url}", f"--endpoint={other.url}",
        f"--tokenizer={tokenizer}", f"--packs={GATE_PACKS}", *options,
    )  # fmt: skip


def test_a_pass_of_two_servers_is_unverified_wherever_it_is_said(
    servers: Servers, tokenizer: Path, tmp_path: Path, eaftgate: Command
) -> None:
    base, other = servers
    results = tmp_path / "run"
    run = gated(results, servers, tokenizer, "--policy=near-lossless-v1")
    assert run.code == 0, run.output
    parity = read_parity(results)
    assert (parity.verdict, parity.is_unverified) == ("pass", True)
    assert all(cell.flags == ("unverified",) for cell in parity.cells)
    assert [(one.name == "base", one.url, one.said["model"]) for one in parity.served] == [
        (True, base.url, "/models/base"),
        (False, other.url, "/models/keep24"),
    ]
    assert "verdict: PASS, unverified" in run.output
    assert "answers in every number as" in run.output  # one model twice
    assert "goes on where it was" not in run.output
    suite = next(ElementTree.parse(results.with_suffix(".xml")).iter("testsuite"))
    said = {p.attrib["name"]: p.attrib["value"] for p in suite.findall("properties/property")}
    assert "their own word" in said["unverified"]
    assert run.junit["test_served::test_served[base]"].properties["said_model"] == "/models/base"
    assert not any(name.startswith(("test_noop", "test_artifact::test_integrity")) for name in run.junit)
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "<title>eaftgate: pass, unverified</title>" in page
    assert page.count("PASS, unverified") == 2  # the headline, the candidate's card
    assert "it cannot be locked" in page
    assert "eaftgate lock RUN" not in page
    assert f"is {other.url}, which says of itself: engine SGLang, model /models/keep24" in page
    assert (results / "parity.md").read_text(encoding="utf-8").startswith("## eaftgate: PASS, unverified\n")
    refused(eaftgate("lock", results, "--out", tmp_path / "lock.json"), "is unverified, its models were servers")
    assert not (tmp_path / "lock.json").exists()
    memo = tmp_path / "memo.md"
    assert eaftgate("memo", results, "--out", memo).code == 0
    assert "PASS, unverified.**" in memo.read_text(encoding="utf-8")
    again = judged_again(results, parity)
    assert differences(parity.model_dump(mode="json"), again.model_dump(mode="json")) == []

    asked = base.asked, other.asked
    other.weights = 1  # the same words, another model
    second = gated(results, servers, tokenizer, "--policy=near-lossless-v3", "--generate=1", "--generate-tokens=6")
    assert second.code == 1
    assert base.asked >= 2 * asked[0] > 0 < asked[1] * 2 <= other.asked  # nothing of the first run is believed
    assert not second.parity["served"][1]["like_base"]
    assert all(cell["delta_ppl"] for cell in second.parity["cells"])
    assert [turns["turns"] for turns in second.parity["behaviour"]] == [3, 1, 1, 1]
    again = judged_again(results, read_parity(results))
    assert differences(second.parity, again.model_dump(mode="json")) == []


# One server


@pytest.fixture
def open_models(
    servers: Servers, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ServedModels]:
    monkeypatch.setattr(endpoint, "RETRY_SECONDS", (0.01,))
    base, other = servers

    def models(session: str = "a", **more: object) -> ServedModels:
        given = {"base_endpoint": base.url, "endpoint": [other.url], "tokenizer": str(tokenizer), **more}
        plan = plan_of(given, tmp_path)
        assert plan.needs.served is not None
        scorer = COLLECTOR.open({"device": None, "dtype": None, **given}, batch_size=1, logs=tmp_path)
        return ServedModels(plan, plan.needs.served, session=session, scorer=lambda: scorer)

    return models


def plan_of(given: dict[str, object], results: Path, **more: object) -> Plan:
    options = GateOptions(results, packs=GATE_PACKS, collector="sglang", of_collector=given, **more)  # type: ignore[arg-type]
    return make_plan(options, fixture_packs=GATE_PACKS)


def other_name(servers: Servers) -> str:
    return servers[1].url.removeprefix("http://").replace(":", "-")


def test_the_next_run_knows_a_server_by_another_name(open_models: Callable[..., ServedModels]) -> None:
    first = open_models()["base"].digest
    assert open_models()["base"].digest == first
    with pytest.raises(UserError, match="was changed or replaced while the run went on"):  # the marks are a run's own
        open_models("b")["base"]


def test_the_tokenizer_is_the_servers(open_models: Callable[..., ServedModels], servers: Servers) -> None:
    assert open_models().identity("base").tokenizer_compared
    servers[0].tokenise = lambda text: [*tokenise(text)[:5], 3, *tokenise(text)[6:]]
    with pytest.raises(UserError, match=r"has another tokenizer than .*token 5 of a text is 3 there"):
        open_models()["base"]
    servers[0].tokenise = lambda text: tokenise(text)[:-1]
    with pytest.raises(UserError, match=r"has another tokenizer than .*tokens for \d+ of a text"):
        open_models()["base"]
    servers[0].tokenise = None
    assert not open_models().identity("base").tokenizer_compared


def test_a_server_without_the_top_20_is_refused(open_models: Callable[..., ServedModels], servers: Servers) -> None:
    def without(answers: list[dict[str, dict[str, object]]]) -> object:
        for answer in answers:
            del answer["meta_info"]["input_top_logprobs"]
        return answers

    servers[1].lie = without
    models, asked = open_models(), []
    for _ in range(2):
        with pytest.raises(
            UserError, match="does not give the top 20 log-probabilities of a prompt's tokens"
        ) as raised:
            models[other_name(servers)]
        assert str(raised.value).startswith(servers[1].url)
        asked.append(servers[1].asked)
    assert asked[0] == asked[1]  # the other cases of a run do not try again


def test_a_server_is_one_model_to_the_end(open_models: Callable[..., ServedModels], servers: Servers) -> None:
    base, other = servers
    other.weights = 1
    models, name = open_models(), other_name(servers)
    for each in ("base", name):
        models.check_unchanged(each)
    base.seed = 7
    with pytest.raises(UserError, match=r"was changed while the run went on \(random_seed was 0 and is 7\)"):
        models.check_unchanged("base")
    base.seed, other.weights = 0, 0
    with pytest.raises(UserError, match=f"{other.url} answers as {base.url} did at first"):
        models.check_unchanged(name)


def test_the_probe_is_a_conversation_with_all_that_tokenizers_differ_in() -> None:
    assert TOKENIZER.decode(tokenise(PROBE), skip_special_tokens=False) == PROBE
    assert len(tokenise(PROBE)) > 80


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokenizer": None}, "--base-endpoint needs --tokenizer"),
        ({"base_endpoint": None}, "--tokenizer is for --base-endpoint"),
        ({"endpoint": ["http://h:1/"]}, "--base-endpoint and --endpoint are both http://h:1"),
        ({"base_endpoint": "h:1"}, "is not the URL of a server"),
    ],
)
def test_options_that_contradict_each_other(change: dict[str, object], said: str, tmp_path: Path) -> None:
    given = {"base_endpoint": "http://h:1", "endpoint": ["http://h:2"], "tokenizer": "x", **change}
    with pytest.raises(UserError, match=said):
        plan_of({key: value for key, value in given.items() if value is not None}, tmp_path)


def test_models_that_are_here_are_not_named_too(tmp_path: Path) -> None:
    given: dict[str, object] = {"base_endpoint": "http://h:1", "endpoint": ["http://h:2"], "tokenizer": "x"}
    with pytest.raises(UserError, match="leave out --base and --checkpoint"):
        plan_of(given, tmp_path, base="b")
    with pytest.raises(UserError, match="leave out --candidate-kind"):
        plan_of(given, tmp_path, candidate_kind="other")
    plan = plan_of({**given, "endpoint": ["http://h:2", "http://[::1]:3/v"]}, tmp_path)
    assert list(plan.checkpoints) == ["h-2", "1-3-v"]
    assert json.loads(json.dumps(plan.rows_unknown, default=sorted)) == ["1-3-v", "h-2"]
