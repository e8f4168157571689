"""Chat data become packs, whatever they lie in, and what is left out is said (SPEC section 8)."""

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_data import PACKS, messages_of, sharegpt_of, texts_of, write_lines
from cli_command import Command, refused

from eaftgate.packs.pack import Pack, read_packs, row_identity

ASKED = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "It is."}]


def asked(question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "It is."}]


def rows_of(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = pq.read_table(path).to_pydict()
    return found


@pytest.mark.parametrize("pack", PACKS)
def test_the_fixtures_conversations_come_back_to_the_character(eaftgate: Command, tmp_path: Path, pack: str) -> None:
    texts = texts_of(pack)
    write_lines(tmp_path / f"{pack}.jsonl", ({"messages": messages_of(text)} for text in texts))
    ended = eaftgate("packs", "build", tmp_path / f"{pack}.jsonl", "--out", tmp_path / "packs")
    assert (ended.code, f"{pack}: {len(texts)} of {len(texts)} rows" in ended.out) == (0, True)
    (built,) = read_packs(tmp_path / "packs")
    assert list(built.texts) == texts


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """A few real ones, calls among them, with what stands beside messages."""
    return [
        {"messages": messages_of(text), "domain": f"d{number % 3}", "id": f"row-{number}"}
        for number, text in enumerate([*texts_of("tool_agentic")[:6], *texts_of("chat")[:6]])
    ]


def test_every_kind_of_file_holds_the_same_rows(eaftgate: Command, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    write_lines(tmp_path / "lines.jsonl", rows)
    write_lines(tmp_path / "lines.json", rows)
    (tmp_path / "array.json").write_text(json.dumps(rows))
    (tmp_path / "object.json").write_text(json.dumps({"version": 1, "data": rows}))
    (tmp_path / "mark.jsonl").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "lines.jsonl").read_bytes())
    written = (tmp_path / "lines.jsonl").read_bytes()
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(written[:5000]) + gzip.compress(written[5000:]))
    (tmp_path / "packed.json.bz2").write_bytes(bz2.compress((tmp_path / "array.json").read_bytes()))
    (tmp_path / "packed.ndjson.zst").write_bytes(pa.compress(written, "zstd", asbytes=True))
    pq.write_table(table, tmp_path / "table.parquet", row_group_size=5)
    pq.write_table(pa.table({"messages": [json.dumps(row["messages"]) for row in rows]}), tmp_path / "text.parquet")
    for name, writer in {"stream.arrow": pa.ipc.new_stream, "file.arrow": pa.ipc.new_file}.items():
        with writer(str(tmp_path / name), table.schema) as sink:
            sink.write_table(table, max_chunksize=5)
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for part, begin in enumerate((0, 6)):
        shard = tmp_path / "hub" / "data" / f"train-0000{part}-of-00002.parquet"
        pq.write_table(table.slice(begin, 6), shard)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    (tmp_path / "saved" / "dataset_info.json").write_text("{}")
    with pa.ipc.new_stream(str(tmp_path / "saved" / "data-00000-of-00001.arrow"), table.schema) as sink:
        sink.write_table(table)
    inputs = sorted(tmp_path.iterdir())
    expected = None
    for path in inputs:
        ended = eaftgate("packs", "build", path, "--name", path.name, "--out", tmp_path / "packs")
        assert (ended.code, ended.err.count("error")) == (0, 0), (path, ended.err)
        found = rows_of(tmp_path / "packs" / f"{path.name}.parquet")
        expected = expected or found["text"]
        assert found["text"] == expected, path
        if path.name != "text.parquet":
            assert found["domain"] == [row["domain"] for row in rows]
            assert found["id"] == [row["id"] for row in rows]


def test_a_compressed_file_names_its_pack_and_its_lines(eaftgate: Command, tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ({"messages": asked("a")}, WRONG["unknown role"]))
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    ended = eaftgate("packs", "build", tmp_path / "x.jsonl.gz", "--out", tmp_path / "o")
    assert f"written to {tmp_path / 'o' / 'x.parquet'}" in ended.out
    assert "first: x.jsonl.gz line 2" in ended.out


@pytest.mark.parametrize("data", [gzip.compress(b'{"a": 1}\n' * 1000)[:-9], b"{}"], ids=["cut off", "none"])
def test_a_damaged_compressed_file_is_one_sentence(eaftgate: Command, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(data)
    refused(eaftgate("packs", "build", tmp_path / "x.jsonl.gz", "--out", tmp_path / "o"), "x.jsonl.gz cannot be read")


def test_a_file_that_expands_without_bound_is_no_conversation(
    eaftgate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eaftgate.chats.rows.MIN_LIMIT_BYTES", 1 << 20)
    (tmp_path / "x.jsonl.bz2").write_bytes(bz2.compress(b"\n" * (1 << 21)))
    refused(eaftgate("packs", "build", tmp_path / "x.jsonl.bz2", "--out", tmp_path / "o"), "no conversations")


def test_functions_of_the_older_form_are_tools(eaftgate: Command, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"messages": ASKED, "tools": [{"name": "f"}]}])
    write_lines(tmp_path / "b.jsonl", [{"messages": ASKED, "functions": [{"name": "f"}]}])
    write_lines(tmp_path / "c.jsonl", [{"messages": ASKED, "functions": [{"name": "f"}], "tools": [{"name": "g"}]}])
    assert eaftgate("packs", "build", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--out", tmp_path / "o").code == 0
    a, b = (rows_of(tmp_path / "o" / f"{name}.parquet")["text"] for name in "ab")
    assert a == b
    assert "type f = () => any;" in a[0]
    refused(eaftgate("packs", "build", tmp_path / "c.jsonl", "--out", tmp_path / "o"), "tools in two columns")


def test_sharegpt_says_the_same_but_for_reasoning(eaftgate: Command, tmp_path: Path) -> None:
    texts = [text for text in texts_of("chat")[:20] if "analysis" not in text] + texts_of("tool_agentic")[:20]
    plain = [[{k: v for k, v in m.items() if k != "reasoning_content"} for m in messages_of(text)] for text in texts]
    plain = [[m for m in messages if m["content"] is not None or m.get("tool_calls")] for messages in plain]
    write_lines(tmp_path / "a.jsonl", ({"messages": messages} for messages in plain))
    write_lines(tmp_path / "b.jsonl", ({"conversations": sharegpt_of(messages)} for messages in plain))
    assert eaftgate("packs", "build", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--out", tmp_path / "o").code == 0
    a, b = (rows_of(tmp_path / "o" / f"{name}.parquet")["text"] for name in "ab")
    assert a == b
    assert any("<|call|>" in text for text in a)


def test_texts_that_are_harmony_stay_as_they_are(eaftgate: Command, tmp_path: Path) -> None:
    texts = texts_of("reasoning")[:30]
    write_lines(tmp_path / "t.jsonl", ({"text": text} for text in texts))
    assert eaftgate("packs", "build", tmp_path / "t.jsonl", "--out", tmp_path / "o").code == 0
    assert rows_of(tmp_path / "o" / "t.parquet")["text"] == texts


WRONG: dict[str, Any] = {
    "unknown role": {"messages": [{"role": "wizard", "content": "x"}, *ASKED]},
    "no assistant message": {"messages": ASKED[:1]},
    "an assistant message says nothing": {"messages": [*ASKED, {"role": "assistant", "content": None}]},
    "a message without content": {"messages": [{"role": "user"}, *ASKED]},
    "a message is no object": {"messages": ["hello"]},
    "no list of messages": {"messages": 7},
    "a tool without a name": {"messages": [*ASKED, {"role": "assistant", "tool_calls": [{"function": {}}]}]},
    "arguments of a call are not JSON": {
        "messages": [*ASKED, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]
    },
    "a tool result of no call": {"messages": [*ASKED, {"role": "tool", "content": "x"}]},
    "a special token in a content": {"messages": [{"role": "user", "content": "<|end|><|start|>assistant"}, *ASKED]},
    "content that is no text": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, *ASKED]},
    "two reasonings in one message": {
        "messages": [*ASKED[:1], {"role": "assistant", "content": "x", "thinking": "a", "reasoning": "b"}]
    },
    "unknown reasoning effort": {"messages": ASKED, "reasoning_effort": "heroic"},
    "tools are no list": {"messages": ASKED, "tools": {"a": 1}},
    "no conversation": {"prompt": "x"},
    "text that is no Harmony conversation": {"text": "hello"},
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_row_that_is_none_is_left_out_and_said(eaftgate: Command, tmp_path: Path, reason: str) -> None:
    write_lines(tmp_path / "x.jsonl", [{"messages": asked("One?")}, WRONG[reason], {"messages": asked("Two?")}])
    ended = eaftgate("packs", "build", tmp_path / "x.jsonl", "--json", "--out", tmp_path / "o")
    assert ended.code == 0
    (report,) = json.loads(ended.out)["packs"]
    assert (report["read"], report["rows"], report["malformed"]) == (3, 2, int(reason != "no assistant message"))
    (left_out,) = report["left_out"]
    assert (left_out["reason"], left_out["rows"], left_out["row"]) == (reason, 1, 1)
    assert left_out["place"] == "x.jsonl line 2"
    assert json.loads((tmp_path / "o" / "x.build.json").read_text())["report"] == report


def test_one_example_a_reason_and_more_than_a_hundredth_is_said(eaftgate: Command, tmp_path: Path) -> None:
    good = [{"messages": asked(f"{number}?")} for number in range(97)]
    write_lines(tmp_path / "x.jsonl", [*good, WRONG["unknown role"], WRONG["unknown role"], good[5]])
    ended = eaftgate("packs", "build", tmp_path / "x.jsonl", "--out", tmp_path / "o")
    assert "x: 97 of 100 rows" in ended.out
    assert "2 left out: unknown role" in ended.out
    assert "first: x.jsonl line 98: message 0 has 'wizard'" in ended.out
    assert "1 left out: the same text as an earlier row" in ended.out
    assert "2.0% of the rows are malformed" in ended.out


def test_lines_that_are_no_json_are_rows_left_out(eaftgate: Command, tmp_path: Path) -> None:
    good = json.dumps({"messages": ASKED})
    (tmp_path / "x.jsonl").write_text(f'{good}\n\n{{"messages": [\n')
    ended = eaftgate("packs", "build", tmp_path / "x.jsonl", "--out", tmp_path / "o")
    assert "x: 1 of 2 rows" in ended.out
    assert "1 left out: not readable" in ended.out
    assert "first: x.jsonl line 3" in ended.out


def test_nothing_left_is_an_error(eaftgate: Command, tmp_path: Path) -> None:
    write_lines(tmp_path / "x.jsonl", [WRONG["unknown role"]])
    refused(eaftgate("packs", "build", tmp_path / "x.jsonl", "--out", tmp_path / "o"), "no row is left of 1")
    assert not (tmp_path / "o").exists()


def test_keys_that_no_text_shows_are_said(eaftgate: Command, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Who?", "name": "ada"}, {"role": "assistant", "content": "I.", "weight": 1}]
    write_lines(tmp_path / "x.jsonl", [{"messages": messages}])
    ended = eaftgate("packs", "build", tmp_path / "x.jsonl", "--out", tmp_path / "o")
    assert "not in the texts: name of user (1 rows)" in ended.out
    assert "not in the texts: weight (1 rows)" in ended.out


def test_max_rows_draws_those_that_shuffling_puts_first(eaftgate: Command, tmp_path: Path) -> None:
    texts = texts_of("chat")[:60]
    write_lines(tmp_path / "x.jsonl", ({"text": text} for text in texts))
    arguments = ("packs", "build", tmp_path / "x.jsonl", "--max-rows", 20, "--seed", 5, "--out", tmp_path / "o")
    assert "40 left out: not among --max-rows" in eaftgate(*arguments).out
    pack = Pack("x", tuple(texts), tuple(map(row_identity, texts)), ("x",) * 60, ("",) * 60)
    first = set(pack.shuffled(5).head(20).texts)
    assert rows_of(tmp_path / "o" / "x.parquet")["text"] == [text for text in texts if text in first]


def test_columns_of_domain_and_source(eaftgate: Command, tmp_path: Path) -> None:
    write_lines(tmp_path / "x.jsonl", [{"dialogue": asked("a"), "kind": "k", "from": 7}, {"dialogue": asked("b")}])
    arguments = ("--column", "dialogue", "--domain-column", "kind", "--source-column", "from", "--out", tmp_path / "o")
    ended = eaftgate("packs", "build", tmp_path / "x.jsonl", *arguments)
    assert "1 left out: no column 'kind'" in ended.out
    found = rows_of(tmp_path / "o" / "x.parquet")
    assert (found["domain"], found["source"], found["id"]) == (["k"], ["7"], ["x.jsonl:0"])


def test_one_name_makes_one_pack_of_the_files_in_order(eaftgate: Command, tmp_path: Path) -> None:
    for name in "ba":
        write_lines(tmp_path / f"{name}.jsonl", [{"messages": asked(name)}])
    eaftgate("packs", "build", tmp_path / "b.jsonl", tmp_path / "a.jsonl", "--name", "both", "--out", tmp_path / "o")
    assert rows_of(tmp_path / "o" / "both.parquet")["source"] == ["b.jsonl", "a.jsonl"]


class TestOutput:
    def test_packs_are_added_to_a_directory_and_made_once(self, eaftgate: Command, tmp_path: Path) -> None:
        data, out = write_lines(tmp_path / "x.jsonl", [{"messages": ASKED}]), tmp_path / "o"
        first = eaftgate("packs", "build", data, "--name", "one", "--out", out)
        assert f"written to {out / 'one.parquet'}" in first.out
        assert eaftgate("packs", "build", data, "--name", "two", "--out", out).code == 0
        before = (out / "one.parquet").stat().st_mtime_ns
        again = eaftgate("packs", "build", data, "--name", "one", "--out", out)
        assert (again.code, again.out.splitlines()[0]) == (0, f"{out / 'one.parquet'} is up to date")
        assert (out / "one.parquet").stat().st_mtime_ns == before
        assert [pack.name for pack in read_packs(out)] == ["one", "two"]

    @pytest.mark.parametrize(
        ("option", "said"), [("--seed", "up to date"), ("--preamble", "preamble is full there and none here")]
    )
    def test_other_inputs_are_an_error(self, eaftgate: Command, tmp_path: Path, option: str, said: str) -> None:
        data, out = write_lines(tmp_path / "x.jsonl", [{"messages": ASKED}]), tmp_path / "o"
        eaftgate("packs", "build", data, "--out", out)
        ended = eaftgate("packs", "build", data, "--out", out, option, {"--seed": 9}.get(option, "none"))
        assert said in ended.out + ended.err  # without --max-rows a seed decides nothing

    def test_a_pack_that_was_edited_or_is_anothers_is_refused(self, eaftgate: Command, tmp_path: Path) -> None:
        data, out = write_lines(tmp_path / "x.jsonl", [{"messages": ASKED}]), tmp_path / "o"
        eaftgate("packs", "build", data, "--out", out)
        pq.write_table(pa.table({"text": texts_of("chat")[:3]}), out / "x.parquet")
        refused(eaftgate("packs", "build", data, "--out", out), "x.parquet has changed")
        pq.write_table(pa.table({"text": texts_of("chat")[:3]}), out / "y.parquet")
        refused(eaftgate("packs", "build", data, "--name", "y", "--out", out), "y.parquet already exists")
        assert len(rows_of(out / "y.parquet")["text"]) == 3

    @pytest.mark.parametrize("name", ["UNION", "a/b", ".a", "", "a\nb", "a" * 201])
    def test_a_name_that_is_none(self, eaftgate: Command, tmp_path: Path, name: str) -> None:
        data = write_lines(tmp_path / "x.jsonl", [{"messages": ASKED}])
        refused(eaftgate("packs", "build", data, "--name", name, "--out", tmp_path / "o"), "--name")
        assert not (tmp_path / "o").exists()

    def test_what_another_command_made_is_not_added_to(self, eaftgate: Command, tmp_path: Path) -> None:
        data = write_lines(tmp_path / "x.jsonl", [{"messages": asked(f"{number}")} for number in range(9)])
        eaftgate("packs", "build", data, "--out", tmp_path / "o")
        eaftgate("packs", "split", tmp_path / "o", "--out", tmp_path / "s")
        for out in ("s", "s/gate", "s/more"):
            refused(eaftgate("packs", "build", data, "--out", tmp_path / out), "what another command made")

    def test_a_directory_that_was_there_stays(self, eaftgate: Command, tmp_path: Path) -> None:
        (tmp_path / "o").mkdir()
        data = write_lines(tmp_path / "x.jsonl", [WRONG["unknown role"]])
        refused(eaftgate("packs", "build", data, "--out", tmp_path / "o"), "no row is left")
        assert list((tmp_path / "o").iterdir()) == []


class TestDatasetDirectories:
    def test_splits_are_chosen_and_not_mixed(self, eaftgate: Command, tmp_path: Path) -> None:
        directory = tmp_path / "set"
        directory.mkdir()
        for name in ("train", "test"):
            write_lines(directory / f"{name}.jsonl", [{"messages": asked(name)}])
        refused(
            eaftgate("packs", "build", directory, "--out", tmp_path / "o"), "choose with --split one of test, train"
        )
        assert eaftgate("packs", "build", directory, "--split", "test", "--out", tmp_path / "o").code == 0
        assert rows_of(tmp_path / "o" / "set.parquet")["source"] == ["test.jsonl"]

    def test_rows_in_it_and_in_data_may_be_the_same_twice(self, eaftgate: Command, tmp_path: Path) -> None:
        (tmp_path / "set" / "data").mkdir(parents=True)
        write_lines(tmp_path / "set" / "a.jsonl", [{"messages": ASKED}])
        write_lines(tmp_path / "set" / "data" / "b.jsonl", [{"messages": ASKED}])
        refused(eaftgate("packs", "build", tmp_path / "set", "--out", tmp_path / "o"), "give the one that is meant")

    def test_two_kinds_of_files_may_be_the_same_rows_twice(self, eaftgate: Command, tmp_path: Path) -> None:
        directory = tmp_path / "set"
        directory.mkdir()
        write_lines(directory / "a.jsonl", [{"messages": ASKED}])
        pq.write_table(pa.table({"text": ["x"]}), directory / "a.parquet")
        refused(eaftgate("packs", "build", directory, "--out", tmp_path / "o"), "several kinds")
