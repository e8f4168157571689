"""Which GPUs a worker gets: by indexing into what the caller may see. A device that is none, or not there, is an error
of usage."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from gate_command import BASE, GATE_PACKS, eaftgate_gate, gate
from hypothesis import given
from hypothesis import strategies as st

from eaftgate.errors import UserError
from eaftgate.gate.gpus import pin_gpus, share_of, visible_gpus
from eaftgate.gate.hooks import check_device
from eaftgate.gate.planning import make_plan
from eaftgate.gate.request import GateOptions


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


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda:x", "ERROR: device 'cuda:x' is none of cpu, cuda, cuda:N"),
        ("cuda", f"ERROR: device cuda was asked for, but torch {torch.__version__} sees no CUDA GPU"),
    ],
)
def test_a_device_that_is_not_there_is_said_before_anything_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...], device: str, said: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    asked = (f"--base={BASE}", f"--packs={GATE_PACKS}", "--regime=fixture", f"--device={device}", *workers)
    runs = [gate(tmp_path / "run", *asked), eaftgate_gate(tmp_path / "run", *asked, directory=tmp_path)]
    assert [(run.code, run.output.strip()) for run in runs] == [(4, said)] * 2
    assert not (tmp_path / "run").exists()


def test_of_a_device_that_nothing_here_runs_on_only_the_word_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def check(device: str, *, workers: int = 0, **options: Any) -> None:
        given = GateOptions(
            results=tmp_path, base=str(BASE), packs=GATE_PACKS, regime="fixture", device=device, **options
        )
        check_device(make_plan(given, fixture_packs=GATE_PACKS), workers)

    check("cpu")
    check("cuda", collector="sglang")
    with pytest.raises(UserError, match="device 'gpu' is none of cpu, cuda, cuda:N"):
        check("gpu", collector="sglang")
    with pytest.raises(UserError, match="sees no CUDA GPU"):
        check("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check("cuda:1")
    check("cuda:0", workers=2)
    with pytest.raises(UserError, match="a worker of -n sees its own GPU alone: give --device=cuda"):
        check("cuda:1", workers=2)
