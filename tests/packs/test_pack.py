"""Reading packs, their identities, orders and UNION (SPEC section 2)."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaftgate.errors import UserError
from eaftgate.packs.pack import UNION, Pack, named_packs, pack_paths, read_pack, read_packs, row_identity, union


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def pack_of(name: str, texts: list[str]) -> Pack:
    return Pack(name, tuple(texts), tuple(map(row_identity, texts)), (name,) * len(texts), ("",) * len(texts))


def write(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@given(st.lists(st.text(max_size=3), min_size=1, max_size=12), st.integers(0, 5000))
def test_shuffle_is_by_the_hash_of_seed_and_identity(texts: list[str], seed: int) -> None:
    shuffled = pack_of("p", texts).shuffled(seed)
    assert list(shuffled.texts) == sorted(texts, key=lambda text: sha256(f"{seed}:{sha256(text)}"))
    assert list(shuffled.identities) == [sha256(text) for text in shuffled.texts]


def test_without_a_seed_rows_stay_in_file_order() -> None:
    pack = pack_of("p", ["c", "a", "b", "a"])
    assert pack.shuffled(None) == pack
    assert pack.shuffled(3407).texts != pack.texts


def test_shuffle_of_a_row_does_not_depend_on_the_others() -> None:
    texts = [str(i) for i in range(50)]
    some = pack_of("p", texts[::3]).shuffled(1).texts
    assert [text for text in pack_of("p", texts).shuffled(1).texts if text in set(some)] == list(some)


def slow_union(packs: list[Pack]) -> list[tuple[str, str]]:
    """Deal one row from every pack that still has one, again and again."""
    queues = [[(text, pack.name) for text in pack.texts] for pack in packs]
    dealt = []
    while any(queues):
        dealt += [queue.pop(0) for queue in queues if queue]
    return dealt


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_union_is_round_robin_over_packs_that_are_not_exhausted(lengths: list[int]) -> None:
    packs = [pack_of(f"p{p}", [f"{p}.{i}" for i in range(length)]) for p, length in enumerate(lengths)]
    result = union(packs)
    assert list(zip(result.texts, result.sources, strict=True)) == slow_union(packs)
    assert list(result.identities) == [sha256(text) for text in result.texts]
    assert (result.name, len(result)) == (UNION, sum(lengths))


def test_domains_go_with_their_rows_into_every_order_and_into_union(tmp_path: Path) -> None:
    write(
        tmp_path / "a.parquet",
        text=["a0", "<|start|>user<|end|>", *(f"a{i}" for i in range(1, 120))],
        domain=[3, 4, *[None] * 119],
    )
    write(tmp_path / "b.parquet", text=["b0", "b1"])
    a, b = read_packs(tmp_path)
    assert (a.domains[:2], set(a.domains[2:]), b.domains) == (("3", ""), {""}, ("", ""))
    named = {text: domain for pack in (a, b) for text, domain in zip(pack.texts, pack.domains, strict=True)}
    for pack in (a.shuffled(3), union([b, a]), a.head(1)):
        assert pack.domains == tuple(named[text] for text in pack.texts)


def test_named_packs_are_union_first_then_packs_by_file_name(tmp_path: Path) -> None:
    write(tmp_path / "zeta.parquet", text=["z0", "z1", "z2"])
    write(tmp_path / "Alpha.parquet", text=["a0"])
    write(tmp_path / "beta.parquet", text=["b0", "b1"])
    (tmp_path / "README.md").write_text("not a pack")
    packs = named_packs(tmp_path, seed=None)
    assert list(packs) == [UNION, "Alpha", "beta", "zeta"]
    assert packs[UNION].texts == ("a0", "b0", "z0", "b1", "z1", "z2")
    shuffled = named_packs(tmp_path, seed=1)
    assert shuffled["zeta"] == packs["zeta"].shuffled(1)
    assert shuffled[UNION] == union([shuffled[name] for name in ("Alpha", "beta", "zeta")])


def test_head_takes_the_first_rows() -> None:
    pack = pack_of("p", ["a", "b", "c"])
    assert pack.head(2) == pack_of("p", ["a", "b"])
    assert pack.head(9) == pack.head(None) == pack


STRING_VIEW = pytest.param(
    pa.string_view(),
    marks=pytest.mark.skipif(int(pa.__version__.split(".")[0]) < 21, reason="pyarrow before 21 does not write it"),
)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), STRING_VIEW])
def test_every_string_type_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    write(tmp_path / "p.parquet", text=pa.array(["é🙂", ""], type=pa.string()).cast(kind), id=[1, 2])
    pack = read_pack(tmp_path / "p.parquet")
    assert (pack.name, pack.texts, pack.sources) == ("p", ("é🙂", ""), ("p", "p"))
    assert pack.identities == (sha256("é🙂"), sha256(""))


def invalid_utf8() -> pa.Array:
    offsets, data = pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    return pa.Array.from_buffers(pa.string(), 1, [None, offsets, data])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no text column": ({"prompt": ["a"], "id": [1]}, r"has no column 'text' \(columns: prompt, id\)"),
    "no columns": ({}, r"has no column 'text' \(columns: none\)"),
    "numbers": ({"text": [1, 2]}, "column 'text' holds int64, not strings"),
    "lists": ({"text": [["a"], ["b"]]}, "column 'text' holds list"),
    "null rows": ({"text": ["a", None, None]}, "2 rows of column 'text' are null"),
    "only nulls": ({"text": pa.array([None], type=pa.string())}, "1 rows of column 'text' are null"),
    "no rows": ({"text": pa.array([], type=pa.string())}, "has no rows"),
    "not UTF-8": ({"text": invalid_utf8()}, "column 'text' is damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_tables(tmp_path: Path, name: str) -> None:
    columns, message = REFUSED[name]
    path = write(tmp_path / "bad.parquet", **columns)
    with pytest.raises(UserError, match=message) as caught:
        read_pack(path)
    assert str(path) in str(caught.value)


def test_files_that_are_not_parquet(tmp_path: Path) -> None:
    write(tmp_path / "good.parquet", text=["a" * 100])
    whole = (tmp_path / "good.parquet").read_bytes()
    for bad in (b"", b"text\na\n", whole[: len(whole) // 2], whole[:-1]):
        (tmp_path / "bad.parquet").write_bytes(bad)
        with pytest.raises((OSError, pa.ArrowException)) as reason:
            pq.read_table(tmp_path / "bad.parquet")
        with pytest.raises(UserError) as caught:
            read_packs(tmp_path)
        said = f"pack {tmp_path / 'bad.parquet'} cannot be read as Parquet: {str(reason.value).splitlines()[0]}"
        assert str(caught.value) == said


def test_directories_without_packs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist or is not a directory"):
        pack_paths(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="does not exist or is not a directory"):
        pack_paths(tmp_path / "file")
    with pytest.raises(UserError, match=r"holds no \*\.parquet file"):
        pack_paths(tmp_path)


def test_union_is_a_reserved_name(tmp_path: Path) -> None:
    write(tmp_path / "UNION.parquet", text=["a"])
    with pytest.raises(UserError, match="derived pack UNION: rename it"):
        pack_paths(tmp_path)


def conversation(number: int) -> str:
    return f"<|start|>user<|message|>{number}<|end|><|start|>assistant<|channel|>final<|message|>x<|return|>"


def test_a_few_rows_that_are_no_conversations_are_left_out_and_said(tmp_path: Path) -> None:
    rows = [conversation(number) for number in range(300)]
    rows[7] = "<|start|>assistant<|message|>not closed<|start|>user<|message|>u<|end|>"
    rows[40] = "<|start|>assistant<|channel|>final no message<|end|>"
    write(tmp_path / "chat.parquet", text=rows)
    write(tmp_path / "whole.parquet", text=rows[:5])
    packs = named_packs(tmp_path, seed=1)
    assert sorted(packs["chat"].texts) == sorted(row for number, row in enumerate(rows) if number not in (7, 40))
    assert "pack chat: 2 of 300 rows are not well-formed Harmony" in packs["chat"].left_out
    assert "the first is row 7, counted from 0: the message at character 0 is not closed" in packs["chat"].left_out
    assert packs["whole"].left_out == ""
    assert packs[UNION].left_out == packs[UNION].head(3).left_out == packs["chat"].left_out


def test_a_pack_of_which_more_than_a_hundredth_is_no_conversation_is_refused(tmp_path: Path) -> None:
    broken = "<|start|>assistant<|end|>"
    write(tmp_path / "chat.parquet", text=[*(conversation(number) for number in range(100)), broken, broken])
    with pytest.raises(UserError, match=r"2 of 102 rows are not well-formed .*first is row 100.*: correct them"):
        named_packs(tmp_path, seed=None)
    write(tmp_path / "chat.parquet", text=[*(conversation(number) for number in range(99)), broken])
    assert len(named_packs(tmp_path, seed=None)["chat"]) == 99  # a hundredth is not more than it
