"""The store computes a collection once per content, resumes it after a kill, and shares results and failures."""

import dataclasses
import errno
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from content import content_blocks
from safetensors import safe_open
from safetensors.numpy import save_file

from eaftgate.collect import store as module
from eaftgate.collect.collection import Collection, TokenStats, load_collection, save_collection
from eaftgate.collect.store import CollectionStore, Request
from eaftgate.errors import UserError
from eaftgate.packs.blocks import Blocks

NUM_BLOCKS, SEQ_LEN = 7, 5


def make_blocks(seed: int = 0) -> Blocks:
    rng = np.random.default_rng(seed)
    counted = rng.random((NUM_BLOCKS, SEQ_LEN)) < 0.6
    counted[:, 0] = False
    rows = np.arange(NUM_BLOCKS * SEQ_LEN, dtype=np.int32).reshape(NUM_BLOCKS, SEQ_LEN) // 8
    tokens = rng.integers(0, 100, (NUM_BLOCKS, SEQ_LEN), dtype=np.int32)
    return content_blocks("p", SEQ_LEN, tokens, counted, rows, tuple(f"row {i}" for i in range(5)))


def true_stats(token_ids: np.ndarray) -> TokenStats:
    """What the fake collector says of tokens: a function of their ids."""
    logprob = (-(token_ids + 1) / 10).astype(np.float32)
    top = np.full((len(token_ids), 20), -4.0, np.float32)
    return TokenStats(logprob, np.full(len(token_ids), 0.5, np.float32), np.zeros((len(token_ids), 20), np.int32), top)


class FakeCollector:
    """Scores two blocks at a time and notes them; `fault(first_block, stats)` may change or refuse a batch."""

    def __init__(
        self, fault: Callable[[int, TokenStats], TokenStats] = lambda _, stats: stats, **settings: Any
    ) -> None:
        self._fault, self._settings = fault, {"collector": "fake", **settings}
        self.scored: list[int] = []
        self.starts: list[int] = []

    def settings(self) -> dict[str, Any]:
        return self._settings

    def batches(self, blocks: Blocks, first_block: int) -> Iterator[tuple[int, TokenStats]]:
        self.starts.append(first_block)
        for start in range(first_block, blocks.num_blocks, 2):
            stop = min(start + 2, blocks.num_blocks)
            stats = true_stats(blocks.token_ids_BS[start:stop][blocks.scored_BS[start:stop]])
            stats = self._fault(start, stats)
            self.scored += range(start, stop)
            yield stop - start, stats


def request(collector: FakeCollector | None = None, **changes: Any) -> Request:
    return dataclasses.replace(Request("digest", make_blocks(), collector or FakeCollector()), **changes)


def assert_right(collection: Collection) -> None:
    blocks = make_blocks()
    np.testing.assert_array_equal(
        collection.stats.logprob_T, true_stats(blocks.token_ids_BS[blocks.scored_BS]).logprob_T
    )
    np.testing.assert_array_equal(collection.row_T, blocks.row_BS[blocks.scored_BS])
    np.testing.assert_array_equal(collection.block_T, np.repeat(np.arange(NUM_BLOCKS), blocks.scored_BS.sum(axis=1)))
    assert collection.identities == blocks.identities


def kill_at(block: int) -> Callable[[int, TokenStats], TokenStats]:
    def fault(first_block: int, stats: TokenStats) -> TokenStats:
        if first_block == block:
            raise KeyboardInterrupt
        return stats

    return fault


def fail_with(message: str) -> Callable[[int, TokenStats], TokenStats]:
    def fault(_: int, __: TokenStats) -> TokenStats:
        raise UserError(message)

    return fault


@pytest.fixture
def store(tmp_path: Path) -> CollectionStore:
    return CollectionStore(tmp_path / "store", session="one")


# Once per content.


def test_the_second_get_reads_from_disk(store: CollectionStore) -> None:
    collector = FakeCollector()
    first = store.get(request(collector))
    second = store.get(request(collector))
    assert_right(first)
    assert_right(second)
    assert collector.scored == list(range(NUM_BLOCKS))
    assert second.meta == first.meta
    # Another object, another session: content decides.
    other = FakeCollector()
    CollectionStore(store.path(request()).parent, session="two").get(request(other))
    assert not other.starts


def test_what_is_recorded(store: CollectionStore) -> None:
    meta = store.get(request()).meta
    assert meta.items() >= {"checkpoint": "digest", "replicate": "", "settings": {"collector": "fake"}}.items()
    assert meta["blocks"] == make_blocks().digest
    assert meta["speed"]["tokens"] == NUM_BLOCKS * SEQ_LEN
    assert meta["speed"]["seconds"] > 0


CHANGES: dict[str, dict[str, Any]] = {
    "checkpoint": {"checkpoint_digest": "another"},
    "blocks": {"blocks": make_blocks(seed=1)},
    "settings": {"collector": FakeCollector(batch_size=4)},
    "replicate": {"replicate": "rerun"},
}


def test_every_ingredient_makes_another_collection(store: CollectionStore) -> None:
    paths = [store.path(request()), *(store.path(request(**change)) for change in CHANGES.values())]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("change", CHANGES)
def test_another_content_is_computed(store: CollectionStore, change: str) -> None:
    store.get(request())
    collector = CHANGES[change].get("collector") or FakeCollector()
    changed = request(**{"collector": collector, **CHANGES[change]})
    store.get(changed)
    assert collector.scored == list(range(NUM_BLOCKS))


def test_the_progress_bar_gets_the_tokens_that_are_left(store: CollectionStore) -> None:
    sizes: list[int] = []

    def open_bar(tokens: int) -> Any:
        sizes.append(tokens)
        return module.no_bar(tokens)

    store.get(request(), open_bar=open_bar)
    store.get(request(), open_bar=open_bar)
    assert sizes == [NUM_BLOCKS * SEQ_LEN]


# After a kill.


@pytest.mark.parametrize(("killed_at", "saved"), [(0, 0), (2, 2), (6, 6)])
def test_a_killed_run_goes_on_where_the_last_part_ends(
    store: CollectionStore, monkeypatch: pytest.MonkeyPatch, killed_at: int, saved: int
) -> None:
    monkeypatch.setattr(module, "PART_SECONDS", 0.0)
    killed = FakeCollector(kill_at(killed_at))
    with pytest.raises(KeyboardInterrupt):
        store.get(request(killed))
    assert not store.path(request()).exists()
    resumed = FakeCollector()
    collection = store.get(request(resumed))
    assert_right(collection)
    assert killed.scored == list(range(saved))
    assert resumed.scored == list(range(saved, NUM_BLOCKS))
    assert collection.meta["speed"]["tokens"] == (NUM_BLOCKS - saved) * SEQ_LEN
    assert not store.path(request()).with_suffix(".parts").exists()


def test_killed_again_and_again(store: CollectionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_SECONDS", 0.0)
    scored: list[int] = []
    for killed_at in (2, 4, 6):
        collector = FakeCollector(kill_at(killed_at))
        with pytest.raises(KeyboardInterrupt):
            store.get(request(collector))
        scored += collector.scored
    last = FakeCollector()
    assert_right(store.get(request(last)))
    assert scored + last.scored == list(range(NUM_BLOCKS))  # no block was scored twice


def test_within_the_first_seconds_nothing_is_saved(store: CollectionStore) -> None:
    with pytest.raises(KeyboardInterrupt):
        store.get(request(FakeCollector(kill_at(6))))
    resumed = FakeCollector()
    assert_right(store.get(request(resumed)))
    assert resumed.starts == [0]


def test_a_gap_in_the_parts_is_computed_again(store: CollectionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        store.get(request(FakeCollector(kill_at(6))))
    parts = sorted(store.path(request()).with_suffix(".parts").iterdir())
    assert [part.stem for part in parts] == ["00000000-00000002", "00000002-00000004", "00000004-00000006"]
    parts[1].unlink()
    resumed = FakeCollector()
    assert_right(store.get(request(resumed)))
    assert resumed.starts == [2]


def truncate(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-7])


def empty(part: Path) -> None:
    part.write_bytes(b"")


def of_other_blocks(part: Path) -> None:
    shutil.copyfile(part.with_name("00000000-00000002.safetensors"), part)


@pytest.mark.parametrize("damage", [truncate, empty, of_other_blocks])
def test_a_damaged_part_and_the_later_ones_are_computed_again(
    store: CollectionStore, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(module, "PART_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        store.get(request(FakeCollector(kill_at(6))))
    parts = store.path(request()).with_suffix(".parts")
    damage(parts / "00000002-00000004.safetensors")
    with pytest.raises(KeyboardInterrupt):
        store.get(request(FakeCollector(kill_at(2))))
    assert [part.stem for part in parts.iterdir()] == ["00000000-00000002"]
    resumed = FakeCollector()
    assert_right(store.get(request(resumed)))
    assert resumed.scored == list(range(2, NUM_BLOCKS))
    assert not parts.exists()


# Failures.


def test_a_full_disk_is_a_sentence_and_the_parts_stay(store: CollectionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_SECONDS", 0.0)
    full = UserError("no space left")

    def fail(*_: Any) -> None:
        raise full

    def no_record(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_collection", fail)
        patch.setattr(module, "write_model", no_record)
        with pytest.raises(UserError) as caught:
            store.get(request())
    assert caught.value is full
    resumed = FakeCollector()
    assert_right(store.get(request(resumed)))
    assert resumed.starts == [6]


def test_a_failure_is_shared_within_a_session_and_retried_in_the_next(store: CollectionStore) -> None:
    root = store.path(request()).parent
    with pytest.raises(UserError, match="out of memory"):
        store.get(request(FakeCollector(fail_with("out of memory"))))
    again = FakeCollector()
    for same_session in (store, CollectionStore(root, session="one")):
        with pytest.raises(UserError, match="out of memory"):
            same_session.get(request(again))
    assert not again.starts
    assert_right(CollectionStore(root, session="two").get(request(again)))
    assert [path.suffix for path in root.iterdir() if path.suffix == ".json"] == []
    assert_right(store.get(request(FakeCollector(fail_with("never called")))))


def test_a_failure_is_of_one_content_only(store: CollectionStore) -> None:
    with pytest.raises(UserError):
        store.get(request(FakeCollector(fail_with("x")), checkpoint_digest="broken"))
    assert_right(store.get(request()))


def spoil(**columns: Any) -> Callable[[int, TokenStats], TokenStats]:
    def fault(first_block: int, stats: TokenStats) -> TokenStats:
        return dataclasses.replace(stats, **columns) if first_block == 2 else stats

    return fault


def shorten(_: int, stats: TokenStats) -> TokenStats:
    return TokenStats(*(getattr(stats, field.name)[1:] for field in dataclasses.fields(TokenStats)))


def third_batch_tokens() -> int:
    return int(make_blocks().scored_BS[2:4].sum())


COUNT = third_batch_tokens()
UNSORTED = np.full((COUNT, 20), -5.0, np.float32)
UNSORTED[-1, -1] = -4.0
FAULTS = {
    "NaN": (spoil(logprob_T=np.full(COUNT, np.nan, np.float32)), f"blocks 2 to 3: {COUNT} of {COUNT} scored tokens"),
    "above 0": (spoil(logprob_T=np.ones(COUNT, np.float32)), "blocks 2 to 3: a log-probability is above 0"),
    "unsorted": (spoil(top_logprobs_TK=UNSORTED), "blocks 2 to 3: top log-probabilities are not in descending order"),
    "too few": (shorten, "blocks 0 to 1: .* tokens came back"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_collector_is_named_and_leaves_no_collection(store: CollectionStore, name: str) -> None:
    fault, message = FAULTS[name]
    with pytest.raises(UserError, match=f"pack p, seq_len {SEQ_LEN}, {message}"):
        store.get(request(FakeCollector(fault)))
    assert not store.path(request()).exists()


def test_a_collector_that_stops_early(store: CollectionStore) -> None:
    class Lazy(FakeCollector):
        def batches(self, blocks: Blocks, first_block: int) -> Iterator[tuple[int, TokenStats]]:
            yield next(super().batches(blocks, first_block))

    with pytest.raises(UserError, match="tokens came back for"):
        store.get(request(Lazy()))
    assert not store.path(request()).exists()


def test_an_unforeseen_error_passes_through_and_is_not_remembered(store: CollectionStore) -> None:
    def fault(_: int, __: TokenStats) -> TokenStats:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.get(request(FakeCollector(fault)))
    assert_right(store.get(request()))


# Nothing is believed by its name.


def cut_short(path: Path, _: CollectionStore) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def rotten(path: Path, _: CollectionStore) -> None:
    data = bytearray(path.read_bytes())
    data[-60] ^= 1
    path.write_bytes(data)


def emptied(path: Path, _: CollectionStore) -> None:
    path.write_bytes(b"")


def of_an_earlier_version(path: Path, _: CollectionStore) -> None:
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        meta = file.metadata()["meta"]
    save_file(arrays, path, metadata={"schema": "collection-2", "meta": meta})


def copied_from(**changes: Any) -> Callable[[Path, CollectionStore], None]:
    def copy(path: Path, store: CollectionStore) -> None:
        other = request(**changes)
        store.get(other)
        shutil.copyfile(store.path(other), path)

    return copy


def of_other_tokens(path: Path, _: CollectionStore) -> None:
    """It says what was asked of itself, and is not that."""
    saved = load_collection(path)
    save_collection(path, dataclasses.replace(saved, token_T=saved.token_T + 1))


def of_another_order(path: Path, _: CollectionStore) -> None:
    saved = load_collection(path)
    save_collection(path, saved.select(np.arange(len(saved.stats))[::-1]))


UNUSABLE: dict[str, tuple[Callable[[Path, CollectionStore], None], str]] = {
    "cut short": (cut_short, "its checksum does not hold"),
    "bit rot": (rotten, "its checksum does not hold"),
    "empty": (emptied, "it has no checksum"),
    "of an earlier version": (of_an_earlier_version, "it has no checksum, as in earlier versions"),
    "another checkpoint's": (copied_from(checkpoint_digest="other"), "it is of another checkpoint"),
    "of other blocks": (copied_from(blocks=make_blocks(seed=1)), "it is of other blocks"),
    "of other settings": (copied_from(collector=FakeCollector(batch_size=4)), "it is of other settings"),
    "a repetition": (copied_from(replicate="rerun"), "it is of another replicate"),
    "of other tokens": (of_other_tokens, "its tokens are not those of the blocks"),
    "of another order": (of_another_order, "its tokens are not those of the blocks"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_is_collected_again_and_said_once(tmp_path: Path, name: str) -> None:
    spoil_file, reason = UNUSABLE[name]
    said: list[str] = []
    store = CollectionStore(tmp_path / "store", session="one", say=said.append)
    store.get(request())
    path = store.path(request())
    spoil_file(path, store)
    again = FakeCollector()
    assert_right(store.get(request(again)))
    assert again.scored == list(range(NUM_BLOCKS))
    assert [line.startswith(f"{path} is not used but collected again: {reason}") for line in said] == [True]
    assert_right(store.get(request(FakeCollector(fail_with("never called")))))
    assert len(said) == 1


@pytest.mark.parametrize("change", CHANGES)
def test_a_part_of_something_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(module, "PART_SECONDS", 0.0)
    said: list[str] = []
    store = CollectionStore(tmp_path / "store", session="one", say=said.append)
    killed = FakeCollector(kill_at(4), **({"batch_size": 4} if change == "settings" else {}))
    other = request(**{**CHANGES[change], "collector": killed})
    with pytest.raises(KeyboardInterrupt):
        store.get(other)
    parts = [store.path(a).with_suffix(".parts") for a in (other, request())]
    parts[0].rename(parts[1])
    again = FakeCollector()
    assert_right(store.get(request(again)))
    assert again.starts == [0]
    assert len(said) == 1
    assert "00000000-00000002.safetensors is not used but collected again: it is of" in said[0]


def test_a_part_is_not_known_by_its_name(store: CollectionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        store.get(request(FakeCollector(kill_at(4))))
    parts = store.path(request()).with_suffix(".parts")
    (parts / "00000000-00000002.safetensors").rename(parts / "00000000-00000006.safetensors")
    again = FakeCollector()
    assert_right(store.get(request(again)))
    assert again.starts == [4]


def test_a_failure_of_something_else_is_not_believed(store: CollectionStore) -> None:
    other = request(checkpoint_digest="other")
    with pytest.raises(UserError):
        store.get(dataclasses.replace(other, collector=FakeCollector(fail_with("out of memory"))))
    store.path(other).with_suffix(".failed.json").rename(store.path(request()).with_suffix(".failed.json"))
    assert_right(store.get(request()))


def test_a_damaged_failure_is_not_believed(store: CollectionStore) -> None:
    with pytest.raises(UserError):
        store.get(request(FakeCollector(fail_with("out of memory"))))
    store.path(request()).with_suffix(".failed.json").write_bytes(b"{")
    assert_right(store.get(request()))


# Several processes.


class SlowCollector(FakeCollector):
    """Leaves a file for every process that computes, and takes its time."""

    def __init__(self, traces: Path) -> None:
        super().__init__()
        self.traces = traces

    def batches(self, blocks: Blocks, first_block: int) -> Iterator[tuple[int, TokenStats]]:
        (self.traces / str(multiprocessing.current_process().pid)).touch()
        time.sleep(0.5)
        yield from super().batches(blocks, first_block)


def ask(root: Path, traces: Path, ready: Any, answers: Any) -> None:
    ready.wait()
    collection = CollectionStore(root, session="one").get(request(SlowCollector(traces)))
    answers.put(collection.stats.logprob_T.tolist())


def test_two_processes_compute_a_collection_once(tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    spawn = multiprocessing.get_context("spawn")
    ready, answers = spawn.Barrier(2), spawn.Queue()
    processes = [
        spawn.Process(target=ask, args=(tmp_path / "store", tmp_path / "traces", ready, answers)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    blocks = make_blocks()
    expected = true_stats(blocks.token_ids_BS[blocks.scored_BS]).logprob_T.tolist()
    assert found == [expected, expected]
    assert len(list((tmp_path / "traces").iterdir())) == 1
