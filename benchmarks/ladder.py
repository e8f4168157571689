"""A ladder of planted faults on a real model: the damage in units of its margin, and the verdict at growing budgets.

    PYTHONPATH=tests python benchmarks/ladder.py MODEL PROFILE_DIR PACKS [--seq-len 1024] [--blocks 512] [--device cuda]

MODEL's profile says which experts are the most used. Prints markdown. Ends with 1 if any budget passes a fault whose
damage on all blocks exceeds a margin, or fails one that stays below half of every margin.
"""

import argparse
import sys
from pathlib import Path

from planted import FAULTS, excess, planted, usage_of

from eaftgate.judge.cell import judge_cell
from eaftgate.judge.policy import IntervalPolicy, load_gates
from eaftgate.model.load import default_settings, load_model
from eaftgate.packs.blocks import build_blocks
from eaftgate.packs.pack import UNION, named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.paired import pair
from eaftgate.profile.profile import open_profile
from eaftgate.search.evaluate import collected

BUDGETS = (8, 32, 128, 512)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("profile", type=Path)
    parser.add_argument("packs", type=Path)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--blocks", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device")
    given = parser.parse_args()
    policy = load_gates().policies["near-lossless-v2"]
    assert isinstance(policy, IntervalPolicy)
    tokenizer = load_tokenizer(given.model)
    union = named_packs(given.packs, seed=3407)[UNION]
    shape = {"seq_len": given.seq_len, "num_blocks": given.blocks}
    blocks = build_blocks(union, tokenizer.backend, eos_id=tokenizer.eos_id, **shape)
    model = load_model(given.model, default_settings(device=given.device, dtype="float32", dequantize=True))
    usage = usage_of(open_profile(given.profile).trace)
    budgets = [n for n in BUDGETS if n < given.blocks] + [given.blocks]
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


if __name__ == "__main__":
    sys.exit(main())
