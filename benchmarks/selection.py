"""Which selection loses least on a real model: rows split three ways, every method on the same calibration rows.

    PYTHONPATH=. python benchmarks/selection.py MODEL PACKS --device cuda --seeds 3 --out results.json

The rows of PACKS are split by identity into calibration, development and final, the final ones alike for every seed.
Methods see calibration rows only; what is chosen among them is chosen on development rows; what is claimed is read off
the final ones. Every method is scored by masking. The ratio is its loss over that of the best of BASELINES on the very
same tokens, with a 95 % interval clustered by row and by block. Results are written as they come.

Shapes: T counted tokens.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eaftgate.checkpoint.checkpoint import open_checkpoint
from eaftgate.collect.collection import Collection
from eaftgate.families.model import MoeModel
from eaftgate.files import write_json
from eaftgate.judge.cell import judge_cell
from eaftgate.judge.policy import load_gates
from eaftgate.model.load import ModelSettings, default_settings, load_model
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import UNION, Pack, named_packs
from eaftgate.packs.split import split_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.parity.bounds import bounds, fixed_width
from eaftgate.parity.clusters import Estimate, clustered, clusters_by
from eaftgate.parity.paired import PairedTokens
from eaftgate.profile.profiler import ProfileRequest, profile_checkpoint
from eaftgate.profile.trace import Trace
from eaftgate.search.evaluate import collected, masked_tokens
from eaftgate.search.greedy import Sample, greedy_keep_sets, spread_positions
from eaftgate.search.search import refined_search
from eaftgate.search.settings import SearchSettings
from eaftgate.select.keep import KeepSets, select_keep_sets
from eaftgate.select.saliency import EaftWeights, regions

BASELINES = ("eaft-reap", "reap-mass", "ean", "frequency")
SCORERS = (*BASELINES, "eaft-reap-pack-core", "worst-pack")
SEED = 3407
ALPHA = 0.025
"""On either side."""


@dataclass(frozen=True)
class Calibration:
    """What a method may see."""

    model: MoeModel
    trace: Trace
    blocks: Blocks
    seed: int
    batch_size: int
    max_positions: int

    def sample(self, kind: str) -> Sample:
        weight_T = np.ones(self.trace.num_tokens)
        if kind == "eaft":
            region = regions(self.trace.column("p_T"), self.trace.column("entropy_T"), EaftWeights().low_quantile)
            weight_T = region.weight_T(EaftWeights())
        counting_T = np.flatnonzero(weight_T)
        some_X, stands_for_X = spread_positions(
            self.trace.column("kind_T")[counting_T], max_positions=self.max_positions, seed=self.seed
        )
        chosen_X = counting_T[some_X]
        position_X = (np.flatnonzero(self.blocks.scored_BS) - 1)[chosen_X]
        return Sample(position_X, weight_T[chosen_X] * stands_for_X)


Method = Callable[[Calibration, int], KeepSets]


def scorer(name: str) -> Method:
    return lambda seen, keep_n: select_keep_sets(seen.trace, method=name, keep_n=keep_n, alignment="predicting")


def greedy(kind: str) -> Method:
    return lambda seen, keep_n: greedy_keep_sets(
        seen.model, seen.blocks, seen.sample(kind), keep_n=keep_n, batch_size=seen.batch_size
    )


def refined(seen: Calibration, keep_n: int) -> KeepSets:
    settings = SearchSettings(max_positions=seen.max_positions, seed=seen.seed, batch_size=seen.batch_size)
    keep, found = refined_search(seen.model, seen.blocks, seen.trace, keep_n=keep_n, settings=settings)
    print(f"  refined from {found['start']}: {len(found['swaps'])} swaps {found['swaps']}", flush=True)
    return keep


METHODS: dict[str, Method] = {
    **{name: scorer(name) for name in SCORERS},
    "greedy": greedy("uniform"),
    "greedy-eaft": greedy("eaft"),
    "refined": refined,
}


@dataclass(frozen=True)
class Judged:
    """Blocks that are only scored. `pack_T` names the pack of every counted token."""

    blocks: Blocks
    base: Collection
    pack_T: NDArray[np.str_]


def interval(estimate: Estimate) -> tuple[float, float]:
    return bounds(estimate, fixed_width(ALPHA, estimate.degrees_of_freedom))


def relative_loss(tokens: PairedTokens) -> dict[str, float]:
    """PPL / base PPL - 1 with its interval."""
    value = float(tokens.nll_delta_T.mean())
    estimate = clustered(value, tokens.nll_delta_T, (clusters_by(tokens.row_T), clusters_by(tokens.block_T)))
    lower, upper = (float(np.expm1(bound)) for bound in interval(estimate))
    return {"tokens": len(tokens), "loss": float(np.expm1(value)), "lower": lower, "upper": upper}


def loss_ratio(tokens: PairedTokens, baseline: PairedTokens) -> dict[str, float]:
    """Relative loss over that of `baseline` on the same tokens; the interval by the delta method."""
    a_T, b_T = tokens.nll_delta_T, baseline.nll_delta_T
    a, b = float(a_T.mean()), float(b_T.mean())
    ratio = float(np.expm1(a) / np.expm1(b))
    influence_T = (np.exp(a) * (a_T - a) - ratio * np.exp(b) * (b_T - b)) / np.expm1(b)
    lower, upper = interval(clustered(ratio, influence_T, (clusters_by(tokens.row_T), clusters_by(tokens.block_T))))
    return {"ratio": ratio, "lower": lower, "upper": upper}


def by_pack(tokens: PairedTokens, judged: Judged) -> dict[str, Any]:
    return {str(pack): relative_loss(tokens.select(judged.pack_T == pack)) for pack in np.unique(judged.pack_T)}


def verdicts(tokens: PairedTokens, num_blocks: int) -> dict[str, Any]:
    """The cell as near-lossless-v2 sees it."""
    cell = judge_cell(load_gates().policies["near-lossless-v2"], None, tokens, num_blocks, strict=False)
    metrics = {
        name: {"estimate": v.estimate, "lower": v.lower, "upper": v.upper, "verdict": v.verdict}
        for name, v in cell.verdicts.items()
    }
    return {"verdict": cell.verdict, "metrics": metrics}


def measured(
    seen: Calibration, keep_n: int, methods: Mapping[str, Method], development: Judged, final: Judged
) -> list[dict[str, Any]]:
    """Every method at one keep_n, in the order given. `worst_pack` is the largest loss of a pack over that of UNION."""
    results, final_tokens = [], {}
    for name, method in methods.items():
        started = time.perf_counter()
        keep = method(seen, keep_n)
        seconds = time.perf_counter() - started
        at = {"batch_size": seen.batch_size}
        tokens = masked_tokens(seen.model, development.blocks, development.base, keep, **at)
        final_tokens[name] = masked_tokens(seen.model, final.blocks, final.base, keep, **at)
        result = {
            "seed": seen.seed, "keep_n": keep_n, "method": name, "seconds": seconds,
            "development": relative_loss(tokens), "final": relative_loss(final_tokens[name]),
            "packs": by_pack(final_tokens[name], final), **verdicts(final_tokens[name], final.blocks.num_blocks),
            "keep": keep,
        }  # fmt: skip
        result["worst_pack"] = max(pack["loss"] for pack in result["packs"].values()) / result["final"]["loss"]
        results.append(result)
        packs = "  ".join(f"{pack} {cell['loss']:+.2%}" for pack, cell in result["packs"].items())
        print(f"  keep {keep_n} {name:20} {seconds:6.1f} s  dev {result['development']['loss']:+.2%}  "
              f"final {result['final']['loss']:+.2%}  {packs}  "
              f"worst / UNION {result['worst_pack']:.2f}  {result['verdict']}", flush=True)  # fmt: skip
    at_hand = [name for name in BASELINES if name in final_tokens]
    if at_hand:
        best = min(at_hand, key=lambda name: final_tokens[name].nll_delta_T.mean())
        for result in results:
            ratio = loss_ratio(final_tokens[result["method"]], final_tokens[best])
            result["over_best_baseline"] = {"baseline": best, **ratio}
            print(f"  keep {keep_n} {result['method']:20} / {best}: {ratio['ratio']:.3f} "
                  f"[{ratio['lower']:.3f}, {ratio['upper']:.3f}]", flush=True)  # fmt: skip
    return results


def prepared(model: MoeModel, union: Pack, tokenizer: Any, seq_len: int, num_blocks: int, batch_size: int) -> Judged:
    blocks = build_blocks(union, tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=seq_len, num_blocks=num_blocks)
    pack_T = np.array(union.sources)[blocks.row_BS[blocks.scored_BS]]
    return Judged(blocks, collected(model, blocks, batch_size=batch_size), pack_T)


def three_parts(packs: Path, work: Path, final_seed: int, seed: int, hold_out: str | None) -> dict[str, Path]:
    """40 % of the rows to calibrate on, 20 % to choose on, 40 % to claim on; `hold_out` is missing from the first.

    The last 40 % are drawn by `final_seed`, the same for every `seed`: none chooses on what another claims on.
    """
    split_packs(packs, work / "rows", calib_frac=0.6, seed=final_seed)
    split_packs(work / "rows" / "calibration", work / "seen", calib_frac=2 / 3, seed=seed)
    parts = {
        "calibration": work / "seen" / "calibration",
        "development": work / "seen" / "gate",
        "final": work / "rows" / "gate",
    }
    seen: set[str] = set()
    for part in parts.values():
        rows = set(named_packs(part, seed=None)[UNION].identities)
        assert not seen & rows, "a row is in two parts"
        seen |= rows
    if hold_out:
        (parts["calibration"] / f"{hold_out}.parquet").unlink()
    return parts


def run_seed(
    given: argparse.Namespace, settings: ModelSettings, seed: int, work: Path
) -> Iterator[list[dict[str, Any]]]:
    """The results of every keep_n as they come."""
    started = time.perf_counter()
    base, tokenizer = open_checkpoint(str(given.model)), load_tokenizer(given.model)
    parts = three_parts(given.packs, work, given.final_seed, seed, given.hold_out)
    request = ProfileRequest(
        parts["calibration"], num_rows=given.rows, seq_len=given.seq_len, seed=seed, batch_size=given.batch_size
    )
    profile = profile_checkpoint(base, "benchmark", request, work / "profile", settings)
    rows = named_packs(parts["calibration"], seed=seed)[UNION].head(given.rows)
    shape = {"eos_id": tokenizer.eos_id, "seq_len": given.seq_len}
    blocks = build_blocks(rows, tokenizer.backend, num_blocks=None, **shape)
    assert blocks.digest == profile.description.blocks_digest
    model = load_model(base.path, settings)
    judged = {
        part: prepared(
            model, named_packs(parts[part], seed=seed)[UNION], tokenizer, given.seq_len, num_blocks, given.batch_size
        )
        for part, num_blocks in (("development", given.development_blocks), ("final", given.final_blocks))
    }
    counted = {part: len(at.base.stats) for part, at in judged.items()}
    print(f"seed {seed}: {blocks.num_blocks} blocks, {blocks.num_counted:,} counted tokens to calibrate on, {counted}; "
          f"prepared in {time.perf_counter() - started:.1f} s", flush=True)  # fmt: skip
    seen = Calibration(model, profile.trace, blocks, seed, given.batch_size, given.max_positions)
    methods = {name: METHODS[name] for name in given.methods.split(",")}
    for keep_n in given.keep:
        yield measured(seen, keep_n, methods, judged["development"], judged["final"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("packs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from --first-seed on")
    parser.add_argument("--first-seed", type=int, default=SEED)
    parser.add_argument("--final-seed", type=int, default=SEED, help="draws the rows to claim on, for every seed alike")
    parser.add_argument("--keep", type=lambda text: [int(n) for n in text.split(",")], default=[24, 20])
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--hold-out", help="a pack that calibration does not see")
    parser.add_argument("--rows", type=int, default=400, help="of UNION, to calibrate on")
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--development-blocks", type=int, default=48)
    parser.add_argument("--final-blocks", type=int, default=144)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-positions", type=int, default=65_536)
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    settings = default_settings(device=given.device, dtype=given.dtype, dequantize=True)
    arguments = json.loads(json.dumps(vars(given), default=str))
    started = time.perf_counter()
    results: list[dict[str, Any]] = []
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        work = Path(tempfile.mkdtemp())
        try:
            for more in run_seed(given, settings, seed, work):
                results += more
                write_json(given.out, {"arguments": arguments, "model": settings.describe(), "results": results})
        finally:
            shutil.rmtree(work)
    print(f"done in {time.perf_counter() - started:.0f} s: {given.out}")


if __name__ == "__main__":
    main()
