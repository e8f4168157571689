"""What `eaftgate prune` does on the model: the searches (--method greedy and refined), and the pre-gate."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import GptOssForCausalLM

from eaftgate.collect.collection import Collection
from eaftgate.errors import UserError
from eaftgate.judge.cell import JudgedCell, judge_cell
from eaftgate.judge.policy import load_gates
from eaftgate.judge.wording import bounds_shown, shown
from eaftgate.packs.blocks import Blocks
from eaftgate.parity.paired import PairedTokens
from eaftgate.profile.trace import Trace
from eaftgate.progress import Bar, progress_bar
from eaftgate.search.evaluate import BATCH_SIZE, collected, masked_tokens, within_memory
from eaftgate.search.greedy import MAX_POSITIONS, greedy_keep_sets, sampled_positions
from eaftgate.search.journal import Journal
from eaftgate.search.pack_weights import PACK_EXCESS
from eaftgate.search.refined import MIN_BLOCKS, TURNS, Refinement, Swap, best_start, can_refine, refinements
from eaftgate.select.keep import KeepSets, select_keep_sets


@dataclass(frozen=True)
class SearchSettings:
    """`seed` draws the positions when there are more than `max_positions`. `pack_excess` is a refinement's
    (eaftgate.search.pack_weights)."""

    max_positions: int = MAX_POSITIONS
    seed: int = 0
    pack_excess: float = PACK_EXCESS
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        if not (math.isfinite(self.pack_excess) and self.pack_excess >= 0):
            raise UserError(f"--pack-excess is {self.pack_excess}: it must be a finite number from 0")


STARTS = ("eaft-reap", "reap-mass", "ean", "frequency")
"""Rankings that a refinement may start from, besides the greedy search."""


def search_keep_sets(
    model: GptOssForCausalLM,
    blocks: Blocks,
    trace: Trace,
    *,
    method: str,
    keep_n: int,
    settings: SearchSettings,
    progress: Callable[[int, int], None] | None = None,
    journal: Journal | None = None,
) -> tuple[KeepSets, dict[str, Any]]:
    """The keep sets of a search, and what they came from, for the manifest. `blocks` and `trace` are those of the
    profile. Without `progress` (layers done, of how many) a bar is drawn. A refinement goes on where `journal` says.

    Tokens are not weighed as EAFT does, that was measured and lost more (docs/log/2026-11-26-selection.md). Raises
    UserError when memory runs out, or with too few blocks to refine on.
    """
    refining = method == "refined"
    if refining and not can_refine(blocks):
        raise UserError(f"refined needs {MIN_BLOCKS} calibration blocks with answers or more: give it more rows")
    layers = len(model.model.layers)
    of = (1 + TURNS) * layers if refining else layers
    equal_T = np.ones(blocks.num_counted)
    sample = sampled_positions(blocks, equal_T, max_positions=settings.max_positions, seed=settings.seed)
    found: dict[str, Any] = {"settings": asdict(settings), "positions": len(sample.position_X)}
    at: dict[str, Any] = {"batch_size": settings.batch_size}
    bar = progress_bar("search", of, unit="layers") if progress is None else nullcontext(Bar())
    with within_memory(), bar as drawn:
        show = progress or drawn.show

        def greedy() -> KeepSets:
            return greedy_keep_sets(model, blocks, sample, keep_n=keep_n, progress=lambda n, _: show(n, of), **at)

        if not refining:
            return greedy(), found
        held = None if journal is None else journal.read()
        if held is None:
            starts = {"greedy": greedy()} | {
                name: select_keep_sets(trace, method=name, keep_n=keep_n, alignment="predicting") for name in STARTS
            }
            start = best_start(model, blocks, starts, **at)
            begun = Refinement(starts[start])
            _note(journal, start, begun)
        else:
            start, begun = held["start"], _refinement(held["refinement"])
        ended = begun
        weighed: dict[str, Any] = {"pack_R": packs_of_rows(blocks, trace), "pack_excess": settings.pack_excess}
        for ended in refinements(model, blocks, begun, **weighed, **at):
            show(layers + ended.layers, of)
            _note(journal, start, ended)
    return ended.keep, found | {"start": start, "swaps": [asdict(swap) for swap in ended.swaps]}


def packs_of_rows(blocks: Blocks, trace: Trace) -> NDArray[np.intp]:
    """The number of every row's pack; of a row without a counted token, which does not matter, 0."""
    pack_R = np.zeros(len(blocks.identities), np.intp)
    pack_R[blocks.row_BS[blocks.counted_BS]] = trace.column("pack_T")
    return pack_R


def _note(journal: Journal | None, start: str, state: Refinement) -> None:
    if journal is not None:
        journal.write({"start": start, "refinement": asdict(state)})


def _refinement(held: Mapping[str, Any]) -> Refinement:
    return Refinement(held["keep"], tuple(Swap(**swap) for swap in held["swaps"]), held["layers"])


def judged_by_masking(
    model: GptOssForCausalLM, blocks: Blocks, base: Collection, keep: KeepSets, *, batch_size: int
) -> JudgedCell:
    """The parity cell of `keep` against `base`, the whole model's collection of `blocks`, under the shipped default
    policy. On calibration blocks it says what to expect of a gate, but on rows that the keep sets were chosen with.

    Raises UserError when memory runs out.
    """
    with within_memory():
        tokens = masked_tokens(model, blocks, base, keep, batch_size=batch_size)
    return judged(tokens, blocks)


def judged(tokens: PairedTokens, blocks: Blocks) -> JudgedCell:
    """The parity cell of `tokens`, the counted ones of `blocks`, under the shipped default policy."""
    return judge_cell(load_gates().policy(None)[1], None, tokens, blocks.num_blocks, strict=False)


def pre_gate(model: GptOssForCausalLM, blocks: Blocks, keep: KeepSets, *, batch_size: int) -> JudgedCell:
    """The same, with a base of its own."""
    with within_memory():
        base = collected(model, blocks, batch_size=batch_size)
    return judged_by_masking(model, blocks, base, keep, batch_size=batch_size)


def pre_gate_lines(cell: JudgedCell) -> list[str]:
    """One line a metric, and what they amount to."""
    lines = [f"pre-gate on {cell.metrics.tokens:,} calibration tokens, by masking (not a verdict): {cell.verdict}"]
    for metric, verdict in cell.verdicts.items():
        value, margin = (shown(metric, number, interval=True) for number in (verdict.estimate, verdict.margin))
        against = "no margin" if verdict.margin is None else f"margin {margin}: {verdict.verdict}"
        lines.append(f"  {metric} {value} {bounds_shown(metric, verdict)}, {against}")
    return lines
