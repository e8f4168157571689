"""Base and candidate behind two real servers, gated with nothing of them but their tokenizer, and as checkpoints.

    PYTHONPATH=.:tests python benchmarks/two_servers.py BASE CANDIDATE --packs DIR --work DIR --out results.jsonl \
        [--engine sglang|vllm --server-command CMD --sections record unverified checkpoints same restart] \
        [-- GATE_OPTION ...]

GATE_OPTION are those of `eaftgate gate`, like --regime=fixture. Each server is CMD with its model and its port. record: what the servers say
of themselves, their tokens and top 20 of a text, and what they write, to WORK/recorded.json. unverified: the run, its time, and that it
is not locked. checkpoints (SGLang): the same servers with the checkpoints at hand; the two runs differ by no more than a repetition may.
same: the candidate behind both ports, which has to be said. restart: the candidate's server is started again while it is asked, which has
to be noticed.
"""  # noqa: E501 (as it is printed)

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.h200 import Results
from eaftgate.collect.servers.dialect import Dialect
from eaftgate.collect.servers.endpoint import Servers
from eaftgate.collect.servers.exchange import Bounds, ask, place_of
from eaftgate.collect.servers.sglang import SGLANG
from eaftgate.collect.servers.vllm import VLLM
from eaftgate.collect.sglang.collector import EngineOptions
from eaftgate.errors import UserError
from eaftgate.gate.served import PROBE
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.packs.turns import Ending

DIALECTS: dict[str, Dialect] = {"sglang": SGLANG, "vllm": VLLM}
PORTS = (30000, 30001)
START_SECONDS = 600
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "config.json")
RECORDED_TOKENS = 24
PATIENT = Bounds(idle=600.0, total=600.0, nbytes=1 << 22)
"""The first questions have kernels compiled."""
LEFT_OUT = ("tp_size", "dp_size", "random_seed", "skip_tokenizer_init")
"""Of an engine's arguments: what a server decides by itself, and a tokenizer, whose tokens are asked for."""


def command_of(given: argparse.Namespace, model: Path, port: int) -> list[str]:
    if given.engine == "vllm":
        return [*shlex.split(given.server_command), "--model", str(model), "--port", str(port)]
    flags = []
    for key, value in EngineOptions(memory_fraction=given.memory).arguments().items():
        if key not in LEFT_OUT:
            flags += [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
    return [*shlex.split(given.server_command), "--model-path", str(model), "--port", str(port), *flags]


@contextmanager
def serving(given: argparse.Namespace, model: Path, port: int) -> Iterator[str]:
    """The URL of a server of `model`, which is ended afterwards."""
    url, dialect = f"http://127.0.0.1:{port}", DIALECTS[given.engine]
    environment = {key: value for key, value in os.environ.items() if key != "SGLANG_EXTERNAL_MODEL_PACKAGE"}
    log = given.work / f"server-{port}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command_of(given, model, port), stdout=out, stderr=out, env=environment, start_new_session=True
        )
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            time.sleep(1)
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the server did not start: {log}")
            with suppress(UserError):
                dialect.model(place_of(url))
                break
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def both(given: argparse.Namespace, base: Path, candidate: Path) -> Iterator[tuple[str, str]]:
    with ExitStack() as stack:
        base_url, url = (
            stack.enter_context(serving(given, model, port))
            for model, port in zip((base, candidate), PORTS, strict=True)
        )
        yield base_url, url


def tokenizer_of(given: argparse.Namespace) -> Path:
    """A directory that has nothing of the model besides."""
    directory: Path = given.work / "tokenizer"
    directory.mkdir(exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copy(given.base / name, directory / name)
    return directory


def words_of(given: argparse.Namespace, name: str, models: Sequence[str]) -> list[str]:
    results = given.work / name
    return [
        sys.executable, "-m", "eaftgate", "gate", f"--collector={given.engine}", *models, f"--packs={given.packs}",
        f"--results={results}", f"--junitxml={results}.xml", *given.gate,
    ]  # fmt: skip


def gated(given: argparse.Namespace, name: str, *models: str) -> dict[str, Any]:
    """parity.json of a run, which may have any verdict, and how long it took."""
    started = time.perf_counter()
    done = subprocess.run(words_of(given, name, models), capture_output=True, text=True, check=False)
    (given.work / f"{name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    path = given.work / name / "parity.json"
    if not path.is_file():
        raise RuntimeError(f"there is no verdict: {given.work / name}.log")
    return {**json.loads(path.read_text(encoding="utf-8")), "seconds": time.perf_counter() - started}


def of_servers(given: argparse.Namespace, base_url: str, url: str) -> list[str]:
    return [f"--base-endpoint={base_url}", f"--endpoint={url}", f"--tokenizer={tokenizer_of(given)}"]


def require(holds: bool, said: str) -> None:
    if not holds:
        raise RuntimeError(said)


def record(results: Results, given: argparse.Namespace) -> None:
    dialect, tokenizer = DIALECTS[given.engine], load_tokenizer(given.base)
    ids = tokenizer.backend.encode(PROBE, add_special_tokens=False).ids
    kept: dict[str, Any] = {}
    with both(given, given.base, given.candidate) as urls:
        servers = Servers(urls, dialect)
        for role, url in zip(("base", "candidate"), urls, strict=True):
            told = servers.tokens(url, PROBE)
            require(told == ids, f"{role}: /tokenize says {str(told)[:200]}, and the tokenizer here {ids[:20]} ...")
            scoring = dialect.scoring(np.array([ids[:RECORDED_TOKENS]], np.int32))
            writing = dialect.writing(ids[:RECORDED_TOKENS], Ending(tokenizer), RECORDED_TOKENS)
            answers = [ask(place_of(url), *question, bounds=PATIENT) for question in (scoring, writing)]
            kept[role] = {"said": servers.said(url), "asked": [scoring, writing], "answers": answers}
            results.add("record", role, said=kept[role]["said"])
    (given.work / "recorded.json").write_text(json.dumps(kept, separators=(",", ":")), encoding="utf-8")


def unverified(results: Results, given: argparse.Namespace) -> None:
    with both(given, given.base, given.candidate) as urls:
        parity = gated(given, "unverified", *of_servers(given, *urls))
    results.add("unverified", parity["verdict"], seconds=parity["seconds"], **_ppl(parity))
    require(bool(parity["cells"]), f"nothing was judged: {given.work}/unverified.log")
    require(all("unverified" in cell["flags"] for cell in parity["cells"]), "a cell lacks its flag")
    words = [sys.executable, "-m", "eaftgate", "lock", given.work / "unverified", "--out", given.work / "lock.json"]
    locked = subprocess.run(words, capture_output=True, text=True, check=False)
    require(locked.returncode == 2 and "is unverified" in locked.stderr, f"it was locked: {locked.stderr[-300:]}")


def checkpoints(results: Results, given: argparse.Namespace) -> None:
    """After `unverified`, whose figures these are compared with."""
    with both(given, given.base, given.candidate) as (base_url, url):
        models = [f"--base={given.base}", f"--checkpoint={given.candidate}"]
        models += [f"--endpoint={base_url}", f"--endpoint={url}"]
        parity = gated(given, "checkpoints", *models)
    before = json.loads((given.work / "unverified" / "parity.json").read_text(encoding="utf-8"))
    cells = {(cell["pack"], cell["seq_len"]): cell for cell in before["cells"]}
    results.add("checkpoints", parity["verdict"], seconds=parity["seconds"], **_ppl(parity))
    for cell in parity["cells"]:
        other = cells[cell["pack"], cell["seq_len"]]
        apart = max(abs(cell[key] / other[key] - 1) for key in ("ppl_base", "ppl"))
        results.add("checkpoints", f"{cell['pack']} {cell['seq_len']}", ppl_apart=apart, verdicts_differ=int(cell["verdict"] != other["verdict"]))  # fmt: skip # noqa: E501
        require(cell["inputs"]["blocks_digest"] == other["inputs"]["blocks_digest"], "they were judged on other blocks")
        require(apart < 0.002, f"the perplexities of {cell['pack']} differ by {apart:.2%}")


def same(results: Results, given: argparse.Namespace) -> None:
    with both(given, given.candidate, given.candidate) as urls:
        parity = gated(given, "same", *of_servers(given, *urls))
    alike = parity["served"][1]["like_base"]
    results.add("same", parity["verdict"], like_base=int(alike), seconds=parity["seconds"])
    named = [one["said"]["model"] for one in parity["served"]]
    require(alike or named[0] == named[1], "that both have one model was not seen")


def restart(results: Results, given: argparse.Namespace) -> None:
    words = words_of(given, "restart", of_servers(given, *(f"http://127.0.0.1:{port}" for port in PORTS)))
    with serving(given, given.base, PORTS[0]):
        with serving(given, given.candidate, PORTS[1]):
            run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            time.sleep(given.restart_after)
            require(run.poll() is None, "the run was over before the server was: lower --restart-after")
            run.send_signal(signal.SIGSTOP)
        with serving(given, given.candidate, PORTS[1]):
            run.send_signal(signal.SIGCONT)
            said, _ = run.communicate()
    (given.work / "restart.log").write_text(said, encoding="utf-8")
    noticed = "was changed while" in said
    results.add("restart", "noticed" if noticed else "not noticed", code=run.returncode)
    require(noticed and run.returncode == 1, f"it was not noticed: {given.work}/restart.log")


def _ppl(parity: dict[str, Any]) -> dict[str, float]:
    cell: dict[str, Any] = next(iter(parity["cells"]), {})
    return {key: cell[key] for key in ("ppl_base", "ppl", "tokens") if key in cell}


SECTIONS = {
    "record": record, "unverified": unverified, "checkpoints": checkpoints, "same": same, "restart": restart,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("candidate", type=Path)
    parser.add_argument("--packs", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--engine", choices=list(DIALECTS), default="sglang")
    parser.add_argument("--server-command", help="default: python -m sglang.launch_server, or vllm's api_server")
    parser.add_argument("--memory", type=float, default=0.3, help="share of the GPU's memory for each SGLang server")
    parser.add_argument("--restart-after", type=float, default=15.0, metavar="SECONDS")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS))
    own, gate = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, gate = own[:at], own[at + 1 :]
    given = parser.parse_args(own)
    given.gate = gate
    module = "sglang.launch_server" if given.engine == "sglang" else "vllm.entrypoints.openai.api_server"
    given.server_command = given.server_command or f"{sys.executable} -m {module}"
    given.work.mkdir(parents=True, exist_ok=True)
    results = Results(given.out)
    for name in given.sections or [name for name in SECTIONS if given.engine == "sglang" or name != "checkpoints"]:
        results.section(name, partial(SECTIONS[name], results, given))
    raise SystemExit(1 if results.failed else 0)


if __name__ == "__main__":
    main()
