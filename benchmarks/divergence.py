"""By pack, how far a pruned model is from the whole one, beside the rise of the nll, which is what a gate sees of it.

    PYTHONPATH=. python benchmarks/divergence.py MODEL PACKS RESULTS --seed 3409 --keep 20 --method refined

RESULTS is what benchmarks/selection.py wrote with --out; its keep sets are scored on final rows. Where the whole model
is surer than it is right (its entropy is below its nll), whatever blurs it also helps it, so that the nll rises by less
than the divergence KL(whole || pruned).

Shapes: T counted tokens, V vocabulary.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.selection import interval, three_parts
from eaftgate.collect.token_stats import linear_logits
from eaftgate.families.model import MoeModel
from eaftgate.model.load import default_settings, load_model
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import UNION, named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.clusters import clustered_mean, clusters_by


def counted_logprobs(model: MoeModel, blocks: Blocks) -> torch.Tensor:
    """Float32 [T, V]."""
    ids_BS = torch.from_numpy(blocks.token_ids_BS.astype(np.int64)).to(model.device)
    position_T = torch.from_numpy(np.flatnonzero(blocks.scored_BS) - 1).to(ids_BS.device)
    hidden_TD = model.hidden_states(ids_BS).flatten(0, 1)[position_T]
    return linear_logits(model.head_VD)(hidden_TD).log_softmax(dim=-1)


@torch.inference_mode()
def statistics(model: MoeModel, blocks: Blocks, keep: list[list[int]]) -> NDArray[np.float64]:
    """[T, 4]: the whole model's nll and entropy, the rise of the nll, and KL(whole || pruned), nats."""
    whole_TV = counted_logprobs(model, blocks)
    with model.keeping(keep):
        pruned_TV = counted_logprobs(model, blocks)
    target_T = torch.from_numpy(blocks.token_ids_BS[blocks.scored_BS].astype(np.int64)).to(whole_TV.device)[:, None]
    p_TV, nll_T = whole_TV.exp(), -whole_TV.gather(1, target_T)[:, 0]
    columns = [
        nll_T,
        -(p_TV * whole_TV).sum(-1),
        -pruned_TV.gather(1, target_T)[:, 0] - nll_T,
        (p_TV * (whole_TV - pruned_TV)).sum(-1),
    ]
    return torch.stack(columns, dim=1).double().cpu().numpy()


def report(value_TS: NDArray[np.float64], blocks: Blocks, source_R: NDArray[np.str_]) -> None:
    row_T, block_T = blocks.row_BS[blocks.scored_BS], np.nonzero(blocks.scored_BS)[0]
    print("| pack | tokens | nll | entropy | the nll rises by | KL |\n|---|---:|---:|---:|---|---|")
    for pack in (UNION, *np.unique(source_R)):
        of_T = np.ones(len(row_T), bool) if pack == UNION else source_R[row_T] == pack
        clusters = clusters_by(row_T[of_T]), clusters_by(block_T[of_T])
        nll, entropy = value_TS[of_T, :2].mean(axis=0)
        estimates = [clustered_mean(value_TS[of_T, column], clusters) for column in (2, 3)]
        cells = [f"{at.value:.4f} [{lower:.4f}, {upper:.4f}]" for at in estimates for lower, upper in [interval(at)]]
        print(f"| {pack} | {of_T.sum():,} | {nll:.3f} | {entropy:.3f} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("packs", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--keep", type=int, required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--blocks", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    made = json.loads(given.results.read_text())
    chosen = {(r["seed"], r["keep_n"], r["method"]): r["keep"] for r in made["results"]}
    keep = chosen.get((given.seed, given.keep, given.method))
    if keep is None:
        parser.error(f"{given.results} has no result of that --seed, --keep and --method")
    tokenizer = load_tokenizer(given.model)
    model = load_model(given.model, default_settings(device=given.device, dtype="float32", dequantize=True))
    with tempfile.TemporaryDirectory() as work:
        parts = three_parts(given.packs, Path(work), made["arguments"]["final_seed"], given.seed, None)
        union = named_packs(parts["final"], seed=given.seed)[UNION]
    blocks = build_blocks(
        union, tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=given.seq_len, num_blocks=given.blocks
    )
    starts = range(0, blocks.num_blocks, given.batch_size)
    batches = [np.arange(start, min(start + given.batch_size, blocks.num_blocks)) for start in starts]
    value_TS = np.concatenate([statistics(model, blocks.reordered(batch), keep) for batch in batches])
    report(value_TS, blocks, np.array(union.sources))


if __name__ == "__main__":
    main()
