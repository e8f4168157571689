"""What a gate would say of keep sets, by masking, before a checkpoint is written. Not a verdict: on calibration rows it
is said of the rows that the keep sets were chosen with."""

from eaftgate.collect.collection import Collection
from eaftgate.families.model import MoeModel
from eaftgate.judge.cell import JudgedCell, judge_cell
from eaftgate.judge.policy import load_gates
from eaftgate.judge.wording import bounds_shown, shown
from eaftgate.packs.blocks import Blocks
from eaftgate.parity.paired import PairedTokens
from eaftgate.search.evaluate import collected, masked_tokens, within_memory
from eaftgate.select.keep import KeepSets


def judged(tokens: PairedTokens, blocks: Blocks) -> JudgedCell:
    """The parity cell of `tokens`, the counted ones of `blocks`, under the shipped default policy."""
    return judge_cell(load_gates().policy(None)[1], None, tokens, blocks.num_blocks, strict=False)


def judged_by_masking(
    model: MoeModel, blocks: Blocks, base: Collection, keep: KeepSets, *, batch_size: int
) -> JudgedCell:
    """That of `keep` against `base`, the whole model's collection of `blocks`.

    Raises UserError when memory runs out.
    """
    with within_memory():
        tokens = masked_tokens(model, blocks, base, keep, batch_size=batch_size)
    return judged(tokens, blocks)


def pre_gate(model: MoeModel, blocks: Blocks, keep: KeepSets, *, batch_size: int) -> JudgedCell:
    """The same, with a base of its own."""
    with within_memory():
        base = collected(model, blocks, batch_size=batch_size)
    return judged_by_masking(model, blocks, base, keep, batch_size=batch_size)


def pre_gate_lines(cell: JudgedCell) -> list[str]:
    """One line a metric, and what they amount to."""
    lines = [f"pre-gate on {cell.metrics.tokens:,} calibration tokens, by masking (not a verdict): {cell.verdict}"]
    for metric, verdict in cell.verdicts.items():
        value, margin = (shown(metric, number, interval=True) for number in (verdict.estimate, verdict.margin))
        against = "no margin" if verdict.margin is None else f"margin {margin}: {verdict.verdict or 'not judged'}"
        lines.append(f"  {metric} {value} {bounds_shown(metric, verdict)}, {against}")
    return lines
