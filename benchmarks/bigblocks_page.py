"""How large report.html is of a run of the size of bigblocks, and how long it takes to make.

    PYTHONPATH=.:tests:benchmarks python benchmarks/bigblocks_page.py --work DIR [--candidates 3] [--profile]

A gate run as it is, but for the model: 24 layers of 32 experts, tiny; packs of the fixture's generator, 512 blocks each
at 1024 and 2048 tokens; candidates cut at random; statistics that are drawn (`drawn_collector/drawn.py`). DIR takes
4 GB; what is in it is used again. The page is then made section by section, and once as the run makes it.
"""

import argparse
import cProfile
import json
import pstats
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKS = {
    "chat": ("chat", 1),
    "more_chat": ("chat", 2),
    "reasoning": ("reasoning", 1),
    "tool_agentic": ("tool_agentic", 1),
}
"""Name: the fixture's generator of it, and its seed."""
CHARACTERS = 5_200_000
"""Of a pack: more than 512 blocks of 2048 tokens."""
CANDIDATES = ("keep28", "keep24", "keep20")


def write_packs(directory: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sys.path.append(str(ROOT / "fixtures"))
    from conversations.corpus import conversations

    directory.mkdir(exist_ok=True)
    for name, (pack, seed) in PACKS.items():
        path = directory / f"{name}.parquet"
        if not path.exists():
            rows = conversations(pack, seed, {"training": CHARACTERS})["training"]
            columns = {"text": [row.text for row in rows], "domain": [row.domain for row in rows]}
            pq.write_table(pa.table(columns), path)


def write_base(directory: Path) -> None:
    """The fixture's tokenizer over 24 layers of 32 experts."""
    from tiny_checkpoint import Size, build_config, build_tensors, write_shard

    if directory.exists():
        return
    directory.mkdir()
    size = Size(layers=24, experts=32)
    config = build_config(size, mxfp4=True, vocab_size=2048)
    (directory / "config.json").write_text(json.dumps(config))
    write_shard(directory / "model.safetensors", build_tensors(size, mxfp4=True, vocab_size=2048))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (directory / name).write_bytes((ROOT / "fixtures" / "checkpoint" / name).read_bytes())


def run(module: str, *words: str | Path) -> float:
    """Seconds of `python -m MODULE WORDS`; a red gate is one, too."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", module, *map(str, words)], cwd=ROOT, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{module} {words} ended with {done.returncode}")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=3, choices=[1, 2, 3])
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    asked = parser.parse_args()
    asked.work.mkdir(exist_ok=True)
    packs, base, results = (asked.work / name for name in ("packs", "base", f"results-{asked.candidates}"))
    write_packs(packs)
    write_base(base)
    names = CANDIDATES[: asked.candidates]
    for name in names:
        run(
            "eaftgate",
            "prune",
            base,
            "--keep-n",
            name.removeprefix("keep"),
            "--method",
            "random",
            "--out",
            asked.work / name,
        )
    if not (results / "parity.json").exists():
        candidates = [f"--checkpoint={asked.work / name}" for name in names]
        given = (f"--base={base}", *candidates, f"--packs={packs}", f"--results={results}", "--regime=bigblocks")
        seconds = run("pytest", "gates/", *given, "--collector=drawn", "-p", "drawn_plugin", "-q", "--tb=no")
        print(f"gate: {seconds:.0f} s")
    measure(results, profile=asked.profile)


def measure(results: Path, *, profile: bool) -> None:
    from eaftgate.gate.results import read_parity
    from eaftgate.report.html import render
    from eaftgate.report.landscapes import landscapes_section
    from eaftgate.report.smaller import smaller_budgets

    parity = read_parity(results)
    print(f"{len(parity.cells)} cells, {sum(cell.tokens for cell in parity.cells):,} counted tokens: {parity.verdict}")
    profiler = cProfile.Profile()
    parts: dict[str, Callable[[], str]] = {
        "all but what reads collections": lambda: render(parity),
        "landscapes": lambda: landscapes_section(results, parity),
        "smaller budgets": lambda: smaller_budgets(results, parity),
        "the page": lambda: render(parity, results),
    }
    for name, make in parts.items():
        start = time.perf_counter()
        if profile and name != "the page":
            profiler.enable()
        page = make()
        profiler.disable()
        print(f"{name}: {len(page.encode()):,} bytes, {time.perf_counter() - start:.2f} s")
    print(f"peak RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    if profile:
        stats = pstats.Stats(profiler)
        stats.sort_stats("cumulative").print_stats(45)


if __name__ == "__main__":
    main()
