"""What near-lossless-v2's statistics do where the truth is known: bias of JS2D, error rates of the verdicts.

    pip install -e .
    PYTHONPATH=tests python benchmarks/simulations.py bias --out docs/js2d_bias.svg     # 5 minutes on one core
    PYTHONPATH=tests python benchmarks/simulations.py errors                            # 3 minutes

The simulated cells are those of the tests (tests/simulated.py).
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from simulated import clustered_normal, documents, simulated_cell, true_js2d

from eaftgate.parity.bounds import bounds, fixed_width, sequence_width
from eaftgate.parity.clusters import Estimate, clustered_mean, clusters_by
from eaftgate.parity.js2d import FINE, Bins, corrected_js2d

COARSE = Bins(20, 15)
DAMAGE = {"rounding only": (0.0, 0.02), "real damage": (0.4, 0.1)}
"""Shift of the log odds of p, and noise."""
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)


def bias(out: Path, repeats: int) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharex=True)
    print("| damage | bins | truth | value | " + " | ".join(f"{n:,}" for n in SIZES) + " |")
    print("|---|---|---:|---|" + "---:|" * len(SIZES))
    for axis, (name, (shift, noise)) in zip(axes, DAMAGE.items(), strict=True):
        for bins, colour in ((FINE, "tab:red"), (COARSE, "tab:blue")):
            rng = np.random.default_rng(0)
            means = []
            for tokens in SIZES:
                found = []
                for seed in range(max(3, min(repeats, 3_000_000 // tokens))):
                    cell = simulated_cell(rng, tokens, shift=shift, noise=noise)
                    rows = clusters_by(cell.row_T)
                    js2d = corrected_js2d(cell, (rows,), rows, bins, swaps=100, seed=seed)
                    found.append((js2d.plug_in, js2d.estimate.value))
                means.append(np.mean(found, axis=0))
            plug_in, corrected = np.array(means).T
            label, truth = f"{bins.p} x {bins.h}", true_js2d(shift, bins)
            axis.plot(SIZES, plug_in, "o--", color=colour, label=f"{label}, plug-in")
            axis.plot(SIZES, corrected, "o-", color=colour, label=f"{label}, less its swap null")
            axis.axhline(truth, color=colour, linewidth=0.7, linestyle=":")
            for kind, values in (("plug-in", plug_in), ("corrected", corrected)):
                shown = " | ".join(f"{value:.5f}" for value in values)
                print(f"| {name} | {label} | {truth:.5f} | {kind} | {shown} |", flush=True)
        axis.axhline(0.02, color="grey", linewidth=0.7)
        axis.annotate("limit of v1", (SIZES[0], 0.02), fontsize=8, va="bottom", color="grey")
        axis.axhline(0.002, color="black", linewidth=0.7)
        axis.annotate("margin of v2", (SIZES[0], 0.002), fontsize=8, va="bottom")
        axis.set_xscale("log")
        axis.set_yscale("symlog", linthresh=1e-3)
        axis.set_ylim(-2e-4, 0.3)
        axis.set_title(f"{name}: shift {shift:g}, noise {noise:g}", fontsize=10)
        axis.set_xlabel("counted tokens")
    axes[0].set_ylabel("JS2D, nats")
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out)


Draw = Callable[[np.random.Generator, int], np.ndarray]
BLOCK_SUMS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "exponential, skewness 2": lambda rng, n: rng.standard_exponential(n) - 1,
    "gamma, skewness 3.7": lambda rng, n: rng.gamma(0.3, 1, n) - 0.3,
    "lognormal, skewness 6": lambda rng, n: rng.lognormal(0, 1, n) - math.exp(0.5),
}


def errors(repeats: int) -> None:
    """How often the truth lies beyond a bound that should miss it in 5 % of cells; upper / lower bound."""
    counts = (32, 128, 512)
    print("| block sums | method | " + " | ".join(f"{n} blocks" for n in counts) + " |")
    print("|---|---|" + "---:|" * len(counts))
    for name, draw in BLOCK_SUMS.items():
        rows: dict[str, list[str]] = {"Student": [], "v2": [], "v2, any of 16 looks": []}
        for blocks in counts:
            rng = np.random.default_rng(1)
            missed = {method: np.zeros(2) for method in rows}
            for _ in range(repeats):
                value_T = draw(rng, blocks)
                whole = clustered_mean(value_T, [clusters_by(np.arange(blocks))])
                width = fixed_width(0.05, blocks - 1)
                plain = Estimate(whole.value, whole.standard_error, blocks - 1)
                for method, estimate in (("Student", plain), ("v2", whole)):
                    lower, upper = bounds(estimate, width)
                    missed[method] += [upper < 0, lower > 0]
                ever = np.zeros(2, bool)
                for look in range(1, 17):
                    seen = math.ceil(blocks * look / 16)
                    if seen >= 16:
                        part = clustered_mean(value_T[:seen], [clusters_by(np.arange(seen))])
                        lower, upper = bounds(part, sequence_width(0.05, seen - 1, seen / blocks))
                        ever |= [upper < 0, lower > 0]
                missed["v2, any of 16 looks"] += ever
            for method, count in missed.items():
                upper, lower = 100 * count / repeats
                rows[method].append(f"{upper:.1f} / {lower:.1f} %")
        for method, shown in rows.items():
            print(f"| {name} | {method} | {' | '.join(shown)} |", flush=True)
    print("\n| documents | shared | coverage of the upper bound, 95 % asked |\n|---|---:|---:|")
    for number in (20, 60, 200):
        for shared in (0.0, 0.5):
            rng = np.random.default_rng(2)
            covered = 0
            for _ in range(repeats):
                row_T = documents(rng, 50 * number, mean_length=50)
                estimate = clustered_mean(clustered_normal(rng, row_T, shared), [clusters_by(row_T)])
                covered += bounds(estimate, fixed_width(0.05, estimate.degrees_of_freedom))[1] >= 0
            print(f"| {number} | {shared:g} | {covered / repeats:.1%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["bias", "errors"])
    parser.add_argument("--out", type=Path, default=Path("docs/js2d_bias.svg"))
    parser.add_argument("--repeats", type=int)
    given = parser.parse_args()
    if given.what == "bias":
        bias(given.out, given.repeats or 30)
    else:
        errors(given.repeats or 4000)


if __name__ == "__main__":
    main()
