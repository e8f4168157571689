"""Invariants of token statistics, and collections as files: all of it or nothing, and nothing damaged."""

import dataclasses
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from content import content_blocks
from safetensors import SafetensorError
from safetensors.numpy import save_file

from eaftgate.collect import collection as module
from eaftgate.collect.collection import (
    Collection,
    TokenStats,
    Unusable,
    check_stats,
    concatenate,
    is_earlier,
    load_arrays,
    load_collection,
    make_collection,
    save_collection,
    save_stats,
)
from eaftgate.errors import UserError


def stats_of(tokens: int, seed: int = 0) -> TokenStats:
    rng = np.random.default_rng(seed)
    top = -np.sort(rng.exponential(3.0, (tokens, 20)).astype(np.float32) + 3.5)
    return TokenStats(
        logprob_T=-rng.exponential(2.0, tokens).astype(np.float32),
        entropy_T=rng.random(tokens, dtype=np.float32),
        top_ids_TK=rng.integers(0, 200, (tokens, 20), dtype=np.int32),
        top_logprobs_TK=-np.sort(-top, axis=1),
    )


def with_value(field: str, where: Any, value: float) -> TokenStats:
    stats = stats_of(6)
    array = getattr(stats, field).copy()
    array[where] = value
    return dataclasses.replace(stats, **{field: array})


def test_good_statistics_pass() -> None:
    check_stats(stats_of(6), 6, where="here")
    check_stats(stats_of(0), 0, where="here")
    check_stats(with_value("logprob_T", 2, 5e-4), 6, where="here")  # rounding
    check_stats(with_value("entropy_T", slice(0, 2), 1.0), 6, where="here")


NOT_FINITE = "1 of 6 scored tokens have a log-probability or entropy that is not finite"
BROKEN = {
    "NaN log-probability": (with_value("logprob_T", 3, np.nan), NOT_FINITE),
    "probability zero": (with_value("logprob_T", 3, -np.inf), NOT_FINITE),
    "infinite log-probability": (with_value("logprob_T", 0, np.inf), NOT_FINITE),
    "NaN entropy": (with_value("entropy_T", 5, np.nan), NOT_FINITE),
    "NaN in the top 20": (with_value("top_logprobs_TK", (2, 19), np.nan), NOT_FINITE),
    "infinity in the top 20": (with_value("top_logprobs_TK", (2, 19), -np.inf), NOT_FINITE),
    "log-probability above 0": (with_value("logprob_T", 1, 0.01), "a log-probability is above 0"),
    "negative entropy": (with_value("entropy_T", 1, -0.01), "an entropy lies outside 0 to 1"),
    "entropy above 1": (with_value("entropy_T", 1, 1.01), "an entropy lies outside 0 to 1"),
    "unsorted top 20": (with_value("top_logprobs_TK", (4, 7), -50.0), "not in descending order"),
    "sum above 1": (with_value("top_logprobs_TK", (4, slice(0, 2)), -0.68), "top 20 sum to more than 1"),
    "a negative token": (with_value("top_ids_TK", (4, 7), -1), "one of the top 20 is no token of the vocabulary"),
    "one token more": (stats_of(7), "7 tokens came back for 6 scored ones"),
    "one token less": (stats_of(5), "5 tokens came back for 6 scored ones"),
    "no tokens": (stats_of(0), "0 tokens came back for 6 scored ones"),
    "a column that is shorter": (
        dataclasses.replace(stats_of(6), entropy_T=stats_of(5).entropy_T),
        "5 or 6 tokens came back for 6 scored ones",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_statistics_are_refused(name: str) -> None:
    stats, message = BROKEN[name]
    with pytest.raises(UserError, match=message) as caught:
        check_stats(stats, 6, where="pack p, blocks 0 to 3")
    assert str(caught.value).startswith("pack p, blocks 0 to 3: ")


def same_stats(a: TokenStats, b: TokenStats) -> bool:
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name))
        and getattr(a, field.name).dtype == getattr(b, field.name).dtype
        for field in dataclasses.fields(TokenStats)
    )


def test_concatenation_keeps_the_order() -> None:
    whole = stats_of(9)
    parts = [
        TokenStats(*(getattr(whole, field.name)[cut] for field in dataclasses.fields(TokenStats)))
        for cut in (slice(0, 2), slice(2, 2), slice(2, 9))
    ]
    assert same_stats(concatenate(parts), whole)


@pytest.fixture
def collection() -> Collection:
    rng = np.random.default_rng(1)
    counted = rng.random((4, 6)) < 0.4
    counted[:, 0] = False
    counted[2] = False  # a block without counted tokens
    blocks = content_blocks(
        "p", 6, rng.integers(0, 9, (4, 6), dtype=np.int32), counted,
        np.arange(24, dtype=np.int32).reshape(4, 6) // 5, tuple(f"row {i}" for i in range(5)),
    )  # fmt: skip
    made = make_collection(stats_of(int(counted.sum())), blocks, {"settings": {"x": 1.5}})
    places = [(b, s) for b in range(4) for s in range(6) if counted[b, s]]
    assert made.block_T.tolist() == [b for b, _ in places]
    assert made.row_T.tolist() == [(6 * b + s) // 5 for b, s in places]
    return made


def test_comes_back_as_it_was_saved(collection: Collection, tmp_path: Path) -> None:
    save_collection(tmp_path / "deep" / "c.safetensors", collection)
    loaded = load_collection(tmp_path / "deep" / "c.safetensors")
    assert same_stats(loaded.stats, collection.stats)
    assert loaded.row_T.tolist() == collection.row_T.tolist()
    assert loaded.block_T.tolist() == collection.block_T.tolist()
    assert loaded.token_T.tolist() == collection.token_T.tolist()
    assert loaded.cut_T.tolist() == collection.cut_T.tolist()
    for column, expected in zip(loaded.roles.columns, collection.roles.columns, strict=True):
        assert (column.dtype, column.tolist()) == (expected.dtype, expected.tolist())
    assert (loaded.identities, loaded.meta) == (collection.identities, collection.meta)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["c.safetensors"]


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left for .*c.safetensors; free some"),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "no space left for .*c.safetensors; free some",
        ),
        (
            SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)"),
            r"failed while writing .*c.safetensors \(.*os error 5\)\); correct it",
        ),
    ],
)
def test_a_failing_write_leaves_what_was_there(
    collection: Collection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    existing: bool,
    error: Exception,
    message: str,
) -> None:
    path = tmp_path / "c.safetensors"
    if existing:
        save_collection(path, collection)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def failing(_: Any, temporary: Path, **__: Any) -> None:
        temporary.write_bytes(b"half a file")
        raise error

    monkeypatch.setattr(module, "save_file", failing)
    with pytest.raises(UserError, match=rf"{message}.* run .*again") as caught:
        save_collection(path, collection)
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_damaged_files(collection: Collection, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_collection(path, collection)
    whole = path.read_bytes()
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": np.zeros(3)}, foreign)
    other_schema = whole.replace(b"collection-3", b"collection-9")
    assert other_schema != whole
    truncations = [whole[:cut] for cut in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1)]
    for bad in (*truncations, b"\xff" * 50, whole + b"x", foreign.read_bytes(), other_schema):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"saved collection .* is damaged \(.*\): remove it and run again"):
            load_collection(path)


def test_a_missing_file_is_damaged_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is damaged"):
        load_arrays(tmp_path / "none.safetensors")


Change = Callable[[dict[str, Any], dict[str, Any]], object]
INCONSISTENT: dict[str, tuple[Change, str]] = {
    "no rows": (lambda arrays, _: arrays.pop("row_T"), "it lacks row_T"),
    "no part of it": (
        lambda arrays, _: arrays.clear(),
        "it lacks block_T and cut_T and role_content_T and role_kind_T and role_message_T and role_recipient_T "
        "and row_T and token_T",
    ),
    "no classes": (lambda arrays, _: arrays.pop("role_kind_T"), "it lacks role_kind_T"),
    "no identities": (lambda _, meta: meta.pop("identities"), "it lacks the identities of its rows"),
    "identities of another type": (lambda _, meta: meta.update(identities=[1]), "it lacks the identities of its rows"),
    "fewer blocks": (lambda arrays, _: arrays.update(block_T=arrays["block_T"][1:]), "its columns differ in length"),
    "another type": (lambda arrays, _: arrays.update(row_T=arrays["row_T"].astype("i8")), "row_T is of another type"),
    "another shape": (lambda arrays, _: arrays.update(cut_T=arrays["cut_T"][None]), "cut_T is of another type"),
    "an array more": (lambda arrays, _: arrays.update(more=arrays["row_T"]), "'more'"),
    "a row too many": (lambda _, meta: meta.update(identities=["row 0"]), "a token is of a row that is none of its 1"),
}


@pytest.mark.parametrize("name", INCONSISTENT)
def test_what_does_not_belong_together_is_damaged(collection: Collection, tmp_path: Path, name: str) -> None:
    change, message = INCONSISTENT[name]
    save_collection(tmp_path / "whole.safetensors", collection)
    _, arrays, _ = load_arrays(tmp_path / "whole.safetensors")
    meta: dict[str, Any] = {**collection.meta, "identities": list(collection.identities)}
    change(arrays, meta)
    save_stats(tmp_path / "c.safetensors", collection.stats, arrays, meta)
    with pytest.raises(UserError, match=rf"is damaged \({message}\): remove it and run again"):
        load_collection(tmp_path / "c.safetensors")


def test_no_byte_of_a_file_can_change(collection: Collection, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_collection(path, collection)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(17)
    for place in [*range(header), *rng.integers(header, len(whole), 500).tolist()]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(Unusable):
            load_collection(path)
    path.write_bytes(whole)
    load_collection(path)


def test_a_file_is_of_what_it_says_or_is_not_used(collection: Collection, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_collection(path, dataclasses.replace(collection, meta={"checkpoint": "a", "settings": {"sizes": [1, 2]}}))
    load_collection(path, {"checkpoint": "a", "settings": {"sizes": (1, 2)}})  # as JSON has it
    for of, reason in (
        ({"checkpoint": "b"}, "it is of another checkpoint"),
        ({"settings": {"sizes": (1, 3)}}, "it is of other settings of the collector"),
        ({"blocks": "b"}, "it is of other blocks"),
        ({"replicate": ""}, "it is of another replicate"),
    ):
        with pytest.raises(Unusable) as caught:
            load_collection(path, of)
        assert caught.value.reason == reason


@pytest.mark.parametrize("name", [name for name in BROKEN if "token" not in name and "column" not in name])
def test_no_sound_model_can_have_saved_it(collection: Collection, tmp_path: Path, name: str) -> None:
    """Values are looked at again, whatever checksum stands beside them."""
    bad, message = BROKEN[name]
    saved = collection.select(np.arange(6) % len(collection.stats))
    save_collection(tmp_path / "c.safetensors", dataclasses.replace(saved, stats=bad))
    with pytest.raises(Unusable, match=message):
        load_collection(tmp_path / "c.safetensors")


def test_a_token_of_the_top_20_is_of_the_vocabulary(collection: Collection, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_collection(path, collection)
    last = int(collection.stats.top_ids_TK.max())
    load_collection(path, vocab_size=last + 1)
    with pytest.raises(Unusable, match="no token of the vocabulary"):
        load_collection(path, vocab_size=last)


def test_statistics_of_different_lengths_are_damaged(collection: Collection, tmp_path: Path) -> None:
    stats = dataclasses.replace(collection.stats, entropy_T=collection.stats.entropy_T[1:])
    save_collection(tmp_path / "c.safetensors", dataclasses.replace(collection, stats=stats))
    with pytest.raises(UserError, match="its columns differ in length"):
        load_collection(tmp_path / "c.safetensors")


def test_what_an_earlier_version_has_saved_is_told_from_the_rest(tmp_path: Path) -> None:
    save_stats(tmp_path / "now", stats_of(5), {}, {})
    save_file({"x": np.zeros(3)}, tmp_path / "earlier", metadata={"schema": "collection-2", "meta": "{}"})
    save_file({"x": np.zeros(3)}, tmp_path / "another", metadata={"made": "elsewhere"})
    (tmp_path / "cut").write_bytes((tmp_path / "earlier").read_bytes()[:30])
    assert [path.name for path in tmp_path.iterdir() if is_earlier(path)] == ["earlier"]
