"""The SGLang collector on a large GPU, beside the engine's own speed and the transformers collector, in one run.

    PYTHONPATH=. python benchmarks/h200_sglang.py --work DIR --out results.jsonl [--sections parity speed decode]

parity: the fixture checkpoint, and --model's if given: cells of the SGLang collector, of an SGLang server by its URL,
and of transformers on the GPU, against transformers on the CPU in float32; --record keeps what the server answered for
a short block (fixtures/sglang). speed: the 20B shape with generated weights: engine alone (k = 0: given tokens'
log-probabilities; k = 20), the collector in its own process, transformers with dequantised experts. decode: tokens/s of
the base, keep 24 and keep 20 with CUDA graphs. Medians of 3.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

os.environ["SGLANG_EXTERNAL_MODEL_PACKAGE"] = "eaftgate.collect.sglang.models"  # before sglang is imported

from generate_checkpoint import generate
from h200 import ROUNDING_FACTOR, Results, random_blocks, require

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.collect.collection import Collection, check_stats, concatenate, make_collection
from eaftgate.collect.collector import Collector
from eaftgate.collect.sglang.answers import stats_of_answer
from eaftgate.collect.sglang.collector import CALL_TOKENS, EngineOptions, SglangCollector, close_engines
from eaftgate.collect.sglang.endpoint import RECORDED, EndpointCollector, endpoint_for, get_json, post_json
from eaftgate.collect.transformers import TransformersCollector
from eaftgate.errors import UserError
from eaftgate.model.load import default_settings
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import UNION, named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.metrics import cell_metrics
from eaftgate.parity.paired import pair
from eaftgate.prune import PruneRequest, prune_checkpoint

FIXTURE = Path(__file__).parent.parent / "fixtures"
DECODE_BATCHES = (1, 8, 32, 64)
PORT = 30_011


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sections", nargs="+", default=["parity", "speed", "decode"])
    parser.add_argument("--model", type=Path, help="a trained checkpoint for parity, with --packs")
    parser.add_argument("--packs", type=Path)
    parser.add_argument("--record", type=Path, metavar="FILE", help="parity: keep a server's answer")
    parser.add_argument("--blocks", type=int, default=128, help="blocks of 2048 a timed run; twice as many of 1024")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    results = Results(given.out)
    sections: dict[str, Callable[[], None]] = {
        "parity": lambda: parity(results, given),
        "speed": lambda: speed(results, given),
        "decode": lambda: decode(results, given),
    }
    for name in given.sections:
        results.section(name, sections[name])
        close_engines()
    raise SystemExit(1 if results.failed else 0)


def sglang_collector(path: Path, work: Path, *, call_tokens: int = CALL_TOKENS, **options: Any) -> SglangCollector:
    checkpoint = open_checkpoint(path)
    log = work / f"engine-{path.name}.log"
    return SglangCollector(
        path, checkpoint_digest(checkpoint), EngineOptions(**options), log, is_mxfp4=True, call_tokens=call_tokens
    )


def collected(collector: Collector, blocks: Blocks) -> Collection:
    stats = concatenate([stats for _, stats in collector.batches(blocks, 0)])
    check_stats(stats, blocks.num_counted, where="benchmark")
    return make_collection(stats, blocks, {})


# Parity


def parity(results: Results, given: argparse.Namespace) -> None:
    inputs = [(FIXTURE / "checkpoint", FIXTURE / "packs" / "gate", 512, 64)]
    if given.model is not None:
        inputs.append((given.model, given.packs, 1024, 64))
    for path, packs, seq_len, num_blocks in inputs:
        tokenizer = load_tokenizer(path)
        union = named_packs(packs, seed=3407)[UNION]
        blocks = build_blocks(union, tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=seq_len, num_blocks=num_blocks)
        digest = checkpoint_digest(open_checkpoint(path))
        engine = sglang_collector(path, given.work, memory_fraction=0.3)
        found = {"sglang": collected(engine, blocks), "sglang again": collected(engine, blocks)}
        smaller = sglang_collector(path, given.work, call_tokens=1 << 12, memory_fraction=0.3)
        found["sglang, other batches"] = collected(smaller, blocks)
        close_engines()
        for device, dtype in (("cuda", "bfloat16"), ("cuda", "float32"), ("cpu", "float32")):
            settings = default_settings(device=device, dtype=dtype, dequantize=True)
            model = TransformersCollector(path, digest, settings, batch_size=4 if device == "cpu" else 16)
            found[f"{device} {dtype}"] = collected(model, blocks)
        reference = found["cpu float32"]
        far = {name: compare(results, f"{path.name} {name}", reference, made) for name, made in found.items()}
        for name in ("sglang", "sglang again", "sglang, other batches"):
            require(
                far[name] <= ROUNDING_FACTOR * far["cuda bfloat16"],
                f"{path.name}: {name} is further from float32 than rounding to bfloat16 explains",
            )
        if path.parent == FIXTURE:  # an engine's own interface, last: not every machine has what its server imports
            compare(results, f"{path.name} sglang server", reference, served(path, blocks, given))


def compare(results: Results, name: str, reference: Collection, found: Collection) -> float:
    """The mean absolute difference of a token's log-probability, and a row about it."""
    tokens = pair(reference, found)
    cell = cell_metrics(tokens.logprob_base_T, tokens.h_base_T, tokens.logprob_T, tokens.h_T)
    mean_abs = float(np.abs(tokens.nll_delta_T).mean())
    results.add(
        "parity", name, tokens=cell.tokens, ppl=cell.ppl, mean_p=cell.mean_p, cc=cell.cc, mean_abs=mean_abs,
        nll_delta=float(tokens.nll_delta_T.mean()), max_abs=float(np.abs(tokens.nll_delta_T).max()),
        same_top1=float(tokens.same_top1_T.mean()), top20_jsd=float(tokens.top_jsd_T.mean()),
    )  # fmt: skip
    return mean_abs


def served(path: Path, blocks: Blocks, given: argparse.Namespace) -> Collection:
    with server(path, given.work) as url:
        if given.record is not None:
            record(url, blocks, given.record)
        return collected(EndpointCollector(url, is_mxfp4=True), blocks)


@contextmanager
def server(path: Path, work: Path) -> Iterator[str]:
    """An SGLang server of the checkpoint at `path`."""
    skipped = ("tp_size", "dp_size", "random_seed")
    flags = []
    for key, value in EngineOptions(memory_fraction=0.3).arguments().items():
        if key not in skipped:
            flags += [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
    environment = {key: value for key, value in os.environ.items() if key != "SGLANG_EXTERNAL_MODEL_PACKAGE"}
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(path), "--port", str(PORT), *flags]
    with (work / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        url = None
        for _ in range(120):
            time.sleep(1)
            require(process.poll() is None, f"the server ended: {work / 'server.log'}")
            with suppress(UserError):
                url = endpoint_for([f"http://127.0.0.1:{PORT}"], path, str(path))
                break
        require(url is not None, "the server did not start in 120 s")
        yield str(url)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def record(url: str, blocks: Blocks, out: Path) -> None:
    """What the server answers for the first 48 tokens of a block, and its description of itself."""
    ids = blocks.token_ids_BS[:1, :48].tolist()
    question = {
        "input_ids": ids,
        "sampling_params": {"temperature": 0, "max_new_tokens": 0},
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 20,
    }
    answers = post_json(f"{url}/generate", question)
    described = {key: get_json(url, "/server_info").get(key) for key in RECORDED}
    kept = {"input_ids": ids, "answers": answers, "server_info": described, "model_info": get_json(url, "/model_info")}
    out.write_text(json.dumps(kept), encoding="utf-8")


# Speed


def generated(given: argparse.Namespace) -> Path:
    path: Path = given.work / "20b"
    if not path.exists():
        generate(path, layers=24)
    return path


def timed(run: Callable[[], Any], repeats: int = 3) -> float:
    run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def speed(results: Results, given: argparse.Namespace) -> None:
    path = generated(given)
    shapes = [random_blocks(201_088, given.blocks * 2, 1024), random_blocks(201_088, given.blocks, 2048)]
    everything = replace(shapes[1], counted_BS=np.arange(2048) > np.zeros((given.blocks, 1), int))
    own = engine_alone(results, path, shapes)
    collector = sglang_collector(path, given.work)
    started = time.perf_counter()
    collected(collector, shapes[1].reordered(np.arange(4)))
    results.add("speed", "boot of the collector's engine", seconds=time.perf_counter() - started)
    for blocks, name in (*((blocks, f"{blocks.seq_len}") for blocks in shapes), (everything, "2048, all counted")):
        tokens = blocks.num_blocks * blocks.seq_len
        rate = tokens / timed(lambda blocks=blocks: collected(collector, blocks))
        reference = own[blocks.seq_len]
        counted = blocks.num_counted / tokens
        results.add("speed", f"sglang {name}", tokens_per_second=rate, ratio_to_k0=rate / reference, counted=counted)
    close_engines()
    digest = checkpoint_digest(open_checkpoint(path))
    settings = default_settings(device="cuda", dequantize=True)
    model = TransformersCollector(path, digest, settings, batch_size=8)
    for blocks in shapes:
        part = blocks.reordered(np.arange(blocks.num_blocks // 4))
        rate = part.num_blocks * part.seq_len / timed(lambda part=part: collected(model, part))
        results.add(
            "speed", f"transformers {blocks.seq_len}", tokens_per_second=rate, ratio_to_k0=rate / own[blocks.seq_len]
        )


def engine_alone(results: Results, path: Path, shapes: list[Blocks]) -> dict[int, float]:
    """Tokens/s of the engine's own interface with k = 0, by seq_len; k = 20, and what turning its lists into arrays
    takes, for the record."""
    import sglang

    engine = sglang.Engine(model_path=str(path), **EngineOptions().arguments())
    rates = {}
    for blocks in shapes:
        ids, tokens = blocks.token_ids_BS.tolist(), blocks.num_blocks * blocks.seq_len

        def ask(top_k: int, ids: list[list[int]] = ids) -> Any:
            return engine.generate(
                input_ids=ids, sampling_params={"temperature": 0, "max_new_tokens": 0}, return_logprob=True,
                logprob_start_len=0, top_logprobs_num=top_k,
            )  # fmt: skip

        rates[blocks.seq_len] = tokens / timed(lambda ask=ask: ask(0))
        results.add("speed", f"engine k=0 {blocks.seq_len}", tokens_per_second=rates[blocks.seq_len])
        answers: list[Any] = []
        seconds = timed(lambda ask=ask, answers=answers: answers.append(ask(20)), repeats=1)
        started = time.perf_counter()
        for answer, ids_S, counted_S in zip(answers[-1], blocks.token_ids_BS, blocks.counted_BS, strict=True):
            stats_of_answer(answer["meta_info"], ids_S, counted_S)
        arrays = time.perf_counter() - started
        results.add("speed", f"engine k=20 {blocks.seq_len}", tokens_per_second=tokens / seconds, arrays_seconds=arrays)
    engine.shutdown()
    return rates


# Decode


def decode(results: Results, given: argparse.Namespace) -> None:
    import sglang

    base = open_checkpoint(generated(given))
    digest = checkpoint_digest(base)
    for keep_n in (32, 24, 20):
        path = base.path
        if keep_n < 32:
            path = given.work / f"20b-keep{keep_n}"
            if not path.exists():
                prune_checkpoint(base, digest, None, PruneRequest(keep_n=keep_n, method="random"), path)
        arguments = EngineOptions().arguments() | {
            "disable_cuda_graph": False,
            "disable_prefill_cuda_graph": True,
            "cuda_graph_bs_decode": list(DECODE_BATCHES),
            "cuda_graph_max_bs_decode": max(DECODE_BATCHES),
            "context_length": 4096,
        }
        engine = sglang.Engine(model_path=str(path), **arguments)
        rng = np.random.default_rng(0)
        for batch in DECODE_BATCHES:
            prompts = rng.integers(0, 200_000, (batch, 128)).tolist()

            def ask(tokens: int, prompts: list[list[int]] = prompts, engine: Any = engine) -> float:
                parameters = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
                started = time.perf_counter()
                engine.generate(input_ids=prompts, sampling_params=parameters)
                return time.perf_counter() - started

            ask(8)
            # The difference of two lengths leaves out the prefill.
            rate = median(batch * 192 / (ask(256) - ask(64)) for _ in range(3))
            results.add("decode", f"keep {keep_n} batch {batch}", tokens_per_second=rate)
        engine.shutdown()
        if keep_n < 32:
            shutil.rmtree(path)


if __name__ == "__main__":
    main()
