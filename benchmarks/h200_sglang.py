"""The SGLang collector on a large GPU, beside the engine's own speed and the transformers collector, in one run.

    PYTHONPATH=.:tests python benchmarks/h200_sglang.py --work DIR --out results.jsonl [--sections parity record ...]

parity: the fixture checkpoint, and --model's if given: cells of the SGLang collector and of transformers on the GPU
(MXFP4 experts with --sglang-kernels, dequantised ones, float32), against transformers on the CPU in float32. record:
what an engine answers for a short block of the fixture, to --record (fixtures/sglang). server: the fixture's cell by
the URL of an SGLang server. speed: the 20B shape with generated weights: engine alone (k = 0: given tokens'
log-probabilities; k = 20), the collector in its own process, transformers with dequantised experts. classes: what the
positions besides content cost either collector, where tool_agentic has them. long: one block of 131,072 tokens through
both collectors. decode: tokens/s of the base, keep 24 and keep 20 with CUDA graphs. large: the 120B shape, its rewrite
to keep 96 and a collection of either, over all GPUs; takes 115 GB of disk, so only when named.
Medians of 3.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

os.environ["SGLANG_EXTERNAL_MODEL_PACKAGE"] = "eaftgate.collect.sglang.models"  # before sglang is imported

from benchmarks.generate_checkpoint import EXPERTS, LAYERS, generate
from benchmarks.h200 import ROUNDING_FACTOR, Results, random_blocks, require
from benchmarks.mxfp4_kernels import use_sglang_kernels
from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.collect.collection import Collection, check_stats, concatenate, make_collection
from eaftgate.collect.collector import Collector, ScoredModel
from eaftgate.collect.servers.answers import stats_of_answer
from eaftgate.collect.servers.endpoint import EndpointCollector, endpoint_for
from eaftgate.collect.sglang.collector import CALL_TOKENS, EngineOptions, Engines, SglangCollector
from eaftgate.collect.transformers import LoadedModel, TransformersCollector
from eaftgate.errors import UserError
from eaftgate.model.load import default_settings
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import UNION, named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.metrics import cell_metrics
from eaftgate.parity.paired import pair
from eaftgate.prune.checkpoint import PruneRequest, prune_checkpoint

FIXTURE = Path(__file__).parent.parent / "fixtures"
DECODE_BATCHES = (1, 8, 32, 64)
LONGEST = 131_072
RECORDED_TOKENS = 48
PORT = 30_011


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sections", nargs="+", default=[name for name in SECTIONS if name != "large"])
    parser.add_argument("--model", type=Path, help="a trained checkpoint for parity, with --packs")
    parser.add_argument("--packs", type=Path)
    parser.add_argument("--record", type=Path, metavar="FILE", default=FIXTURE / "sglang" / "answer.json")
    parser.add_argument("--server-command", default=f"{sys.executable} -m sglang.launch_server")
    parser.add_argument("--sglang-kernels", action="store_true", help="MXFP4 in transformers by SGLang's kernels")
    parser.add_argument("--keep", type=int, nargs="+", default=[128, 96], help="large: experts of 128")
    parser.add_argument("--blocks", type=int, default=128, help="blocks of 2048 a timed run; twice as many of 1024")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    results = Results(given.out)
    for name in given.sections:
        results.section(name, partial(SECTIONS[name], results, given))
    raise SystemExit(1 if results.failed else 0)


def engines_of(given: argparse.Namespace, **options: Any) -> AbstractContextManager[Engines]:
    return closing(Engines(EngineOptions(**options), given.work))


def sglang_collector(engines: Engines, path: Path, *, call_tokens: int = CALL_TOKENS) -> SglangCollector:
    digest = checkpoint_digest(open_checkpoint(path))
    model = ScoredModel(path.name, str(path), path, digest, is_mxfp4=True)
    return SglangCollector(engines, model, call_tokens=call_tokens)


def transformers_collector(
    loaded: LoadedModel, path: Path, device: str, dtype: str, *, batch_size: int = 16, dequantize: bool = True
) -> TransformersCollector:
    settings = default_settings(device=device, dtype=dtype, dequantize=dequantize)
    digest = checkpoint_digest(open_checkpoint(path))
    return TransformersCollector(loaded, path, digest, settings, batch_size=batch_size)


def collected(collector: Collector, blocks: Blocks) -> Collection:
    stats = concatenate([stats for _, stats in collector.batches(blocks, 0)])
    check_stats(stats, blocks.num_scored, where="benchmark")
    return make_collection(stats, blocks, {})


# Parity


def parity(results: Results, given: argparse.Namespace) -> None:
    inputs = [(FIXTURE / "checkpoint", FIXTURE / "packs" / "gate", 512, 64)]
    if given.model is not None:
        inputs.append((given.model, given.packs, 1024, 64))
    for path, packs, seq_len, num_blocks in inputs:
        blocks = union_blocks(path, packs, seq_len, num_blocks)
        transformers = partial(transformers_collector, LoadedModel(), path)
        far = {}
        with engines_of(given, memory_fraction=0.3) as engines:
            engine = sglang_collector(engines, path)
            collectors: dict[str, Collector] = {
                "cuda float32": transformers("cuda", "float32"),
                "cuda bfloat16": transformers("cuda", "bfloat16"),
                "sglang": engine,
                "sglang again": engine,
                "sglang, other batches": sglang_collector(engines, path, call_tokens=1 << 12),
                **({"cuda MXFP4": transformers("cuda", "bfloat16", dequantize=False)} if given.sglang_kernels else {}),
            }
            reference = collected(transformers("cpu", "float32", batch_size=4), blocks)
            for name, collector in collectors.items():
                if name == "cuda MXFP4":
                    use_sglang_kernels()
                far[name] = compare(results, f"{path.name} {name}", reference, collected(collector, blocks))
        for name in list(far)[2:]:
            require(
                far[name] <= ROUNDING_FACTOR * far["cuda bfloat16"],
                f"{path.name}: {name} is further from float32 than rounding to bfloat16 explains",
            )


def union_blocks(path: Path, packs: Path, seq_len: int, num_blocks: int) -> Blocks:
    tokenizer = load_tokenizer(path)
    union = named_packs(packs, seed=3407)[UNION]
    return build_blocks(union, tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=seq_len, num_blocks=num_blocks)


def fixture_blocks() -> Blocks:
    return union_blocks(FIXTURE / "checkpoint", FIXTURE / "packs" / "gate", 512, 64)


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


def by_server(results: Results, given: argparse.Namespace) -> None:
    path, blocks = FIXTURE / "checkpoint", fixture_blocks()
    reference = collected(transformers_collector(LoadedModel(), path, "cpu", "float32", batch_size=4), blocks)
    with server(path, given) as url:
        found = collected(EndpointCollector(url, is_mxfp4=True, vocab_size=open_checkpoint(path).vocab_size), blocks)
    compare(results, f"{path.name} sglang server", reference, found)


@contextmanager
def server(path: Path, given: argparse.Namespace) -> Iterator[str]:
    """An SGLang server of the checkpoint at `path`."""
    skipped = ("tp_size", "dp_size", "random_seed")
    flags = []
    for key, value in EngineOptions(memory_fraction=0.3).arguments().items():
        if key not in skipped:
            flags += [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
    environment = {key: value for key, value in os.environ.items() if key != "SGLANG_EXTERNAL_MODEL_PACKAGE"}
    command = [*shlex.split(given.server_command), "--model-path", str(path), "--port", str(PORT), *flags]
    with (given.work / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        url = None
        for _ in range(120):
            time.sleep(1)
            require(process.poll() is None, f"the server ended: {given.work / 'server.log'}")
            with suppress(UserError):
                url = endpoint_for([f"http://127.0.0.1:{PORT}"], path, str(path))
                break
        require(url is not None, "the server did not start in 120 s")
        yield str(url)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def record(results: Results, given: argparse.Namespace) -> None:
    """What an engine answers for the first tokens of two blocks of the fixture, as a server would send it."""
    import sglang

    ids = fixture_blocks().token_ids_BS[:2, :RECORDED_TOKENS].tolist()
    arguments = EngineOptions(memory_fraction=0.3).arguments()
    engine = sglang.Engine(model_path=str(FIXTURE / "checkpoint"), **arguments)
    answers = engine.generate(
        input_ids=ids, sampling_params={"temperature": 0, "max_new_tokens": 0}, return_logprob=True,
        logprob_start_len=0, top_logprobs_num=20,
    )  # fmt: skip
    kept = {"sglang": sglang.__version__, "device": torch.cuda.get_device_name(), "arguments": arguments,
            "input_ids": ids, "answers": answers}  # fmt: skip
    given.record.parent.mkdir(parents=True, exist_ok=True)
    given.record.write_text(json.dumps(kept, separators=(",", ":")), encoding="utf-8")
    results.add("record", str(given.record), bytes=given.record.stat().st_size)
    engine.shutdown()  # last: it was seen to take this process along


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
    everything = replace(shapes[1], scored_BS=np.arange(2048) > np.zeros((given.blocks, 1), int))
    own = engine_alone(results, path, shapes)
    with engines_of(given) as engines:
        collector = sglang_collector(engines, path)
        started = time.perf_counter()
        collected(collector, shapes[1].reordered(np.arange(4)))
        results.add("speed", "boot of the collector's engine", seconds=time.perf_counter() - started)
        for blocks, name in (*((blocks, f"{blocks.seq_len}") for blocks in shapes), (everything, "2048, all counted")):
            tokens = blocks.num_blocks * blocks.seq_len
            rate = tokens / timed(partial(collected, collector, blocks))
            ratio, counted = rate / own[blocks.seq_len], blocks.num_scored / tokens
            results.add("speed", f"sglang {name}", tokens_per_second=rate, ratio_to_k0=ratio, counted=counted)
    model = transformers_collector(LoadedModel(), path, "cuda", "bfloat16", batch_size=8)
    for blocks in shapes:
        part = blocks.reordered(np.arange(blocks.num_blocks // 4))
        rate = part.num_blocks * part.seq_len / timed(partial(collected, model, part))
        results.add(
            "speed", f"transformers {blocks.seq_len}", tokens_per_second=rate, ratio_to_k0=rate / own[blocks.seq_len]
        )


def engine_alone(results: Results, path: Path, shapes: list[Blocks]) -> dict[int, float]:
    """Tokens/s of the engine's own interface with k = 0, by seq_len; k = 20, and what turning its lists into arrays
    takes, for the record."""
    import sglang

    vocab_size = open_checkpoint(path).vocab_size
    engine = sglang.Engine(model_path=str(path), **EngineOptions().arguments())
    rates = {}
    for blocks in shapes:
        ids, tokens = blocks.token_ids_BS.tolist(), blocks.num_blocks * blocks.seq_len

        def ask(top_k: int, ids: list[list[int]] = ids) -> Any:
            return engine.generate(
                input_ids=ids, sampling_params={"temperature": 0, "max_new_tokens": 0}, return_logprob=True,
                logprob_start_len=0, top_logprobs_num=top_k,
            )  # fmt: skip

        rates[blocks.seq_len] = tokens / timed(partial(ask, 0))
        results.add("speed", f"engine k=0 {blocks.seq_len}", tokens_per_second=rates[blocks.seq_len])
        answers: list[Any] = []

        def keep(answers: list[Any] = answers, ask: Callable[[int], Any] = ask) -> None:
            answers.append(ask(20))

        seconds = timed(keep, repeats=1)
        of_blocks = json.loads(json.dumps(answers[-1]))  # as a server sends them
        started = time.perf_counter()
        for answer, ids_S, scored_S in zip(of_blocks, blocks.token_ids_BS, blocks.scored_BS, strict=True):
            stats_of_answer(answer, ids_S, scored_S, vocab_size=vocab_size, where="benchmark")
        arrays = time.perf_counter() - started
        results.add("speed", f"engine k=20 {blocks.seq_len}", tokens_per_second=tokens / seconds, arrays_seconds=arrays)
    engine.shutdown()
    return rates


def classes(results: Results, given: argparse.Namespace) -> None:
    """Headers and closing tokens besides content: the 20B shape, with the roles of tool_agentic's tokens."""
    path, tokenizer = generated(given), load_tokenizer(FIXTURE / "checkpoint")
    pack = named_packs(FIXTURE / "packs" / "gate", seed=3407)["tool_agentic"]
    shape = {"eos_id": tokenizer.eos_id, "seq_len": 1024, "num_blocks": given.blocks}
    real = build_blocks(pack, tokenizer.backend, **shape)
    ids_BS = np.random.default_rng(0).integers(201_088, size=real.token_ids_BS.shape, dtype=np.int32)
    scored = replace(real, token_ids_BS=ids_BS)
    content = scored.scoring_content()
    tokens = real.token_ids_BS.size

    def compare_speed(name: str, collector: Collector) -> None:
        # In turns, because a GPU's clock drifts by more than what is looked for.
        seconds = [[timed(partial(collected, collector, b), repeats=1) for b in (content, scored)] for _ in range(3)]
        alone, both = np.median(seconds, axis=0)
        results.add(
            "classes", name, content=content.num_scored / tokens, scored=scored.num_scored / tokens,
            tokens_per_second_content=tokens / alone, tokens_per_second=tokens / both, slower=both / alone - 1,
        )  # fmt: skip

    with engines_of(given) as engines:
        compare_speed("sglang 1024", sglang_collector(engines, path))
    compare_speed("transformers 1024", transformers_collector(LoadedModel(), path, "cuda", "bfloat16", batch_size=8))


# Long blocks


def long(results: Results, given: argparse.Namespace) -> None:
    """One block of the longest context, 30 % counted, through both collectors on this GPU."""
    path = generated(given)
    blocks = random_blocks(201_088, 1, LONGEST)
    loaded = LoadedModel()
    model = transformers_collector(loaded, path, "cuda", "bfloat16", batch_size=1)
    collected(model, random_blocks(201_088, 1, 2048))
    torch.cuda.reset_peak_memory_stats()
    seconds = timed(lambda: collected(model, blocks), repeats=1)
    peak = torch.cuda.max_memory_allocated() / 2**30
    results.add("long", f"transformers {LONGEST}", tokens_per_second=LONGEST / seconds, peak_gib=peak)
    loaded.unload()
    with engines_of(given) as engines:
        collector = sglang_collector(engines, path)
        seconds = timed(lambda: collected(collector, blocks), repeats=1)
    results.add("long", f"sglang {LONGEST}", tokens_per_second=LONGEST / seconds)


# 120B


def large(results: Results, given: argparse.Namespace) -> None:
    """36 layers of 128 experts, 61 GiB: one GPU holds it barely, two do."""
    gpus = torch.cuda.device_count()
    path = given.work / "120b"
    if not path.exists():
        generate(path, layers=LAYERS["120b"], experts=EXPERTS["120b"])
    base = open_checkpoint(path)
    blocks = random_blocks(201_088, given.blocks // 2, 2048)
    for keep_n in given.keep:
        if keep_n < 128:
            path = given.work / f"120b-keep{keep_n}"
            shutil.rmtree(path, ignore_errors=True)  # of a run that did not end
            started = time.perf_counter()
            prune_checkpoint(base, checkpoint_digest(base), None, PruneRequest(keep_n=keep_n, method="random"), path)
            results.add("large", f"digest of the base, rewrite to keep {keep_n}", seconds=time.perf_counter() - started)
        started = time.perf_counter()
        digest = checkpoint_digest(open_checkpoint(path))
        hashed = time.perf_counter() - started
        with engines_of(given, tp=gpus, memory_fraction=0.6 if gpus > 1 else 0.9) as engines:
            collector = SglangCollector(engines, ScoredModel(path.name, str(path), path, digest, is_mxfp4=True))
            started = time.perf_counter()
            collected(collector, blocks.reordered(np.arange(4)))
            boot = time.perf_counter() - started
            results.add("large", f"keep {keep_n}: boot, tp = {gpus}", seconds=boot, hashed=hashed)
            rate = blocks.num_blocks * 2048 / timed(partial(collected, collector, blocks))
            results.add("large", f"keep {keep_n}: sglang 2048, tp = {gpus}", tokens_per_second=rate)


# Decode


def decode(results: Results, given: argparse.Namespace) -> None:
    base = open_checkpoint(generated(given))
    digest = checkpoint_digest(base)
    for keep_n in (32, 24, 20):
        path = base.path
        if keep_n < 32:
            path = given.work / f"20b-keep{keep_n}"
            if not path.exists():
                prune_checkpoint(base, digest, None, PruneRequest(keep_n=keep_n, method="random"), path)
        before = _decoded(results.out, keep_n)
        # A process of its own: an engine's shutdown was seen to take its process along.
        process = get_context("spawn").Process(target=decode_rates, args=(results.out, path, keep_n))
        process.start()
        process.join()
        measured = _decoded(results.out, keep_n) - before
        require(measured == len(DECODE_BATCHES), f"keep {keep_n} did not decode: code {process.exitcode}")
        if keep_n < 32:
            shutil.rmtree(path)


def _decoded(out: Path, keep_n: int) -> int:
    """Lines in the file; those of earlier runs are among them."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    return sum(json.loads(line)["name"].startswith(f"keep {keep_n} batch") for line in lines)


def decode_rates(out: Path, path: Path, keep_n: int) -> None:
    import sglang

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

        def ask(tokens: int, prompts: list[list[int]] = prompts) -> float:
            parameters = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
            started = time.perf_counter()
            engine.generate(input_ids=prompts, sampling_params=parameters)
            return time.perf_counter() - started

        ask(8)
        # The difference of two lengths leaves out the prefill.
        rate = median(batch * 192 / (ask(256) - ask(64)) for _ in range(3))
        Results(out).add("decode", f"keep {keep_n} batch {batch}", tokens_per_second=rate)
    engine.shutdown()


SECTIONS: dict[str, Callable[[Results, argparse.Namespace], None]] = {
    "parity": parity,
    "record": record,
    "server": by_server,
    "speed": speed,
    "classes": classes,
    "long": long,
    "decode": decode,
    "large": large,
}


if __name__ == "__main__":
    main()
