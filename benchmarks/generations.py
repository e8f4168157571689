"""Turns written by each writer, held against each other, with tokens per second beside the engine's own.

    PYTHONPATH=.:tests python benchmarks/generations.py --work DIR --out results.jsonl [--sections transformers sglang]
        [--model DIR --packs DIR] [--turns 64] [--device cpu]

For the fixture, and for --model on --packs: `--turns` turns of every pack by transformers in float32 (what the others
are held against) and in bfloat16, by SGLang as an engine of ours, and by a server of ours over HTTP. Where two texts
part, the float32 model says how far apart their next tokens are in log-probability: at most TIE nats is a tie, which
rounding decides. engine: the same prompts, a call a pack, to sglang.Engine in a process of its own: its own speed.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["SGLANG_EXTERNAL_MODEL_PACKAGE"] = "eaftgate.collect.sglang.models"  # before sglang is imported
os.environ["SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"] = "1"  # as eaftgate.collect.sglang.worker has it

import torch

from benchmarks.h200 import Results
from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.collect.collector import ScoredModel
from eaftgate.collect.servers.endpoint import EndpointCollector
from eaftgate.collect.servers.sglang import sampling
from eaftgate.collect.servers.writer import EndpointWriter
from eaftgate.collect.sglang.collector import EngineOptions, Engines, model_arguments
from eaftgate.collect.sglang.writer import PLACES
from eaftgate.collect.token_stats import linear_logits
from eaftgate.collect.transformers import LoadedModel, TransformersWriter
from eaftgate.collect.writer import Writer
from eaftgate.families.model import MoeModel
from eaftgate.generate.store import GenerationStore, Request
from eaftgate.model.load import default_settings
from eaftgate.packs.pack import read_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.packs.turns import ChosenTurns, Ending, choose_turns

FIXTURE = Path(__file__).parent.parent / "fixtures"
TIE = 0.1
"""Nats: bfloat16 moves a token's log-probability by 0.01 to 0.02 on average, and by 0.2 at most."""
SEED = 3407

Texts = dict[str, list[tuple[int, ...]]]
"""By pack: what was written for each turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sections", nargs="+", default=list(WRITERS), choices=list(WRITERS))
    parser.add_argument("--model", type=Path, help="a trained checkpoint besides the fixture, with --packs")
    parser.add_argument("--packs", type=Path)
    parser.add_argument("--turns", type=int, default=64, help="of every pack")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--server-command", default=f"{sys.executable} -m sglang.launch_server")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    results = Results(given.out)
    inputs = [(FIXTURE / "checkpoint", FIXTURE / "packs" / "gate")]
    if given.model is not None:
        inputs.append((given.model, given.packs))
    for path, packs in inputs:
        results.section(path.name, partial(compare, results, given, path, packs))
    raise SystemExit(1 if results.failed else 0)


def compare(results: Results, given: argparse.Namespace, path: Path, packs: Path) -> None:
    tokenizer = load_tokenizer(path)
    chosen = [
        choose_turns(pack, tokenizer, count=given.turns, seed=SEED, max_tokens=given.max_tokens, context=None)
        for pack in read_packs(packs)
    ]
    loaded = LoadedModel()
    reference = by_transformers(path, given.device, "float32", loaded)
    expected = written(results, given, f"{path.name} float32", path, chosen, reference)
    found: dict[str, Texts] = {}
    for name in given.sections:
        results.section(name, lambda name=name: found.update(WRITERS[name](results, given, path, chosen)))  # type: ignore[misc]
    model = loaded.get(path, digest_of(path), default_settings(device=given.device, dtype="float32", dequantize=True))
    for name, texts in found.items():
        count_differences(results, f"{path.name} {name}", model, chosen, expected, texts)


def digest_of(path: Path) -> str:
    return checkpoint_digest(open_checkpoint(path))


def scored(path: Path) -> ScoredModel:
    return ScoredModel(path.name, str(path), path, digest_of(path), is_mxfp4=True)


def by_transformers(path: Path, device: str, dtype: str, loaded: LoadedModel) -> TransformersWriter:
    settings = default_settings(device=device, dtype=dtype, dequantize=True)
    return TransformersWriter(loaded, path, digest_of(path), settings)


def written(
    results: Results, given: argparse.Namespace, name: str, path: Path, chosen: Sequence[ChosenTurns], writer: Writer
) -> Texts:
    """Every turn, by way of a store as a gate has it; and a row with the speed, without the first pack, which boots."""
    ending, vocab_size = Ending(load_tokenizer(path)), open_checkpoint(path).vocab_size
    texts, seconds, tokens = {}, 0.0, 0
    store = GenerationStore(given.work / "generations")
    for place, turns in enumerate(chosen):
        request = Request(digest_of(path), turns, writer, ending, given.max_tokens, vocab_size)
        found = store.get(request)
        texts[turns.pack] = [turn.tokens for turn in found.written]
        if place or len(chosen) == 1:
            seconds, tokens = seconds + found.seconds, tokens + found.seconds_tokens
        results.add(
            "written", f"{name} {turns.pack}", turns=len(found), ended=sum(turn.ended for turn in found.written),
            tokens=sum(len(turn.tokens) for turn in found.written), seconds=found.seconds,
        )  # fmt: skip
    results.add("speed", name, tokens_per_second=tokens / max(seconds, 1e-9))
    return texts


def of_transformers(results: Results, given: argparse.Namespace, path: Path, chosen: Sequence[ChosenTurns]) -> Any:
    loaded = LoadedModel()
    writer = by_transformers(path, given.device, "bfloat16", loaded)
    found = {"bfloat16": written(results, given, f"{path.name} bfloat16", path, chosen, writer)}
    loaded.unload()
    return found


def of_engine(results: Results, given: argparse.Namespace, path: Path, chosen: Sequence[ChosenTurns]) -> Any:
    with closing(Engines(EngineOptions(memory_fraction=0.3), given.work)) as engines:
        writer = engines.writer(scored(path))
        return {"sglang": written(results, given, f"{path.name} sglang", path, chosen, writer)}


def of_server(results: Results, given: argparse.Namespace, path: Path, chosen: Sequence[ChosenTurns]) -> Any:
    from benchmarks.h200_sglang import server

    with server(path, given) as url:
        collector = EndpointCollector(url, is_mxfp4=True, vocab_size=open_checkpoint(path).vocab_size)
        writer = EndpointWriter(collector)
        return {"server": written(results, given, f"{path.name} server", path, chosen, writer)}


def alone(results: Results, given: argparse.Namespace, path: Path, chosen: Sequence[ChosenTurns]) -> Any:
    # A process of its own: an engine's shutdown was seen to take its process along.
    process = get_context("spawn").Process(target=engine_alone, args=(results.out, given, path, chosen))
    process.start()
    process.join()
    return {}


def engine_alone(out: Path, given: argparse.Namespace, path: Path, chosen: Sequence[ChosenTurns]) -> None:
    """A call a pack, as a gate makes them; the first pack is not counted, as in `written`. It stops at the same tokens,
    and goes on after none."""
    import sglang

    arguments = EngineOptions(memory_fraction=0.3).writing_arguments(PLACES) | model_arguments(path)
    engine = sglang.Engine(model_path=str(path), **arguments)
    parameters = sampling(Ending(load_tokenizer(path)), given.max_tokens)
    first, *others = [[ids.tolist() for ids in turns.prompts] for turns in chosen]
    engine.generate(input_ids=first, sampling_params=parameters)
    started = time.perf_counter()
    answers = [
        answer
        for prompts in others or [first]
        for answer in engine.generate(input_ids=prompts, sampling_params=parameters)
    ]
    seconds = time.perf_counter() - started
    tokens = sum(len(answer["output_ids"]) for answer in answers)
    Results(out).add("speed", f"{path.name} engine alone", tokens_per_second=tokens / seconds, turns=len(answers))
    engine.shutdown()


def count_differences(
    results: Results, name: str, model: MoeModel, chosen: Sequence[ChosenTurns], expected: Texts, found: Texts
) -> None:
    """Turns whose texts part, and how far apart the tokens lie where they do."""
    gaps: list[float] = []
    turns = 0
    for pack in chosen:
        for prompt, one, other in zip(pack.prompts, expected[pack.pack], found[pack.pack], strict=True):
            turns += 1
            if one != other:
                gaps.append(gap_where_they_part(model, prompt.tolist(), one, other))
    ties = sum(abs(gap) <= TIE for gap in gaps)
    results.add(
        "differences", name, turns=turns, differ=len(gaps), ties=ties, others=len(gaps) - ties,
        largest_gap=max(map(abs, gaps), default=0.0),
    )  # fmt: skip


@torch.inference_mode()
def gap_where_they_part(model: MoeModel, prompt: list[int], one: Sequence[int], other: Sequence[int]) -> float:
    """log p(one's token) - log p(other's), under the model, after what both have in common."""
    place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if place is None:
        return float("inf")  # one stops where the other goes on
    ids_1S = torch.tensor([[*prompt, *one[:place]]], device=model.device)
    logits_V = linear_logits(model.head_VD)(model.hidden_states(ids_1S)[:, -1])[0]
    return float(logits_V[one[place]] - logits_V[other[place]])


Section = Callable[[Results, argparse.Namespace, Path, Sequence[ChosenTurns]], dict[str, Texts]]
WRITERS: dict[str, Section] = {
    "transformers": of_transformers,
    "sglang": of_engine,
    "server": of_server,
    "engine": alone,
}

if __name__ == "__main__":
    main()
