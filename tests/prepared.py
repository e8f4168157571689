"""Session fixtures over the embedded checkpoint: a profile, pruned and damaged checkpoints, a gate run that passes and
one that fails. Made once, also where the session has several processes: nothing of it may be written into.

A conftest.py imports the ones its tests use.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from gate_command import BASE, CALIBRATION_PACKS, GATE_PACKS, TIMEOUT_SECONDS, Run, gate

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.model.load import default_settings
from eaftgate.profile.profile import Profile, open_profile
from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
from eaftgate.prune.checkpoint import PruneRequest, prune_checkpoint

SMALL = ("--regime=fixture", "--seq-lens=64,128", "--num-blocks=48")
"""On fewer a copy does not pass every cell: it takes some 1,700 tokens to say that confident conflict is unchanged."""
TINY = ("--regime=fixture", "--seq-lens=64", "--num-blocks=6")
BFLOAT16_NAN = b"\xc0\x7f"

torch.set_num_threads(1)  # several threads spin for each other where the cores are shared


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for what the processes of the session share."""
    own = tmp_path_factory.getbasetemp()
    path = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "made"
    path.mkdir(exist_ok=True)
    return path


def once(path: Path, make: Callable[[Path], object]) -> Path:
    """`path`, which the first process of the session that asks for it makes."""
    done = path.with_name(f"{path.name}.done")
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not done.exists():
            make(path)
            done.touch()
    return path


def run_once(results: Path, *options: str, timeout: float = TIMEOUT_SECONDS) -> Run:
    said = results.with_name(f"{results.name}.json")

    def make(results: Path) -> None:
        run = gate(results, *options, timeout=timeout)
        said.write_text(json.dumps({"code": run.code, "output": run.output}), encoding="utf-8")

    once(results, make)
    return Run(**json.loads(said.read_text(encoding="utf-8")), results=results)


@pytest.fixture(scope="session")
def base_copy(made: Path) -> Path:
    return once(made / "copy", copy_of_base)


@pytest.fixture(scope="session")
def profile(made: Path) -> Profile:
    def make(path: Path) -> None:
        request = ProfileRequest(CALIBRATION_PACKS, num_rows=120, seq_len=128, batch_size=8)
        base = open_checkpoint(BASE)
        settings = default_settings(device="cpu", dequantize=True)
        profile_checkpoint(base, checkpoint_digest(base), request, path, settings)

    return open_profile(once(made / "profile", make))


@pytest.fixture(scope="session")
def keep24(made: Path, profile: Profile) -> Path:
    return once(made / "keep24", lambda path: pruned(path, PruneRequest(keep_n=24, method="eaft-reap"), profile))


@pytest.fixture(scope="session")
def random8(made: Path) -> Path:
    return once(made / "random8", lambda path: pruned(path, PruneRequest(keep_n=8, method="random")))


@pytest.fixture(scope="session")
def raised(made: Path, profile: Profile) -> Path:
    """The most used expert of the first layer has its weights times 16 in both projections."""
    hits_E = np.bincount(profile.trace.column("expert_XLK")[:, 0].ravel(), minlength=32)

    def make(path: Path) -> None:
        copy_of_base(path)
        for projection in ("gate_up_proj", "down_proj"):
            entry = open_checkpoint(path).tensors[f"model.layers.0.mlp.experts.{projection}_scales"]
            size = entry.nbytes // entry.shape[0]
            begin = entry.begin + int(hits_E.argmax()) * size
            data = bytearray((path / entry.shard).read_bytes())
            data[begin : begin + size] = bytes(exponent + 4 for exponent in data[begin : begin + size])
            (path / entry.shard).write_bytes(data)

    return once(made / "raised", make)


@pytest.fixture(scope="session")
def nan_head(made: Path) -> Path:
    def make(path: Path) -> None:
        copy_of_base(path)
        entry = open_checkpoint(path).tensors["lm_head.weight"]
        data = bytearray((path / entry.shard).read_bytes())
        data[entry.begin : entry.end] = BFLOAT16_NAN * (entry.nbytes // 2)
        (path / entry.shard).write_bytes(data)

    return once(made / "nan_head", make)


@pytest.fixture(scope="session")
def truncated(made: Path) -> Path:
    def make(path: Path) -> None:
        copy_of_base(path)
        shard = path / "model-00002-of-00002.safetensors"
        shard.write_bytes(shard.read_bytes()[:-1000])

    return once(made / "truncated", make)


@pytest.fixture(scope="session")
def other_tokenizer(made: Path) -> Path:
    def make(path: Path) -> None:
        copy_of_base(path)
        tokenizer = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
        tokenizer["model"]["merges"].pop()
        (path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")

    return once(made / "other_tokenizer", make)


@pytest.fixture(scope="session")
def copy_run(made: Path, base_copy: Path) -> Run:
    """A copy of the base against the base, in one process."""
    return run_once(made / "copy-run", f"--base={BASE}", f"--checkpoint={base_copy}", f"--packs={GATE_PACKS}", *SMALL)


@pytest.fixture(scope="session")
def bad_run(made: Path, random8: Path, raised: Path) -> Run:
    """Two candidates that fail, on a few blocks."""
    candidates = (f"--checkpoint={random8}", f"--checkpoint={raised}")
    return run_once(made / "bad-run", f"--base={BASE}", *candidates, f"--packs={GATE_PACKS}", *TINY)


def copy_of_base(path: Path) -> Path:
    shutil.copytree(BASE, path)
    return path


def pruned(path: Path, request: PruneRequest, profile: Profile | None = None) -> Path:
    base = open_checkpoint(BASE)
    prune_checkpoint(base, checkpoint_digest(base), profile, request, path)
    return path
