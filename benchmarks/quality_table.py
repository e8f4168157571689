"""Print a gate run's cells as markdown: one table for UNION, one of the relative loss by pack.

python benchmarks/quality_table.py RUN_DIR/parity.json
"""

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    cells: list[dict[str, Any]] = json.loads(Path(sys.argv[1]).read_text())["cells"]
    union = [cell for cell in cells if cell["pack"] == "UNION"]
    first = union[0]
    print(f"base: PPL {first['ppl_base']:.4f}, mean p {first['mean_p_base']:.4f}, CC {100 * first['cc_base']:.4f} %,")
    print(f"{first['num_blocks']} blocks of {first['seq_len']}, {first['tokens']:,} counted tokens\n")
    print("| checkpoint | PPL | dPPL | d mean p | dCC (pp) | JS2D 160x120 | v1 |\n|---|---:|---:|---:|---:|---:|---|")
    for cell in union:
        print(
            f"| {cell['name']} | {cell['ppl']:.4f} | {cell['delta_ppl'] / cell['ppl_base']:+.2%} "
            f"| {cell['delta_mean_p']:+.4f} | {100 * cell['delta_cc']:+.4f} | {cell['js2d']:.4f} | {cell['verdict']} |"
        )
    packs = list(dict.fromkeys(cell["pack"] for cell in cells))
    loss = {(cell["name"], cell["pack"]): cell["delta_ppl"] / cell["ppl_base"] for cell in cells}
    print(f"\n| dPPL | {' | '.join(packs)} |\n|---|{'---:|' * len(packs)}")
    for cell in union:
        print(f"| {cell['name']} | {' | '.join(format(loss[cell['name'], pack], '+.2%') for pack in packs)} |")


if __name__ == "__main__":
    main()
