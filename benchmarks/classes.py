"""What selections lose by class, and in messages that the base writes exactly right, as near-lossless-v3 judges them.

    PYTHONPATH=. python benchmarks/classes.py MODEL CALIBRATION_PACKS GATE_PACKS --out results.json --device cuda \\
      --cases eaft-reap:24: reap-mass:24:balanced refined:20:call=8,header=4

A case is METHOD:KEEP_N:CLASS_WEIGHT, as of `eaftgate prune`; the last may be empty. Methods see the calibration rows
only. Candidates are scored by masking, on UNION and on every pack, and judged by the policy. Results are written as
they come; the same command goes on where it was.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.checkpoint.digest import checkpoint_digest
from eaftgate.collect.collection import Collection
from eaftgate.files import write_json
from eaftgate.judge.cell import JudgedCell, judge_cell
from eaftgate.judge.policy import load_gates
from eaftgate.model.load import default_settings, load_model
from eaftgate.packs.blocks import Blocks, cut_blocks, tokenised
from eaftgate.packs.pack import Pack, named_packs
from eaftgate.packs.tokenizer import PackTokenizer, load_tokenizer
from eaftgate.profile.profile import open_profile
from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
from eaftgate.prune.methods import Running, Settings, Sight, method_named
from eaftgate.search.calibration import calibration_blocks
from eaftgate.search.evaluate import collected, masked_tokens
from eaftgate.search.journal import Journal
from eaftgate.search.settings import SearchSettings
from eaftgate.select.class_weights import ClassWeights, parse_class_weights
from eaftgate.select.keep import KeepSets
from eaftgate.select.saliency import EaftWeights
from eaftgate.strict_json import read_object

SHOWN = ("ppl", "nll_header", "nll_analysis", "nll_final", "nll_call", "nll_close")
MESSAGES = ("exact_calls", "exact_finals")


def told(judged: JudgedCell) -> dict[str, Any]:
    verdicts = judged.verdicts
    red = [name for name, v in verdicts.items() if v.decides and v.verdict in ("fail", "inconclusive")]
    return {
        "num_blocks": judged.num_blocks,
        "tokens": judged.metrics.tokens,
        "verdict": judged.verdict,
        "not_passed": {name: verdicts[name].verdict for name in red},
        **{name: {"estimate": verdicts[name].estimate, "upper": verdicts[name].upper} for name in SHOWN},
        **{
            name: {
                "exact": verdicts[name].events, "lost": verdicts[name].lost, "gained": verdicts[name].gained,
                "estimate": verdicts[name].estimate, "upper": verdicts[name].upper,
            }
            for name in MESSAGES
        },
    }  # fmt: skip


def line(pack: str, cell: dict[str, Any]) -> str:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{np.expm1(value):+.2%}"

    classes = " ".join(f"{name.removeprefix('nll_')} {percent(cell[name]['estimate'])}" for name in SHOWN)
    messages = " ".join(
        f"{name} {cell[name]['lost']} lost {cell[name]['gained']} gained of {cell[name]['exact']}"
        + ("" if cell[name]["upper"] is None else f" at most {cell[name]['upper']:.2%}")
        for name in MESSAGES
    )
    return f"  {pack:13} {cell['num_blocks']:4} {classes} | {messages} | {cell['verdict']} {cell['not_passed'] or ''}"


def first_blocks(pack: Pack, tokenizer: PackTokenizer, seq_len: int, most: int) -> Blocks:
    """The first `most` blocks, or as many as there are."""
    rows = tokenised(pack, tokenizer.backend, eos_id=tokenizer.eos_id, wanted=most * seq_len)
    return cut_blocks(rows, seq_len=seq_len, num_blocks=min(most, rows.num_tokens // seq_len))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("gate", type=Path)
    parser.add_argument("--cases", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where the profile is, or is made")
    parser.add_argument("--rows", type=int, help="of UNION, to calibrate on; default: all")
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--gate-seq-len", type=int, help="default: --seq-len")
    parser.add_argument("--blocks", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-positions", type=int, default=65_536)
    parser.add_argument("--seed", type=int, default=3407)
    parser.add_argument("--policy", default="near-lossless-v3")
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--search-dtype", help="of methods that run the model; default: --dtype")
    given = parser.parse_args()
    settings = default_settings(device=given.device, dtype=given.dtype, dequantize=True)
    base, tokenizer = open_checkpoint(str(given.model)), load_tokenizer(given.model)
    _, policy = load_gates().policy(given.policy)
    at: dict[str, Any] = {"batch_size": given.batch_size}
    if not (given.work / "profile").exists():
        request = ProfileRequest(given.calibration, given.rows, seq_len=given.seq_len, seed=given.seed, **at)
        given.work.mkdir(parents=True, exist_ok=True)
        profile_checkpoint(base, checkpoint_digest(base), request, given.work / "profile", settings)
    profile = open_profile(given.work / "profile")
    seen = calibration_blocks(base, profile, given.calibration)
    model = load_model(base.path, settings)
    searching = replace(settings, dtype=given.search_dtype or given.dtype)
    searched = model if searching == settings else load_model(base.path, searching)
    length = given.gate_seq_len or given.seq_len
    judged_on: dict[str, tuple[Blocks, Collection]] = {
        name: (blocks := first_blocks(pack, tokenizer, length, given.blocks), collected(model, blocks, **at))
        for name, pack in named_packs(given.gate, seed=given.seed).items()
    }
    results = read_object(given.out, what="results")["results"] if given.out.exists() else {}
    for case in given.cases:
        if case in results:
            continue
        name, keep_n, weights = case.split(":")
        classes = parse_class_weights(weights) if weights else ClassWeights()
        search = SearchSettings(max_positions=given.max_positions, seed=given.seed, **at)
        journal = Journal(given.work / f"{name}-{keep_n}-{weights}.json", {"case": case, "model": searching.describe()})
        running = Running(searched, seen, searching.describe(), journal, progress=lambda *_: None)
        started = time.perf_counter()
        choice = method_named(name).choose(
            Sight(base.num_layers, base.num_experts, profile, running),
            Settings(int(keep_n), EaftWeights(), search, classes),
        )
        seconds = time.perf_counter() - started
        keep: KeepSets = choice.keep
        cells = {
            pack: told(judge_cell(policy, None, masked_tokens(model, blocks, scored, keep, **at), blocks.num_blocks,
                                  strict=False, primary_pack=pack == "UNION"))
            for pack, (blocks, scored) in judged_on.items()
        }  # fmt: skip
        results[case] = {"seconds": seconds, "cells": cells, "keep": keep}
        write_json(given.out, {"model": settings.describe(), "results": results})
        print(f"{case}: {seconds:.1f} s", *(line(pack, cell) for pack, cell in cells.items()), sep="\n", flush=True)


if __name__ == "__main__":
    main()
