"""When finished work is put away: after so many seconds, and at the end. Nothing is lost, nothing is there twice."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaftgate.collect.stretches import finished_stretches


def put_away(
    counts: list[int], first: int, seconds: float, took: list[float]
) -> tuple[list[tuple[range, list[str]]], list[int]]:
    """What comes of batches of so many blocks that took so long, and how the bar was advanced."""
    now = [0.0]
    advanced: list[int] = []

    def batches() -> Iterator[tuple[int, str]]:
        for place, (count, time) in enumerate(zip(counts, took, strict=True)):
            now[0] += time
            yield count, f"result {place}"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eaftgate.collect.stretches.time.perf_counter", lambda: now[0])
        return list(finished_stretches(batches(), first, seconds=seconds, advance=advanced.append)), advanced


def test_a_stretch_ends_when_the_time_is_over_and_with_the_work() -> None:
    found, advanced = put_away([2, 2, 2, 1], 10, 20.0, [15.0, 6.0, 19.0, 1.0])
    assert found == [(range(10, 14), ["result 0", "result 1"]), (range(14, 17), ["result 2", "result 3"])]
    assert advanced == [2, 2, 2, 1]
    assert put_away([], 10, 20.0, []) == ([], [])
    assert [held for held, _ in put_away([2, 2], 0, 20.0, [25.0, 25.0])[0]] == [range(2), range(2, 4)]


@given(st.lists(st.tuples(st.integers(1, 4), st.floats(0, 9)), max_size=9), st.integers(0, 5), st.floats(0, 20))
def test_every_block_is_put_away_once_and_in_order(
    given_batches: list[tuple[int, float]], first: int, seconds: float
) -> None:
    counts, took = [count for count, _ in given_batches], [time for _, time in given_batches]
    found, _ = put_away(counts, first, seconds, took)
    assert [block for held, _ in found for block in held] == list(range(first, first + sum(counts)))
    assert [result for _, results in found for result in results] == [f"result {n}" for n in range(len(counts))]
