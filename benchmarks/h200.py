"""Everything that is measured on a large GPU, in one run that needs no pytest and no packs.

    PYTHONPATH=.:tests python benchmarks/h200.py --work DIR --out results.jsonl

Sections, in this order: generate, rewrite, load, correctness, speed. A section that fails says why in one line, the
others go on, and the exit code is 1. Token ids are random, and so is which of them count.

Shapes: B blocks, S positions a block, T tokens, D hidden size, V vocabulary, K alternatives.
"""

import argparse
import copy
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from content import content_blocks
from torch import Tensor

from benchmarks.alternation import Rounds, Step, alternate, seconds
from benchmarks.generate_checkpoint import EXPERTS, INDEX_FILE, LAYERS, generate
from benchmarks.scoring import Model, attention, bare_forward, experts, loaded, logprobs, masked_forward
from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.collect.collection import TOP_K
from eaftgate.collect.token_stats import token_stats
from eaftgate.collect.transformers import score
from eaftgate.families.gpt_oss_model import expert_modules
from eaftgate.model.attention import sink_attention
from eaftgate.model.load import DTYPES, ModelSettings
from eaftgate.packs.blocks import Blocks
from eaftgate.profile.observe import observe_batch

SLICE_LAYERS = 2
"""One sliding and one full layer: few enough that rounding does not change the experts picked further up."""
FLOAT32_LIMIT = 1e-4
"""Mean log-probability difference between two ways of computing the same thing in float32."""
ROUNDING_FACTOR = 2.0
"""In half precision, how much further from float32 than transformers' own way is still rounding."""
KERNEL_LIMIT = 0.1
"""Largest error of an attention output whose values have unit variance; a key too many or too few makes it 1."""
STATS_LIMIT = 1e-3
COUNTED_RUN, GAP_RUN = 60, 140
"""Mean lengths of counted and uncounted runs: 30 % count."""


@dataclass
class Results:
    """Rows are printed and appended to `out` as they come, so that nothing is lost to a time limit."""

    out: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, section: str, name: str, **figures: Any) -> None:
        row = {"section": section, "name": name, **figures}
        self.rows.append(row)
        with self.out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        print(_line(row), flush=True)

    def section(self, name: str, run: Callable[[], Any]) -> Any:
        """What `run` returns; None when it fails, and the section is then among the failed ones."""
        print(f"--- {name}", flush=True)
        started = time.perf_counter()
        try:
            result = run()
        except Exception as error:  # the other sections must still be measured
            reason = (str(error).strip().splitlines() or [""])[0]
            self.failed.append(name)
            self.add(name, "FAILED", error=f"{type(error).__name__}: {reason[:300]}")
            return None
        print(f"    {name} took {time.perf_counter() - started:.1f} s", flush=True)
        return result


def _line(row: dict[str, Any]) -> str:
    figures = "  ".join(f"{key} {_shown(value)}" for key, value in row.items() if key not in ("section", "name"))
    return f"{row['section']:<12} {row['name']:<34} {figures}"


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


def main() -> None:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    results = Results(options.out)
    on_gpu = torch.device(options.device).type == "cuda"
    results.add(
        "environment",
        torch.cuda.get_device_name(options.device) if on_gpu else "cpu",
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
    )
    path = options.model or results.section("generate", partial(generated, results, options))
    if path is not None and "rewrite" in options.sections:
        results.section("rewrite", partial(measure_rewrite, results, options, path))
    if path is not None and {"correctness", "speed"} & set(options.sections):
        model = results.section("load", partial(loading, results, options, path))
        if model is not None and "correctness" in options.sections:
            for name, check in CHECKS.items():
                results.section(f"correctness: {name}", partial(check, results, model))
        if model is not None and "speed" in options.sections:
            for seq_len in options.seq_lens:
                for batch_size in options.batch_sizes:
                    run = partial(measure_speed, results, options, model, seq_len, batch_size)
                    results.section(f"speed: {batch_size} x {seq_len}", run)
    print("\n" + "\n".join(map(_line, results.rows)))
    print(f"\nfailed: {', '.join(results.failed) or 'nothing'}", flush=True)
    sys.exit(1 if results.failed else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure eaftgate on one large GPU.")
    add = parser.add_argument
    add("--work", type=Path, required=True, help="directory for checkpoints; 50 GB for the 20B shape")
    add("--out", type=Path, required=True, help="JSON lines are appended to this file")
    add("--model", type=Path, metavar="DIR", help="measure with this checkpoint instead of a generated one")
    add("--shape", choices=LAYERS, default="20b", help="what to generate (default: 20b)")
    add(
        "--sections",
        nargs="+",
        choices=["rewrite", "correctness", "speed"],
        default=["rewrite", "correctness", "speed"],
    )
    add("--device", default="cuda")
    add("--dtype", choices=DTYPES, default="bfloat16")
    add("--keep-n", type=int, nargs="+", default=[24, 20])
    add("--seq-lens", type=int, nargs="+", default=[1024, 2048])
    add("--batch-sizes", type=int, nargs="+", default=[1, 4, 8])
    add("--rounds", type=int, default=3)
    return parser.parse_args()


# ---------------------------------------------------------------------------------------------------------- checkpoint


def generated(results: Results, options: argparse.Namespace) -> Path:
    """The generated checkpoint in the working directory, made if it is not there."""
    path: Path = options.work / f"checkpoint-{options.shape}"
    if not (path / INDEX_FILE).exists():
        started = time.perf_counter()
        nbytes = generate(path, layers=LAYERS[options.shape], experts=EXPERTS[options.shape])
        taken = time.perf_counter() - started
        results.add("generate", options.shape, GB=nbytes / 1e9, seconds=taken)
    return path


def measure_rewrite(results: Results, options: argparse.Namespace, path: Path) -> None:
    """The rewrite against cp of exactly the kept bytes, both from the page cache; with and without waiting for disk."""
    from benchmarks import rewriting  # not at the top: it needs pydantic, and the other sections do not

    base = open_checkpoint(path)
    kept, out, copied = (options.work / name for name in ("kept", "out", "copied"))
    results.add(
        "rewrite",
        "page cache",
        read_s=seconds(lambda: rewriting.read_through(path)),
        reread_s=seconds(lambda: rewriting.read_through(path)),
    )
    for keep_n in options.keep_n:
        rewriting.settle(kept, out, copied)
        rewriting.rewrite(base, keep_n, kept)
        rewriting.read_through(kept)
        nbytes = rewriting.directory_bytes(kept)
        for flush in (True, False):
            copy_kept = partial(rewriting.copy_directory, kept, copied, flush=flush)

            def rewrite(flush: bool = flush, keep_n: int = keep_n) -> None:
                if flush:
                    rewriting.rewrite(base, keep_n, out)
                else:
                    with rewriting.no_flush():
                        rewriting.rewrite(base, keep_n, out)

            times = alternate(
                copy_kept, rewrite, rounds=options.rounds, warmup=0, before=lambda: rewriting.settle(out, copied)
            )
            rounds = Rounds(subject_s=times[1], reference_s=times[0])
            results.add(
                "rewrite",
                f"keep {keep_n}, {'fsync' if flush else 'no fsync'}",
                GB=nbytes / 1e9,
                rewrite_GB_s=nbytes / rounds.subject / 1e9,
                cp_GB_s=nbytes / rounds.reference / 1e9,
                ratio=rounds.relative_speed,
                target=0.5,
                met=rounds.relative_speed >= 0.5,
            )
        rewriting.settle(kept, out, copied)
        added = rewriting.peak_memory(path, out, keep_n) / 2**30
        results.add("rewrite", f"keep {keep_n}, memory", peak_GiB=added, target=1.0, met=added < 1.0)
        rewriting.settle(out)


def loading(results: Results, options: argparse.Namespace, path: Path) -> Model:
    started = time.perf_counter()
    model = loaded(path, ModelSettings(options.device, options.dtype, dequantize=True))
    taken = time.perf_counter() - started
    nbytes = sum(parameter.nbytes for parameter in model.module.parameters())
    results.add("load", f"dequantised {options.dtype}", seconds=taken, GB=nbytes / 1e9)
    return model


# --------------------------------------------------------------------------------------------------------- correctness


@contextmanager
def first_layers(model: Model, count: int) -> Iterator[None]:
    """The model has only its first layers while the context is open."""
    layers = model.module.model.layers
    model.module.model.layers = layers[:count]
    try:
        yield
    finally:
        model.module.model.layers = layers


def in_float32(module: Any) -> Any:
    return copy.deepcopy(module).to(dtype=torch.float32)


def random_ids(model: Model, batch_size: int, seq_len: int) -> Tensor:
    rng = torch.Generator().manual_seed(seq_len)
    return torch.randint(model.module.config.vocab_size, (batch_size, seq_len), generator=rng).to(model.device)


def difference(a: Tensor, b: Tensor) -> dict[str, float]:
    distance = (a.double() - b.double()).abs()
    return {"max": float(distance.max()), "mean": float(distance.mean())}


def dense_attention(query: Tensor, key: Tensor, value: Tensor, sink_H: Tensor, window: int | None) -> Tensor:
    """The definition, in the dtype given: causal softmax over keys and one sink. Returns [B, T, H, D]."""
    group, length = query.shape[1] // key.shape[1], query.shape[2]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    i_T = torch.arange(length, device=query.device)
    age_TT = i_T[:, None] - i_T[None, :]
    seen_TT = (age_TT >= 0) & (age_TT < (window or length))
    scores = (query @ key.transpose(2, 3) * query.shape[3] ** -0.5).masked_fill(~seen_TT, -torch.inf)
    sink = sink_H[None, :, None, None].expand(*scores.shape[:3], 1)
    weights = torch.cat([scores, sink], dim=3).softmax(dim=3)[..., :-1]
    return (weights @ value).transpose(1, 2)


@torch.inference_mode()
def check_attention_kernel(results: Results, model: Model) -> None:
    """Peaked random scores, so that a key too many or too few at a window's edge shows."""
    config = model.module.config
    rng = torch.Generator(device=model.device).manual_seed(0)
    for dtype in sorted({model.module.dtype, torch.float32}, key=str):
        for length in (100, 1000, 2048):
            for window in (None, config.sliding_window):
                heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
                query, key, value = (
                    torch.randn(2, n, length, config.head_dim, generator=rng, device=model.device).to(dtype)
                    for n in heads
                )
                query = query * 4
                sink_H = torch.randn(heads[0], generator=rng, device=model.device).to(dtype)
                shape = {"scaling": config.head_dim**-0.5, "sliding_window": window}
                ours, _ = sink_attention(model.module, query, key, value, None, s_aux=sink_H, **shape)
                exact = dense_attention(query.float(), key.float(), value.float(), sink_H.float(), window)
                error = difference(ours, exact)
                name = f"attention {str(dtype)[6:]} {length} {'sliding' if window else 'full'}"
                results.add("correctness", name, **error)
                require(error["max"] < KERNEL_LIMIT, f"{name} is off by {error['max']:.3g}")


def check_attention(results: Results, model: Model) -> None:
    """Log-probabilities of a two-layer slice with this package's attention and with transformers' eager one."""
    with first_layers(model, SLICE_LAYERS):
        exact = Model(in_float32(model.module))
        for seq_len in (100, 1000, 2048):
            ids_BS = random_ids(model, 2, seq_len)
            sink, sink32 = (logprobs(m, bare_forward(m, ids_BS), ids_BS) for m in (model, exact))
            with attention(model, "eager"), attention(exact, "eager"):
                eager, eager32 = (logprobs(m, masked_forward(m, ids_BS), ids_BS) for m in (model, exact))
            _compare(results, f"attention, slice, {seq_len}", sink, eager, sink32, eager32)


def check_experts(results: Results, model: Model) -> None:
    """Log-probabilities of a two-layer slice with this package's experts dispatch and with transformers' loop."""
    with first_layers(model, SLICE_LAYERS):
        exact = Model(in_float32(model.module))
        ids_BS = random_ids(model, 2, 1000)
        ours, ours32 = (logprobs(m, bare_forward(m, ids_BS), ids_BS) for m in (model, exact))
        with experts(model, "eager"), experts(exact, "eager"):
            eager, eager32 = (logprobs(m, bare_forward(m, ids_BS), ids_BS) for m in (model, exact))
        _compare(results, "experts, slice, 1000", ours, eager, ours32, eager32)


def _compare(results: Results, name: str, ours: Tensor, eager: Tensor, ours32: Tensor, eager32: Tensor) -> None:
    """Ours against eager in the model's dtype and in float32, and how far each is from float32."""
    rows = {
        "ours - eager": difference(ours, eager),
        "float32: ours - eager": difference(ours32, eager32),
        "ours - eager float32": difference(ours, eager32),
        "eager - eager float32": difference(eager, eager32),
    }
    for pair, figures in rows.items():
        results.add("correctness", f"{name}: {pair}", **figures)
    float32 = rows["float32: ours - eager"]["mean"]
    require(float32 < FLOAT32_LIMIT, f"{name}: in float32 the mean difference is {float32:.3g}")
    mine, rounding = rows["ours - eager float32"]["mean"], rows["eager - eager float32"]["mean"]
    limit = ROUNDING_FACTOR * rounding + FLOAT32_LIMIT
    require(mine < limit, f"{name}: {mine:.3g} from float32 on average, where eager is {rounding:.3g}")


@torch.inference_mode()
def check_experts_alone(results: Results, model: Model) -> None:
    """One layer's experts with the same experts and gates for all: no routing can differ."""
    module = expert_modules(model.module)[0]
    router = model.module.model.layers[0].mlp.router
    rng = torch.Generator(device=model.device).manual_seed(0)
    hidden_size, dtype = model.module.config.hidden_size, model.module.dtype
    hidden_TD = torch.randn(1000, hidden_size, generator=rng, device=model.device).to(dtype)
    _, gate_TK, expert_ids_TK = router(hidden_TD)
    ours = module(hidden_TD, expert_ids_TK, gate_TK)
    with experts(model, "eager"):
        eager = module(hidden_TD, expert_ids_TK, gate_TK)
        exact_module = in_float32(module)
        exact = exact_module(hidden_TD.float(), expert_ids_TK, gate_TK.float())
    scale = exact.double().norm()
    error, rounding = (float((x.double() - exact.double()).norm() / scale) for x in (ours, eager))
    results.add("correctness", "experts, one layer, relative", ours=error, eager=rounding)
    require(error < ROUNDING_FACTOR * rounding + 1e-5, f"experts are off by {error:.3g}, eager by {rounding:.3g}")


@torch.inference_mode()
def check_token_stats(results: Results, model: Model) -> None:
    """256 tokens of the whole model, against the definitions in float64."""
    ids_BS = random_ids(model, 1, 257)
    hidden_TD = model.hidden_states(ids_BS)[0, :-1]
    target_T = ids_BS[0, 1:]
    logprob_T, entropy_T, top_ids_TK, top_logprobs_TK = token_stats(hidden_TD, target_T, model.head_VD, top_k=TOP_K)
    exact_TV = (hidden_TD.double() @ model.head_VD.double().T).log_softmax(dim=-1)
    top_TK, ids_TK = exact_TV.topk(TOP_K)
    q_TK = top_TK.softmax(dim=-1)
    exact_entropy_T = -(q_TK * q_TK.log()).sum(dim=-1) / np.log(TOP_K)
    errors = {
        "logprob": difference(logprob_T, exact_TV.gather(1, target_T[:, None])[:, 0])["max"],
        "entropy": difference(entropy_T, exact_entropy_T)["max"],
        "top_logprobs": difference(top_logprobs_TK, top_TK)["max"],
    }
    results.add(
        "correctness", "token_stats - float64, max", **errors, same_ids=float((top_ids_TK == ids_TK).float().mean())
    )
    require(max(errors.values()) < STATS_LIMIT, f"token statistics are off by {max(errors.values()):.3g}")


CHECKS: dict[str, Callable[[Results, Model], None]] = {
    "attention kernel": check_attention_kernel,
    "attention": check_attention,
    "experts alone": check_experts_alone,
    "experts": check_experts,
    "token statistics": check_token_stats,
}


# --------------------------------------------------------------------------------------------------------------- speed


def random_blocks(vocab_size: int, num_blocks: int, seq_len: int) -> Blocks:
    """Random token ids, about 30 % of them counted, in runs as long as a short answer's."""
    rng = np.random.default_rng(seq_len * num_blocks)
    size = num_blocks * seq_len
    mean_run = np.tile([GAP_RUN, COUNTED_RUN], 2 + size // (COUNTED_RUN + GAP_RUN) * 2)
    lengths = rng.integers(mean_run // 2, mean_run + mean_run // 2)
    scored_BS = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)[:size].reshape(num_blocks, seq_len)
    scored_BS[:, 0] = False
    return content_blocks(
        pack="random",
        seq_len=seq_len,
        token_ids_BS=rng.integers(vocab_size, size=(num_blocks, seq_len), dtype=np.int32),
        content_BS=scored_BS,
        row_BS=np.zeros((num_blocks, seq_len), np.int32),
        identities=("0" * 64,),
    )


def measure_speed(results: Results, options: argparse.Namespace, model: Model, seq_len: int, batch_size: int) -> None:
    blocks = random_blocks(model.module.config.vocab_size, batch_size, seq_len)
    ids_BS = torch.from_numpy(blocks.token_ids_BS).long().to(model.device)

    def eager() -> None:
        with attention(model, "eager"):
            masked_forward(model, ids_BS)

    steps: dict[str, Step] = {
        "eager": eager,
        "bare": lambda: bare_forward(model, ids_BS),
        "collect": lambda: score(model, blocks.token_ids_BS, blocks.scored_BS),
        "profile": lambda: observe_batch(model, blocks.token_ids_BS, blocks.scored_BS),
    }
    times = dict(zip(steps, alternate(*steps.values(), rounds=options.rounds), strict=True))
    tokens, share = blocks.token_ids_BS.size, blocks.num_counted / blocks.token_ids_BS.size
    name = f"{batch_size} x {seq_len}"
    results.add("speed", f"{name} bare, eager attention", tokens_s=tokens / median(times["eager"]))
    results.add("speed", f"{name} bare", tokens_s=tokens / median(times["bare"]))
    for step, target in (("collect", 0.8), ("profile", 0.6)):
        rounds = Rounds(subject_s=times[step], reference_s=times["bare"])
        results.add(
            "speed",
            f"{name} {step}",
            tokens_s=tokens / rounds.subject,
            ratio=rounds.relative_speed,
            counted=share,
            target=target,
            met=rounds.relative_speed >= target,
        )
    if model.device.type == "cuda":
        measure_memory(results, model, blocks, ids_BS, name)


@torch.inference_mode()
def measure_memory(results: Results, model: Model, blocks: Blocks, ids_BS: Tensor, name: str) -> None:
    """Peak memory of the statistics alone, and of each pass beyond what was allocated before it."""

    def peak_gib(step: Step) -> float:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**30

    counted_T = torch.from_numpy(np.flatnonzero(blocks.scored_BS)).to(model.device)
    hidden_TD = bare_forward(model, ids_BS).flatten(0, 1)[counted_T - 1]
    target_T = ids_BS.flatten()[counted_T]
    statistics = peak_gib(lambda: token_stats(hidden_TD, target_T, model.head_VD, top_k=TOP_K))
    results.add(
        "speed",
        f"{name} peak GiB",
        statistics=statistics,
        bare=peak_gib(lambda: bare_forward(model, ids_BS)),
        collect=peak_gib(lambda: score(model, blocks.token_ids_BS, blocks.scored_BS)),
        profile=peak_gib(lambda: observe_batch(model, blocks.token_ids_BS, blocks.scored_BS)),
    )


if __name__ == "__main__":
    main()
