"""What to try next, from what a diagnosis has measured: a few explicit rules, the first that holds."""

import math

from eaftgate.packs.pack import UNION
from eaftgate.parity.bounds import bounds, fixed_width
from eaftgate.parity.clusters import Estimate
from eaftgate.study.diagnose import CellLoss, Diagnosis

ALPHA = 0.05
CARRIES = 0.5
"""A layer with more than this share of what all layers lose one by one carries the loss."""
COMPOUNDS = 0.5
"""Layers that lose less than this share of the joint loss one by one compound each other's errors."""
STANDS_OUT = 2.0
"""A pack stands out when its loss is surely more than so many times the mean of the other packs' losses."""


def interval(estimate: Estimate) -> tuple[float, float]:
    """One-sided bounds at 95 % each, without a limit when the standard error is not known."""
    return bounds(estimate, fixed_width(ALPHA, estimate.degrees_of_freedom))


def next_lever(found: Diagnosis, *, method: str | None) -> str:
    """One sentence. `method` is what the keep sets were chosen with, if that is known."""
    if all(cell.cell.verdict == "pass" for cell in found.cells):
        return "every pack passes on these blocks: gate the checkpoint, or try a smaller --keep-n"
    if not any(_lower(cell) > 0 for cell in found.cells):
        return "no loss can be told from none on so few blocks: raise --num-blocks before anything else"
    remedy = "raise --keep-n" if method == "refined" else "choose with --method refined, or raise --keep-n"
    total = sum(max(0.0, layer.loss.value) for layer in found.layers)
    worst = max(found.layers, key=lambda layer: layer.loss.value)
    if interval(worst.loss)[0] > 0 and worst.loss.value > CARRIES * total:
        share = worst.loss.value / total
        return (
            f"layer {worst.layer} pruned alone loses {_percent(worst.loss.value)}, {share:.0%} of what the layers lose "
            f"one by one: {remedy}"
        )
    if pack := _outstanding(found):
        other = "" if method == "refined" else ", or choose with --method refined"
        return (
            f"pack {pack.pack} loses {_percent(pack.loss)}, surely more than {STANDS_OUT:g} times what the others "
            f"do: profile with more of its rows{other}"
        )
    if total < COMPOUNDS * found.together.value:
        return (
            f"the layers lose {_percent(total)} one by one and {_percent(found.together.value)} together, their errors "
            f"compound: {remedy}"
        )
    return f"no layer and no pack stands out: {remedy}"


def _outstanding(found: Diagnosis) -> CellLoss | None:
    """The pack whose loss stands out among those at the first length; of one pack alone nothing can be said."""
    packs = [cell for cell in found.cells if cell.pack != UNION and cell.seq_len == found.cells[0].seq_len]
    if len(packs) < 2:
        return None
    worst = max(packs, key=lambda cell: cell.loss)
    others = sum(max(0.0, cell.loss) for cell in packs if cell is not worst) / (len(packs) - 1)
    return worst if _lower(worst) > STANDS_OUT * others else None


def _lower(cell: CellLoss) -> float:
    return -math.inf if cell.ppl.lower is None else cell.ppl.lower


def _percent(loss: float) -> str:
    return f"{math.expm1(loss):+.2%}"
