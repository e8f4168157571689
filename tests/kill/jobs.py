"""Every command that writes, on inputs that take seconds, in a process that can be killed; and what it has made."""

import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from gate_command import ALREADY_IMPORTED, PRELOAD, ROOT
from tiny_checkpoint import Size
from tiny_model import write_lively_checkpoint, write_packs

TIMEOUT_SECONDS = 120
SMALL = ("--seq-len", 48, "--batch-size", 2, "--device", "cpu")
_DATES = re.compile(rb"\d{4}-\d\d-\d\d[T ]?(\d\d:\d\d:\d\d)?")
LEFTOVERS = re.compile(r"\..*\.(partial|lock|tmp|search\.json)")


@dataclass(frozen=True)
class Job:
    """The words of a command whose inputs are in `@`, and which writes to `out` of the working directory."""

    words: tuple[object, ...]
    codes: tuple[int, ...] = (0,)
    """How it may end."""

    def given(self, inputs: Path) -> list[str]:
        return [str(word).replace("@", str(inputs)) for word in self.words]


JOBS = {
    "split": Job(("packs", "split", "@/packs", "--out", "out")),
    "profile": Job(("profile", "@/base", "--packs", "@/packs", *SMALL, "--out", "out")),
    "streamed": Job(("profile", "@/base", "--packs", "@/packs", *SMALL, "--stream", "--out", "out")),
    "prune": Job(
        ("prune", "@/base", "--profile", "@/profile", "--keep-n", 4, "--method", "eaft-reap", "--out", "out")
    ),
    "refined": Job(
        ("prune", "@/base", "--profile", "@/profile", "--packs", "@/packs", "--keep-n", 4, "--method", "refined",
         "--max-positions", 150, "--device", "cpu", "--out", "out")
    ),
    "yardstick": Job(("yardstick", "@/base", "--out", "out")),
    "sweep": Job(
        ("sweep", "@/base", "--profile", "@/profile", "--packs", "@/packs", "--keep-n", 4, "--methods",
         "eaft-reap,ean,refined", "--device", "cpu", "--out", "out")
    ),
    "gate": Job(
        ("gate", "--base=@/base", "--checkpoint=@/pruned", "--packs=@/packs", "--regime=fixture", "--seq-lens=32",
         "--num-blocks=8", "--policy=near-lossless-v2", "--allow-overlap", "--results=out", "--junitxml=out.xml", "-q"),
        (1,),
    ),
    "turns": Job(
        ("gate", "--base=@/base", "--checkpoint=@/pruned", "--packs=@/packs", "--regime=fixture", "--seq-lens=32",
         "--num-blocks=4", "--policy=near-lossless-v3", "--generate=3", "--generate-tokens=24", "--allow-overlap",
         "--results=out", "--junitxml=out.xml", "-q"),
        (1,),
    ),
    "report": Job(("report", "@/run", "--out", "out")),
    "lock": Job(("lock", "@/run", "--out", "out"), (1,)),
    "memo": Job(("memo", "@/run", "--out", "out")),
    "run": Job(("run", "@/run.yaml", "--out", "out"), (1,)),
}  # fmt: skip


RECIPE = """
packs split: {dir: @/packs}
profile: {base: @/base, seq_len: 48, batch_size: 2, device: cpu}
prune: {keep_n: 4, method: eaft-reap}
gate: {regime: fixture, seq_lens: 32, num_blocks: 4, policy: near-lossless-v2}
"""
"""Its stages are processes of their own."""


@dataclass(frozen=True)
class Ended:
    code: int | None
    output: str
    seconds: float


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("inputs")
    make_inputs(place)
    return place


def make_inputs(place: Path) -> None:
    write_lively_checkpoint(place / "base", size=Size(experts=8, top_k=2))
    write_packs(place / "packs", {"chat": 8, "tools": 6})
    (place / "run.yaml").write_text(RECIPE.replace("@", str(place)), encoding="utf-8")
    for name, made in (("profile", "profile"), ("prune", "pruned"), ("gate", "run")):
        job = JOBS[name]
        words = [made if word == "out" else word.replace("=out", f"={made}") for word in job.given(place)]
        ended = run(words, place)
        assert ended.code in job.codes, ended.output


def start(words: Sequence[str], directory: Path, log: Path) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=command, args=(list(words), directory, log))
    process.start()
    return process


def run(
    words: Sequence[str],
    directory: Path,
    *,
    after: float | None = None,
    begun: str | None = None,
    number: int = signal.SIGKILL,
) -> Ended:
    """A command, whose group of processes gets the signal `number` when it has run for `after` seconds, or as soon as
    there is something that matches the pattern `begun` in `directory`."""
    log = directory.parent / f"{directory.name}.log"
    started = time.monotonic()
    process = start(words, directory, log)
    assert process.pid is not None
    if after is not None or begun is not None:
        if after is not None:
            process.join(after)
        while begun is not None and process.exitcode is None and not any(directory.glob(begun)):
            process.join(0.002)
        if process.exitcode is None:
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:  # it has no group of its own yet
                os.kill(process.pid, number)
    process.join(TIMEOUT_SECONDS)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{words} has not ended: {log.read_text()}")
    output = log.read_text(encoding="utf-8") if log.exists() else ""
    return Ended(process.exitcode, output, time.monotonic() - started)


def command(words: list[str], directory: Path, log: Path) -> None:
    """In a process of its own. What is saved every half minute is saved at once, so that there is something to lose."""
    os.setpgid(0, 0)
    os.chdir(directory)
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    for number, name in ((1, "stdout"), (2, "stderr")):
        vars(sys)[name] = vars(sys)[f"__{name}__"] = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.path.insert(0, str(ROOT))
    import torch

    torch.set_num_threads(1)
    from eaftgate.collect import store
    from eaftgate.commands.app import main
    from eaftgate.generate import store as generations
    from eaftgate.profile import profiler, streamed

    generations.PART_SECONDS = 0.0
    store.PART_SECONDS = profiler.SHARD_SECONDS = streamed.READINGS = 0.0
    sys.argv = ["eaftgate", *words, *(ALREADY_IMPORTED if words[0] == "gate" else ())]
    code = 1
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# What has been made, but for times.


def made(place: Path) -> dict[str, Any]:
    """Of everything in the working directory of a job by its path: its bytes, but for what is a matter of time.

    Times are: `seconds` and `speed` of profile.json, `seconds` of a sweep's lines, how a trace is divided into files
    (by the half minute), the speed of a collection, the session of a cell, what parity.json and the report say of when
    the run was, and in
    JUnit time, timestamp, hostname and tokens per second. A checksum over any of these goes with them.
    """
    if (place / "out" / "run.json").is_file():
        return _of_run(place)
    found: dict[str, Any] = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if LEFTOVERS.fullmatch(path.name):
            found[name] = "left over"
        elif path.is_file() and "/trace/" not in name and path.suffix not in (".log", ".lock"):
            found[name] = _untimed(path, path.read_bytes().replace(str(place).encode(), b"PLACE"))
    if (place / "out" / "trace").is_dir():
        found["trace"] = _trace(place / "out")
    return found


def _of_run(place: Path) -> dict[str, Any]:
    """Of a whole run, where times and checksums of them go from stage to stage: which files there are, what was split,
    which experts are kept and their weights, and what was judged."""
    found: dict[str, Any] = {
        path.relative_to(place).as_posix(): "left over" if LEFTOVERS.fullmatch(path.name) else "is there"
        for path in sorted(place.rglob("*"))
        if path.suffix != ".lock" and path.is_file() and "/trace/" not in path.as_posix()
    }
    whole = ("split/**/*.parquet", "keep4/*.safetensors", "keep4/expert_mapping.json")
    found |= {
        path.relative_to(place).as_posix(): path.read_bytes()
        for pattern in whole
        for path in (place / "out").glob(pattern)
    }
    parity = place / "out" / "run" / "parity.json"
    if parity.is_file():
        told = json.loads(parity.read_bytes())
        found["judged"] = [(cell["pack"], cell["verdict"], cell["metrics"]) for cell in told["cells"]]
    return found


def _untimed(path: Path, data: bytes) -> Any:
    if path.name == "profile.json":
        return {key: value for key, value in json.loads(data).items() if key not in ("seconds", "speed", "trace")}
    if path.name == "made_from.json":
        told = json.loads(data)
        timed = "profile.json" in told["files"]
        return told["inputs"] if timed else told
    if data.startswith(b'{"key"'):
        return [json.loads(line) | {"seconds": 0, "sha256": ""} for line in data.splitlines()]
    if path.name == "parity.json":
        return json.loads(data) | {"run": None, "sha256": ""}
    if path.name == "report.html":
        return _DATES.sub(b"", data)
    if path.suffix == ".xml":
        data = re.sub(rb' (time|timestamp|hostname)="[^"]*"', b"", data)
        return re.sub(rb'(<property name="tokens_per_second" value=)"[^"]*"', rb"\1", data)
    if path.suffix == ".safetensors" and path.parent.name == "collections":
        return _collection(path)
    if path.parent.name == "generations":
        return json.loads(data) | {"seconds": 0.0, "seconds_tokens": 0, "sha256": ""}
    if "cells" in path.parts:
        return json.loads(data) | {"session": ""}
    if path.name == "digests.json":
        return sorted((key.rpartition("/")[2], value[1]) for key, value in json.loads(data).items())
    return data


def _trace(profile: Path) -> dict[str, bytes]:
    from eaftgate.profile.profile import open_profile
    from eaftgate.profile.trace import FORMS

    trace = open_profile(profile).trace
    return {name: trace.column(name).tobytes() for name in FORMS}


def _collection(path: Path) -> Mapping[str, Any]:
    from eaftgate.collect.collection import load_collection

    collection = load_collection(path)
    arrays = {name: value.tobytes() for name, value in vars(collection.stats).items()}
    return {**arrays, "meta": {key: value for key, value in collection.meta.items() if key != "speed"}}
