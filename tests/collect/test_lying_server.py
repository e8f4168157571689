"""Servers that drip, never end, send elsewhere, or answer what no sound model can: one sentence each, and soon."""

import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from content import content_blocks
from gate_command import ROOT
from sglang_server import Server, serving

from eaftgate.collect import store as storing
from eaftgate.collect.collection import TOP_K
from eaftgate.collect.collectors.sglang import COLLECTOR
from eaftgate.collect.servers import endpoint
from eaftgate.collect.servers.endpoint import EndpointCollector, bounds_of, endpoint_for
from eaftgate.collect.servers.exchange import Bounds, ask, place_of
from eaftgate.collect.servers.sglang import SGLANG
from eaftgate.collect.store import CollectionStore, Request
from eaftgate.errors import UserError

VOCABULARY, SEQ_LEN, BLOCKS = 64, 12, 9
NBYTES = 200_000
AMPLE = Bounds(idle=30, total=60, nbytes=NBYTES)
WHOLE = Bounds(idle=30, total=0.6, nbytes=NBYTES)
SILENCE = Bounds(idle=0.2, total=30, nbytes=NBYTES)
BLOCK = content_blocks(
    pack="p",
    seq_len=SEQ_LEN,
    token_ids_BS=np.random.default_rng(1).integers(1, VOCABULARY - 1, size=(BLOCKS, SEQ_LEN), dtype=np.int32),
    content_BS=np.arange(SEQ_LEN) * np.ones((BLOCKS, 1)) > 3,
    row_BS=np.zeros((BLOCKS, SEQ_LEN), np.int32),
    identities=("x",),
)
Lie = Callable[[list[dict[str, Any]]], Any]
Handler = BaseHTTPRequestHandler


@pytest.fixture
def server() -> Iterator[Server]:
    with serving("/models/keep24", VOCABULARY) as state:
        yield state


@pytest.fixture(autouse=True)
def bound(monkeypatch: pytest.MonkeyPatch) -> Callable[[Bounds], None]:
    """Sets the bounds of the questions that are asked from then on; ample ones, until a test is about time."""
    monkeypatch.setattr(endpoint, "RETRY_SECONDS", (0.01, 0.01))

    def set_(bounds: Bounds) -> None:
        monkeypatch.setattr(endpoint, "bounds_of", lambda *_: bounds)

    set_(AMPLE)
    return set_


def collector_of(server: Server, *, blocks_at_a_time: int = BLOCKS) -> EndpointCollector:
    call_tokens = blocks_at_a_time * SEQ_LEN
    return EndpointCollector(server.url, is_mxfp4=False, vocab_size=VOCABULARY, call_tokens=call_tokens)


def refused(server: Server, said: str) -> None:
    """A sentence with `said`, on one line, in time: on a loaded machine, too."""
    collector, started = collector_of(server), time.monotonic()
    with pytest.raises(UserError) as raised:
        list(collector.batches(BLOCK, 0))
    assert time.monotonic() - started < 15
    assert said in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 700


# What an answer says


def entries(change: Callable[[list[Any]], Any]) -> Lie:
    """`change` gets the entry of every token but the first of a block."""

    def lie(answers: list[dict[str, Any]]) -> Any:
        for answer in answers:
            for entry in answer["meta_info"]["input_token_logprobs"][1:]:
                change(entry)
        return answers

    return lie


def tops(change: Callable[[list[Any]], Any]) -> Lie:
    """`change` gets the top 20 of every token but the first of a block."""

    def lie(answers: list[dict[str, Any]]) -> Any:
        for answer in answers:
            for top in answer["meta_info"]["input_top_logprobs"][1:]:
                change(top)
        return answers

    return lie


def meta(change: Callable[[dict[str, Any]], Any]) -> Lie:
    def lie(answers: list[dict[str, Any]]) -> Any:
        for answer in answers:
            change(answer["meta_info"])
        return answers

    return lie


def put(place: int, value: Any) -> Callable[[list[Any]], None]:
    def change(entry: list[Any]) -> None:
        entry[place] = value

    return change


def likelier(entry: list[Any]) -> None:
    entry[0] = min(0.0, entry[0] + 0.01)


def scaled(top: list[Any]) -> None:
    for entry in top:
        entry[0] = entry[0] / 3


def truncated(info: dict[str, Any]) -> None:
    for name in ("input_token_logprobs", "input_top_logprobs"):
        info[name] = info[name][:-2]


LIES: dict[str, tuple[Lie, str]] = {
    "a log-probability above 0": (entries(put(0, 5.0)), "a log-probability is 5, which is above 0"),
    "one of the top 20 above 0": (tops(lambda top: put(0, 5.0)(top[0])), "a log-probability is 5"),
    "a log-probability of nothing": (entries(put(0, None)), "a log-probability is not a number"),
    "a log-probability as a word": (entries(put(0, "-1.5")), "a log-probability is not a number"),
    "a log-probability that is true": (entries(put(0, True)), "a log-probability is not a number"),
    "an endless log-probability": (entries(put(0, -1e300)), "a log-probability is -1e+300"),
    "an enormous integer": (entries(put(0, -(10**310))), "too large a number"),
    "NaN": (entries(put(0, float("nan"))), "NaN is not a JSON number"),
    "infinity": (tops(lambda top: put(0, -float("inf"))(top[-1])), "Infinity is not a JSON number"),
    "a token likelier than its entry": (entries(likelier), "not the one it has among its top 20"),
    "tokens all certain": (entries(put(0, 0.0)), "its top 20"),
    "a top 20 in another order": (tops(lambda top: top.reverse()), "not in descending order"),
    "a token twice": (tops(lambda top: put(1, top[0][1])(top[1])), "twice among the top 20"),
    "a token beyond the vocabulary": (tops(lambda top: put(1, VOCABULARY)(top[5])), "not one of the 64"),
    "a token below 0": (tops(lambda top: put(1, -1)(top[5])), "not one of the 64"),
    "half a token": (tops(lambda top: put(1, 1.5)(top[5])), "not a whole number"),
    "a token that is true": (tops(lambda top: put(1, True)(top[5])), "not a whole number"),
    "a token beyond 64 bits": (tops(lambda top: put(1, 1 << 70)(top[5])), "not one of the 64"),
    "19 alternatives": (tops(lambda top: top.pop()), "not every token has its top 20"),
    "21 alternatives": (tops(lambda top: top.append([-90.0, 1, None])), "not every token has its top 20"),
    "pairs for triples": (tops(lambda top: [entry.pop() for entry in top]), "not a log-probability, an id and a text"),
    "words for triples": (tops(lambda top: put(3, "abc")(top)), "not a log-probability, an id and a text"),
    "no top 20": (meta(lambda info: info.update(input_top_logprobs=None)), "cannot be read"),
    "tops as an object": (meta(lambda info: info.update(input_top_logprobs={})), "cannot be read"),
    "tops left out": (meta(lambda info: info.pop("input_top_logprobs")), "there is no 'input_top_logprobs'"),
    "other tokens": (entries(lambda entry: put(1, (entry[1] + 1) % VOCABULARY)(entry)), "other tokens than were asked"),
    "a truncated input": (meta(truncated), "10 and 10 entries of 12 tokens for 12"),
    "a truncated count": (meta(lambda info: info.update(prompt_tokens=10)), "12 and 12 entries of 10 tokens for 12"),
    "probabilities beyond 1": (tops(scaled), "its top 20"),
    "blocks in another order": (lambda answers: answers[::-1], "other tokens than were asked"),
    "a block too few": (lambda answers: answers[:-1], "did not answer every block"),
    "an object": (lambda answers: {"answers": answers}, "did not answer every block"),
    "numbers": (lambda answers: [1] * len(answers), "cannot be read"),
    "nulls": (lambda answers: [{"meta_info": None}] * len(answers), "cannot be read"),
    "a deep nest": (lambda _: "RAW" + "[" * 20_000 + "]" * 20_000, "nested too deeply"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_cannot_be_true_is_one_sentence(server: Server, lie: str) -> None:
    server.lie, said = LIES[lie]
    refused(server, said)


def test_rounding_is_no_lie(server: Server) -> None:
    """Equal alternatives in any order, a log-probability lifted above 0 by the last bits of bfloat16's sum."""

    def rounded(answers: list[dict[str, Any]]) -> Any:
        for answer in answers:
            for entry, top in zip(*(answer["meta_info"][n][1:] for n in ("input_token_logprobs", "input_top_logprobs")),
                                  strict=True):  # fmt: skip
                top[5][0], entry[0] = top[4][0] + 1e-5, entry[0] + 1e-5
                if entry[1] == top[5][1]:
                    entry[0] = top[5][0]
        return answers

    server.lie = rounded
    ((count, stats),) = collector_of(server).batches(BLOCK, 0)
    assert (count, len(stats)) == (BLOCKS, BLOCK.num_scored)
    assert (stats.top_logprobs_TK[:, :-1] >= stats.top_logprobs_TK[:, 1:]).all()


# How it is sent


def head(handler: Handler, *lines: str, status: str = "200 OK") -> None:
    handler.wfile.write("".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *lines, "")).encode())


def drips(handler: Handler) -> None:
    head(handler, "Content-Length: 5000")
    drop_by_drop(handler, b" ")


def drips_in_chunks(handler: Handler) -> None:
    head(handler, "Transfer-Encoding: chunked")
    drop_by_drop(handler, b"1\r\n \r\n")


def drips_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    drop_by_drop(handler, b"x")


def goes_on_for_ever(handler: Handler) -> None:
    drop_by_drop(handler, b"HTTP/1.1 100 Continue\r\n\r\n")


def drop_by_drop(handler: Handler, drop: bytes) -> None:
    for _ in range(2000):
        try:
            handler.wfile.write(drop)
        except OSError:
            return
        time.sleep(0.01)


def never_ends(handler: Handler) -> None:
    head(handler)
    for _ in range(1000):
        handler.wfile.write(b" " * 100_000)


def announces_too_much(handler: Handler) -> None:
    head(handler, f"Content-Length: {10**15}")


def says_nothing(_: Handler) -> None:
    time.sleep(20)


def redirects(handler: Handler) -> None:
    head(handler, "Location: http://127.0.0.1:9/generate", "Content-Length: 0", status="307 Temporary Redirect")


def refuses_at_length(handler: Handler) -> None:
    head(handler, status="400 Bad Request")
    handler.wfile.write("\x1b[31mno\nverdict: PASS \udce9".encode(errors="surrogateescape") * 10_000)


def cuts_off(handler: Handler) -> None:
    head(handler, "Content-Length: 100")
    handler.wfile.write(b"[")


@pytest.mark.parametrize(
    ("instead", "bounds", "said"),
    [
        (drips, WHOLE, "no whole answer in 0.6 seconds"),
        (drips_in_chunks, WHOLE, "no whole answer in 0.6 seconds"),
        (drips_headers, WHOLE, "no whole answer in 0.6 seconds"),
        (goes_on_for_ever, WHOLE, "no whole answer in 0.6 seconds"),
        (says_nothing, SILENCE, "does not answer (timed out)"),
        (never_ends, AMPLE, "more than the 200,000 bytes that an answer to this question can have"),
        (announces_too_much, AMPLE, "more than the 200,000 bytes"),
        (redirects, AMPLE, "HTTP status 307, a redirect, which is not followed"),
        (refuses_at_length, AMPLE, r"HTTP status 400 \x1b[31mno verdict: PASS"),
        (cuts_off, AMPLE, "IncompleteRead(1 bytes read, 99 more expected)"),
        (lambda handler: head(handler), AMPLE, "not valid JSON"),
        (lambda handler: handler.wfile.write(b"220 ftp\r\n"), AMPLE, "220 ftp"),
    ],
)
def test_an_answer_that_is_not_sent_as_one_is_one_sentence(
    server: Server, bound: Callable[[Bounds], None], instead: Callable[[Handler], None], bounds: Bounds, said: str
) -> None:
    bound(bounds)
    server.instead = instead
    refused(server, said)


def test_any_bytes_are_one_sentence(server: Server) -> None:
    rng = random.Random(0)
    for _ in range(20):
        noise = rng.randbytes(rng.randrange(400))
        begin = rng.choice((b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n[{"))

        def send(handler: Handler, sent: bytes = begin + noise) -> None:
            handler.wfile.write(sent)

        server.instead = send
        refused(server, "")


def test_nothing_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(UserError, match=f"^--endpoint {url} does not answer .*: see the server's log$"):
        ask(place_of(url), "/x", bounds=Bounds(1, 1, 1), waits=(0.01,))


def test_there_is_time_to_ask_again_and_an_end_to_it(server: Server) -> None:
    server.failures = [503] * 100
    started = time.monotonic()
    with pytest.raises(UserError, match="does not answer"):
        ask(place_of(server.url), "/generate", {}, bounds=Bounds(30, 1, 100), waits=(0.1,) * 300)
    assert time.monotonic() - started < 15
    assert 2 <= server.asked <= 10


# Which URL


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://h/x", "h:30000", "http://", "http://:80", "http://[::1", "http://h:x", "http://h:99999",
        "gopher://h", "//h", "", "http://h\r\nX: y", "http://h/\x1b[1m", "http://h/a b", f"http://{'a' * 70}.de", "http://ü/é",
    ],
)  # fmt: skip
def test_only_urls_of_servers(url: str) -> None:
    with pytest.raises(UserError, match="is not the URL of a server: give it as http://HOST:PORT") as raised:
        COLLECTOR.needs({"endpoint": [url]})
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "url", ["http://me:SECRET@h:1", "http://SECRET@h", "h:SECRET@h", "http://h?key=SECRET", "https://h/#SECRET"]
)
def test_what_may_be_a_secret_is_not_shown(url: str) -> None:
    with pytest.raises(UserError, match="not shown") as raised:
        COLLECTOR.needs({"endpoint": [url]})
    assert "SECRET" not in str(raised.value)


def test_urls_that_are_taken() -> None:
    place = place_of("https://router.example:8443/a/b/")
    assert (place.scheme, place.host, place.port, place.path) == ("https", "router.example", 8443, "/a/b")
    assert place_of("http://[::1]:30000").host == "::1"
    assert COLLECTOR.needs({"endpoint": ["http://h:1", "https://h"]}).scores_copies is False


def test_no_proxy_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert endpoint_for([server.url], Path("/elsewhere"), "/models/keep24") == server.url


# What a server says of itself


@pytest.mark.parametrize("model", [{"a": 1}, ["x"], "m" * 1000, "\x1b[31m\nverdict: PASS", "a\0b", "n" * 290])
def test_any_description_is_one_sentence(server: Server, model: Any) -> None:
    server.model = model
    with pytest.raises(
        UserError, match=r"no --endpoint serves keep24|answers .*: is an SGLang server running there"
    ) as e:
        endpoint_for([server.url], Path("/elsewhere"), "keep24")
    assert len(str(e.value)) < 500


def test_a_model_that_is_swapped_in_the_middle_is_noticed_before_its_numbers_are_kept(server: Server) -> None:
    def swap(number: int) -> None:
        if number == 3:
            server.model = "/models/base"

    server.at = swap
    kept: list[int] = []
    with pytest.raises(UserError, match=r"was changed while it was asked \(model_path was '/models/keep24' and is"):
        kept.extend(count for count, _ in collector_of(server, blocks_at_a_time=1).batches(BLOCK, 0))
    assert len(kept) <= 2  # what had been answered before it


def test_settings_that_change_are_noticed_at_the_end(server: Server) -> None:
    server.at = lambda _: setattr(server, "backend", "triton")
    with pytest.raises(UserError, match=r"moe_runner_backend was 'triton_kernel' and is 'triton'"):
        list(collector_of(server).batches(BLOCK, 0))


# A run


@pytest.mark.parametrize("instead", [drips, redirects, cuts_off])
def test_a_rerun_goes_on_where_the_server_died(
    server: Server,
    bound: Callable[[Bounds], None],
    instead: Callable[[Handler], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storing, "PART_SECONDS", 0.0)

    def die(number: int) -> None:
        if number >= 5:
            bound(WHOLE)
            server.instead = instead

    def collected(session: str) -> Any:
        request = Request("c", BLOCK, collector_of(server, blocks_at_a_time=1))
        return CollectionStore(tmp_path, session=session).get(request)

    monkeypatch.setattr(endpoint, "IN_FLIGHT", 1)
    server.at = die
    with pytest.raises(UserError, match="does not answer"):
        collected("a")
    asked = server.asked
    with pytest.raises(UserError, match="does not answer"):
        collected("a")
    assert server.asked == asked  # the other cases of a run do not try again
    bound(AMPLE)
    server.at, server.instead = lambda _: None, None
    assert len(collected("b").stats) == BLOCK.num_scored
    assert server.asked - asked == BLOCKS - 5


def test_bounds_hold_what_a_real_answer_needs() -> None:
    recorded = json.loads((ROOT / "fixtures" / "sglang" / "answer.json").read_text(encoding="utf-8"))
    tokens = sum(map(len, recorded["input_ids"]))
    content = (bounds_of(tokens, SGLANG.entry_bytes).nbytes - (1 << 20)) / tokens / (1 + TOP_K)
    assert len(json.dumps(recorded["answers"])) / tokens / (1 + TOP_K) < 0.7 * content
    assert bounds_of(1 << 14, SGLANG.entry_bytes).total > 600
