"""Which GPUs a worker gets: by indexing into what the caller may see."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaftgate.gate.gpus import pin_gpus, share_of, visible_gpus


@pytest.mark.parametrize(
    ("worker", "each", "gpus", "share"),
    [
        (0, 1, ["0", "1"], ["0"]),
        (1, 1, ["3", "5"], ["5"]),
        (1, 2, ["4", "5", "6", "7"], ["6", "7"]),
        (2, 1, ["0", "1"], ["0"]),
        (0, 1, [], []),
        (0, 4, ["GPU-a"], ["GPU-a"]),
    ],
)
def test_share(worker: int, each: int, gpus: list[str], share: list[str]) -> None:
    assert share_of(worker, each, gpus) == share


@given(st.integers(1, 4), st.integers(1, 4))
def test_workers_do_not_share_where_there_are_enough(workers: int, each: int) -> None:
    gpus = [f"GPU-{number}" for number in range(workers * each)]
    taken = [gpu for worker in range(workers) for gpu in share_of(worker, each, gpus)]
    assert sorted(taken) == sorted(gpus)


def test_pinning_indexes_into_the_callers_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6, 2")
    assert visible_gpus() == ["6", "2"]
    pin_gpus(1, 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    pin_gpus(1, 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
