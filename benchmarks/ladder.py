"""Ladders of planted faults on a real model: the damage in units of its margin, and the verdict at growing budgets.

    PYTHONPATH=tests python benchmarks/ladder.py MODEL PROFILE_DIR PACKS [--seq-len 1024] [--blocks 512] [--device cuda]
    PYTHONPATH=tests:. python benchmarks/ladder.py MODEL PROFILE_DIR PACKS --rungs WORK --out FILE.json [...]

The first plants faults in the loaded model, from harmless to fatal, and judges UNION by near-lossless-v2; MODEL's
profile says which experts are the most used. The second writes candidates to WORK that go wrong in one thing only
(tests/rungs.py), gates them by near-lossless-v3 with `eaftgate gate --candidate-kind=other`, and judges the first
blocks of that run; its profile says which experts calls are carried by. FILE is one of docs/data.

Both print markdown, and end with 1 if any budget passes a fault whose damage on all blocks exceeds a margin, or fails
one that stays below half of every margin.
"""

import argparse
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from planted import FAULTS, excess, planted, usage_of
from rungs import RUNGS, Said, breach, call_specific_keep_sets, pairs_of, said_at, write_rungs

from eaftgate.families.model import MoeModel
from eaftgate.files import write_json
from eaftgate.gate.results import read_parity
from eaftgate.judge.cell import judge_cell
from eaftgate.judge.policy import IntervalPolicy, load_gates
from eaftgate.model.load import default_settings, load_model
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.harmony import TokenClass
from eaftgate.packs.pack import UNION, named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.messages import paired_messages
from eaftgate.parity.paired import pair
from eaftgate.profile.profile import Profile, open_profile
from eaftgate.search.evaluate import collected, masked_tokens
from eaftgate.select.keep import KeepSets

BUDGETS = (8, 32, 128, 512)
SEED = 3407
CALLS_LOST, MOST_LOST = 0.12, 0.02
"""Of the exact calls, net: a tenth, and some more for the rows that it is not chosen on; and of UNION's perplexity."""
DROPPED = ((1, 4, 2), (1, 4, 4), (1, 4, None), (2, 4, 2), (2, 4, 4), (2, 8, 4), (2, 8, None), (4, 8, 2), (4, 8, None))
"""Call-specific experts that a layer is to lose, of how many, in how many layers: tried in turn."""
CLASSES = ("nll_header", "nll_analysis", "nll_final", "nll_call", "nll_close")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("profile", type=Path)
    parser.add_argument("packs", type=Path)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--blocks", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device")
    parser.add_argument("--rungs", type=Path, metavar="WORK", help="a directory to make")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if (given.rungs is None) != (given.out is None):
        parser.error("--rungs and --out belong together")
    tokenizer = load_tokenizer(given.model)
    union = named_packs(given.packs, seed=SEED)[UNION]
    shape = {"seq_len": given.seq_len, "num_blocks": given.blocks}
    blocks = build_blocks(union, tokenizer.backend, eos_id=tokenizer.eos_id, **shape)
    model = load_model(given.model, default_settings(device=given.device, dtype="float32", dequantize=True))
    profile = open_profile(given.profile)
    return faults(given, model, profile, blocks) if given.rungs is None else rungs(given, model, profile, blocks)


def budgets_to(blocks: int) -> list[int]:
    return [n for n in BUDGETS if n < blocks] + [blocks]


def faults(given: argparse.Namespace, model: MoeModel, profile: Profile, blocks: Blocks) -> int:
    policy = _intervals("near-lossless-v2")
    usage, budgets = usage_of(profile.trace), budgets_to(given.blocks)
    base = collected(model, blocks, batch_size=given.batch_size)
    print(f"{given.blocks} blocks of {given.seq_len}, {len(base.stats):,} counted tokens\n")
    print(f"| fault | dPPL | largest effect / margin | {' | '.join(f'{n} blocks' for n in budgets)} |")
    print("|---|---:|---:|" + "---|" * len(budgets))
    wrong = 0
    for name, fault in FAULTS.items():
        with planted(model, fault, usage):
            tokens = pair(base, collected(model, blocks, batch_size=given.batch_size))
        judged = [judge_cell(policy, None, tokens.select(tokens.block_T < n), n, strict=False) for n in budgets]
        verdicts, whole = [cell.verdict for cell in judged], judged[-1]
        share = excess(policy, whole)
        wrong += (share > 1 and "pass" in verdicts) or (share < 0.5 and "fail" in verdicts)
        loss = whole.metrics.ppl / whole.metrics.ppl_base - 1
        print(f"| {name} | {loss:+.2%} | {share:.2f} | {' | '.join(verdicts)} |", flush=True)
    return int(wrong > 0)


def _intervals(name: str) -> IntervalPolicy:
    policy = load_gates().policies[name]
    assert isinstance(policy, IntervalPolicy)
    return policy


# Rungs


def losing_calls(model: MoeModel, profile: Profile, blocks: Blocks, batch_size: int) -> KeepSets:
    """The first keep sets that lose a tenth of the exact calls and leave UNION as it is, or those that come nearest."""
    base = collected(model, blocks, batch_size=batch_size)
    best: tuple[float, KeepSets] | None = None
    for drop, of, layers in DROPPED:
        keep = call_specific_keep_sets(profile.trace, drop=drop, of=of, layers=layers)
        tokens = masked_tokens(model, blocks, base, keep, batch_size=batch_size)
        loss = float(np.expm1(tokens.content().nll_delta_T.mean()))
        calls = paired_messages(tokens, TokenClass.CALL)
        lost = (int(calls.lost_M.sum()) - int(calls.gained_M.sum())) / max(1, int(calls.exact_base_M.sum()))
        where = f"{drop} of the {of} that {layers or 'all'} layers lose are call-specific"
        print(f"{where}: UNION {loss:+.2%}, exact calls lost {lost:.1%}", flush=True)
        if loss < MOST_LOST and (best is None or lost > best[0]):
            best = lost, keep
        if best is not None and best[0] >= CALLS_LOST:
            break
    if best is None:
        raise SystemExit(f"no keep sets leave UNION within {MOST_LOST:.0%}")
    return best[1]


def rungs(given: argparse.Namespace, model: MoeModel, profile: Profile, blocks: Blocks) -> int:
    started, budgets = time.perf_counter(), budgets_to(given.blocks)
    some = blocks.reordered(np.arange(min(256, blocks.num_blocks)))
    keep = losing_calls(model, profile, some, given.batch_size)
    found = write_rungs(given.model, blocks, keep, given.rungs)
    results = given.rungs / "run"
    command = [
        "gate", "-q", "--tb=no", f"--base={given.model}", *(f"--checkpoint={path}" for path in found.values()),
        f"--packs={given.packs}", "--policy=near-lossless-v3", "--candidate-kind=other", f"--seq-lens={given.seq_len}",
        f"--num-blocks={given.blocks}", f"--batch-size={given.batch_size}", f"--seed={SEED}", "--dtype=float32",
        "--dequantize", f"--results={results}", *([f"--device={given.device}"] if given.device else []),
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "eaftgate", *command], check=False)  # red is a result here
    parity = read_parity(results)
    with ProcessPoolExecutor(len(found), mp_context=get_context("spawn")) as pool:
        paths = list(pool.map(partial(path_of, results, budgets), found))
    rows, wrong = [], 0
    for name, path in zip(found, paths, strict=True):
        whole, problem = path[given.blocks], breach(path, canonical=given.blocks)
        v2 = next(c.v2_verdict for c in parity.cells if (c.name, c.pack, c.seq_len) == (name, UNION, given.seq_len))
        wrong += bool(problem)
        rows.append(row_of(RUNGS[name], whole, path, v2, given.seq_len))
        verdicts = ", ".join(f"{said.verdict} at {budget}" for budget, said in path.items())
        print(f"{RUNGS[name]}: {verdicts}; {whole.share:.2f} times its margin by {whole.by}", problem, flush=True)
        print(f"  silent at {budgets[0]}: {', '.join(path[budgets[0]].silent)}")
    write_json(given.out, measurement(given, budgets, rows))
    print(f"{time.perf_counter() - started:.0f} s")
    return int(wrong > 0)


def measurement(given: argparse.Namespace, budgets: list[int], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """As a file of docs/data."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    on_gpu = torch.cuda.is_available() and given.device != "cpu"
    return {
        "what": (
            f"{given.model.name}, every pack at {given.seq_len}: candidates that go wrong in one thing only, gated by "
            "near-lossless-v3; what they lose on UNION, their largest deciding effect in units of its margin, and the "
            f"verdict with {budgets[0]} to {given.blocks} blocks a pack; v2's of UNION beside"
        ),
        "command": (
            "PYTHONPATH=tests:. python benchmarks/ladder.py $LAB_A work/profile work/split/gate "
            f"--rungs work/rungs --blocks {given.blocks} --out docs/data/rungs-lab-a.json"
        ),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "hardware": f"one {torch.cuda.get_device_name()}" if on_gpu else "CPU",
        "software": f"torch {torch.__version__.split('+')[0]}, float32",
        "commit": commit.stdout.strip() or None,
        "columns": columns(budgets),
        "rows": rows,
    }


def path_of(results: Path, budgets: list[int], name: str) -> dict[int, Said]:
    policy = _intervals("near-lossless-v3")
    pairs = pairs_of(results, name)
    return {budget: said_at(policy, policy.must_decide("all"), pairs, budget) for budget in budgets}


def columns(budgets: list[int]) -> list[dict[str, str]]:
    losses = {"ppl": "dPPL"} | {name: name.removeprefix("nll_") for name in CLASSES}
    return [
        {"heading": "candidate", "cell": "{candidate}"},
        *({"heading": heading, "cell": f"{{{name}:+,.2%}}"} for name, heading in losses.items()),
        {"heading": "calls lost, gained of exact", "cell": "{calls}"},
        {"heading": "finals", "cell": "{finals}"},
        {"heading": "effect / margin", "cell": "{effect:,.2f}"},
        {"heading": "of", "cell": "{by}"},
        {"heading": "v2", "cell": "{v2}"},
        *({"heading": str(budget), "cell": f"{{b{budget}}}"} for budget in budgets),
    ]


def row_of(
    candidate: str, whole: Said, path: dict[int, Said], v2: str | None, seq_len: int, pack: str = UNION
) -> dict[str, Any]:
    metrics = whole.cells[pack, seq_len].verdicts

    def loss(name: str) -> float | None:
        estimate = metrics[name].estimate
        return None if estimate is None else float(np.expm1(estimate))

    def messages(name: str) -> str:
        found = metrics[name]
        return f"{found.lost}, {found.gained} of {found.events}"

    return {
        "candidate": candidate,
        **{name: loss(name) for name in ("ppl", *CLASSES)},
        "calls": messages("exact_calls"),
        "finals": messages("exact_finals"),
        "effect": whole.share,
        "by": whole.by,
        "v2": v2,
        **{f"b{budget}": said.verdict for budget, said in path.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
