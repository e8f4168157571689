"""Several processes profile together: whole batches each, and the trace of one."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_command import Command
from gate_command import BASE, CALIBRATION_PACKS, ROOT, start
from hypothesis import given
from hypothesis import strategies as st

from eaftgate.collect.stretches import missing_stretches
from eaftgate.profile.profile import open_profile
from eaftgate.profile.ranks import Ranks


@given(st.integers(1, 200), st.integers(1, 16), st.integers(1, 9))
def test_shares_are_whole_batches_and_cover_every_block_once(blocks: int, batch_size: int, size: int) -> None:
    shares = [Ranks(rank, size, rank).share(blocks, batch_size) for rank in range(size)]
    assert [block for share in shares for block in share] == list(range(blocks))
    assert all(share.start % batch_size == 0 for share in shares if share)


@pytest.mark.parametrize(
    ("share", "held", "missing"),
    [
        (range(0, 10), [], [range(0, 10)]),
        (range(0, 10), [range(0, 4)], [range(4, 10)]),
        (range(0, 10), [range(6, 8), range(0, 4)], [range(4, 6), range(8, 10)]),
        (range(5, 10), [range(0, 7)], [range(7, 10)]),
        (range(5, 10), [range(12, 20)], [range(5, 10)]),
        (range(5, 10), [range(0, 20)], []),
        (range(5, 5), [], []),
    ],
)
def test_what_is_missing(share: range, held: list[range], missing: list[range]) -> None:
    assert missing_stretches(share, held) == missing


ARGUMENTS = (
    "profile", BASE, "--packs", CALIBRATION_PACKS, "--num-rows", "24", "--seq-len", "64", "--batch-size", "4",
    "--device", "cpu", "--out",
)  # fmt: skip


def two_processes(out: Path) -> str:
    """With the environment that torchrun gives its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        start(
            "eaftgate",
            *ARGUMENTS,
            out,
            log=out.with_name(rank),
            environment={**shared, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    ended = [rank.end() for rank in ranks]
    assert [code for code, _ in ended] == [0, 0], ended
    return "".join(output for _, output in ended)


def torchrun(out: Path) -> str:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "eaftgate"]
    ended = subprocess.run(
        [*launcher, *map(str, ARGUMENTS), str(out)], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("launch", [two_processes, torchrun])
def test_two_ranks_give_the_trace_of_one(launch: Callable[[Path], str], eaftgate: Command, tmp_path: Path) -> None:
    alone = eaftgate(*ARGUMENTS, tmp_path / "one")
    assert alone.code == 0, alone.err
    for said in (alone.out, launch(tmp_path / "two")):
        assert said.count("profiled") == 1
    one, two = (open_profile(tmp_path / name) for name in ("one", "two"))
    assert len(one.trace.shards) == 1
    assert len(two.trace.shards) == 2
    for column in ("p_T", "entropy_T", "row_T", "pack_T", "expert_XLK", "gate_XLK", "norm_XLK"):
        assert np.array_equal(one.trace.column(column), two.trace.column(column)), column
    assert one.description.thresholds == two.description.thresholds
