"""Profiling by the whole model and one layer at a time, beside each other: seconds, memory, and whether they agree.

    python benchmarks/profile_stream.py --work DIR                        # both ways, the 20B shape, random weights
    python benchmarks/profile_stream.py --work DIR --only streamed        # where the whole does not fit
    python benchmarks/profile_stream.py --work DIR --card-gb 24           # streamed as on a card of 24 GB

One checkpoint and the same random blocks for both; prints one JSON object. The checkpoint is made in DIR where it is
not there yet (14 GB, 20B), and read once before anything is measured. Needs no packs and no network.

Shapes: B blocks of a batch, S positions a block.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import transformers

from benchmarks.generate_checkpoint import EXPERTS, INDEX_FILE, LAYERS, generate
from benchmarks.watched import smaller_card
from eaftgate.checkpoint.checkpoint import Checkpoint, open_checkpoint
from eaftgate.model.load import DTYPES, ModelSettings, load_model
from eaftgate.model.stream import StreamedModel
from eaftgate.packs.blocks import BoolArray, IntArray
from eaftgate.profile.observe import Observation, observe_batch
from eaftgate.profile.streamed import group_tokens, observe_streamed

Batches = list[tuple[IntArray, BoolArray]]
_Way = Callable[[], tuple[list[Observation], dict[str, Any]]]
ROUTING = ("expert_XLK", "gate_XLK", "norm_XLK", "predicting_T", "own_T")
STATS = ("logprob_T", "entropy_T")
GROUP_SECONDS = 30.0
"""As in `eaftgate.profile.profiler`."""


def main() -> None:
    options = _options()
    path = options.work / f"checkpoint-{options.shape}-{options.layers or LAYERS[options.shape]}"
    if not (path / INDEX_FILE).exists():
        _say("generating the checkpoint")
        generate(path, layers=options.layers or LAYERS[options.shape], experts=EXPERTS[options.shape])
    base = open_checkpoint(path)
    _say("reading it once")
    for shard in base.shards:
        _read_through(shard)
    settings = ModelSettings(options.device, options.dtype, dequantize=True)
    batches = _random_batches(base, options)
    tokens = sum(ids_BS.size for ids_BS, _ in batches)
    found: dict[str, Any] = {
        "device": settings.describe()["device"],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "checkpoint_bytes": base.nbytes,
        "dtype": options.dtype,
        "blocks": options.blocks,
        "seq_len": options.seq_len,
        "batch_size": options.batch_size,
        "tokens": tokens,
        "scored": sum(int(scored_BS.sum()) for _, scored_BS in batches),
    }
    observed: dict[str, list[Observation]] = {}
    ways: dict[str, _Way] = {
        "streamed": lambda: _on_smaller_card(options.card_gb, lambda: _streamed(base, settings, batches)),
        "whole": lambda: _whole(base, settings, batches),
    }
    for way in [options.only] if options.only else ways:
        observed[way], found[way] = _measured(ways[way], settings, tokens)
        _say(f"{way}: {json.dumps(found[way])}")
    if len(observed) == 2:
        found["differences"] = _differences(observed["streamed"], observed["whole"])
        found["equal"] = not found["differences"]
    text = json.dumps(found, indent=2)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--work", type=Path, required=True, help="directory for the checkpoint")
    add("--out", type=Path, help="file for the JSON, too")
    add("--only", choices=["streamed", "whole"], help="measure one way alone")
    add("--shape", choices=LAYERS, default="20b")
    add("--layers", type=int, help="another number of layers than the shape's")
    add("--device", default="cuda")
    add("--dtype", choices=DTYPES, default="bfloat16")
    add("--blocks", type=int, default=112, help="112 of 2048 are 229,376 tokens")
    add("--seq-len", type=int, default=2048)
    add("--batch-size", type=int, default=4)
    add("--card-gb", type=float, help="so much of the GPU is free while it streams")
    add("--scored", type=float, default=0.3, help="share of the tokens that count")
    return parser.parse_args()


def _random_batches(base: Checkpoint, options: argparse.Namespace) -> Batches:
    rng = np.random.default_rng(0)
    shape = (options.blocks, options.seq_len)
    ids = rng.integers(0, base.vocab_size, shape, dtype=np.int32)
    scored = rng.random(shape) < options.scored
    scored[:, 0] = False
    starts = range(0, options.blocks, options.batch_size)
    return [(ids[start : start + options.batch_size], scored[start : start + options.batch_size]) for start in starts]


def _whole(base: Checkpoint, settings: ModelSettings, batches: Batches) -> tuple[list[Observation], dict[str, Any]]:
    started = time.perf_counter()
    model = load_model(base.path, settings)
    _synchronise(settings)
    loaded = time.perf_counter()
    observed = [observe_batch(model, *batch) for batch in batches]
    return observed, {"load_seconds": loaded - started, "run_seconds": time.perf_counter() - loaded}


def _streamed(base: Checkpoint, settings: ModelSettings, batches: Batches) -> tuple[list[Observation], dict[str, Any]]:
    model, observed, groups = StreamedModel(base, settings), list[Observation](), list[int]()
    most = max(1, group_tokens(base, settings) // batches[0][0].size)
    while len(observed) < len(batches):
        left = batches[len(observed) : len(observed) + most]
        of_group = observe_streamed(model, left, lambda _: None, seconds=GROUP_SECONDS)
        groups.append(len(of_group))
        observed += of_group
    return observed, {"groups": groups}


def _on_smaller_card(size_gb: float | None, way: _Way) -> tuple[list[Observation], dict[str, Any]]:
    with smaller_card(None if size_gb is None else int(size_gb * 1e9)):
        return way()


def _measured(way: _Way, settings: ModelSettings, tokens: int) -> tuple[list[Observation], dict[str, Any]]:
    on_gpu = torch.device(settings.device).type == "cuda"
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(settings.device)
    _reset_peak()
    started = time.perf_counter()
    observed, told = way()
    _synchronise(settings)
    seconds = time.perf_counter() - started
    told |= {"seconds": seconds, "tokens_per_second": tokens / seconds, "host_peak_bytes": _peak()}
    if on_gpu:
        told["device_peak_bytes"] = torch.cuda.max_memory_allocated(settings.device)
        told["device_peak_reserved_bytes"] = torch.cuda.max_memory_reserved(settings.device)
    gc.collect()
    return observed, told


def _differences(ours: list[Observation], theirs: list[Observation]) -> dict[str, Any]:
    """Of every column that is not the same bit for bit: how many values, the largest difference, both as they are."""
    found: dict[str, Any] = {}
    for name in (*ROUTING, *STATS):
        a, b = (
            np.concatenate([getattr(o if name in ROUTING else o.stats, name) for o in observed])
            for observed in (ours, theirs)
        )
        if a.tobytes() != b.tobytes():
            apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
            found[name] = {"values": int((apart > 0).sum()), "of": int(apart.size), "largest": float(apart.max())}
    return found


def _synchronise(settings: ModelSettings) -> None:
    if torch.device(settings.device).type == "cuda":
        torch.cuda.synchronize(settings.device)


def _read_through(path: Path) -> None:
    with path.open("rb") as stream:
        while stream.read(1 << 24):
            pass


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: the process's peak is counted anew


def _peak() -> int:
    """Of the process's memory, pages of files that are mapped into it among them."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
