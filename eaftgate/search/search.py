"""The searches: keep sets found by running the model on calibration blocks. Both look at the profile's rows only.

Tokens are not weighed as EAFT does, that was measured and lost more (docs/log/2026-11-26-selection.md).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eaftgate.errors import UserError
from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks
from eaftgate.profile.trace import Trace
from eaftgate.progress import progress_bar
from eaftgate.search.evaluate import within_memory
from eaftgate.search.greedy import Sample, greedy_keep_sets, sampled_positions
from eaftgate.search.journal import Journal
from eaftgate.search.refined import MIN_BLOCKS, TURNS, Refinement, best_start, can_refine, refinements
from eaftgate.search.settings import SearchSettings
from eaftgate.select.class_weights import ClassWeights, TokenWeights
from eaftgate.select.keep import KeepSets, select_keep_sets

STARTS = ("eaft-reap", "reap-mass", "ean", "frequency")
"""Rankings that a refinement may start from, besides the greedy search."""

Progress = Callable[[float, int], None]
"""Gets the number of layers done, and of how many."""
Found = tuple[KeepSets, dict[str, Any]]
"""Keep sets, and what they came from, for the manifest."""


def greedy_search(
    model: MoeModel,
    blocks: Blocks,
    trace: Trace,
    *,
    keep_n: int,
    settings: SearchSettings,
    classes: ClassWeights | None = None,
    progress: Progress | None = None,
) -> Found:
    """Greedy elimination. `blocks` and `trace` are those of the profile, of which tokens count by their `classes`.
    Without `progress` a bar is drawn.

    Raises UserError when memory runs out.
    """
    blocks, trace, weights = _weighed(blocks, trace, classes)
    sample = _sample(blocks, weights.of_trace(trace), settings)
    with within_memory(), _shown(progress, len(model.moe_layers)) as show:
        keep = greedy_keep_sets(model, blocks, sample, keep_n=keep_n, batch_size=settings.batch_size, progress=show)
    return keep, _described(settings, sample)


def refined_search(
    model: MoeModel,
    blocks: Blocks,
    trace: Trace,
    *,
    keep_n: int,
    settings: SearchSettings,
    classes: ClassWeights | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Found:
    """The best of several selections, refined by swaps. `blocks` and `trace` are those of the profile, of which tokens
    count by their `classes`; it goes on where `journal` says. Without `progress` a bar is drawn.

    Raises UserError when memory runs out, or with too few blocks to refine on.
    """
    blocks, trace, weights = _weighed(blocks, trace, classes)
    if not can_refine(blocks):
        raise UserError(f"refined needs {MIN_BLOCKS} calibration blocks with answers or more: give it more rows")
    layers = len(model.moe_layers)
    of = (1 + TURNS) * layers
    sample = _sample(blocks, weights.of_trace(trace), settings)
    at: dict[str, Any] = {"batch_size": settings.batch_size}
    with within_memory(), _shown(progress, of) as show:
        held = None if journal is None else journal.read(Reached)
        if held is None:
            greedy = greedy_keep_sets(model, blocks, sample, keep_n=keep_n, progress=lambda n, _: show(n, of), **at)
            starts = {"greedy": greedy} | {
                name: select_keep_sets(trace, method=name, keep_n=keep_n, alignment="predicting", classes=classes)
                for name in STARTS
            }
            start = best_start(model, blocks, starts, weights=weights, **at)
            held = Reached(start, Refinement(starts[start]))
            if journal is not None:
                journal.write(held)
        start, begun = held.start, held.refinement
        ended = begun
        weighed: dict[str, Any] = {
            "pack_R": packs_of_rows(blocks, trace), "pack_excess": settings.pack_excess, "weights": weights
        }  # fmt: skip
        for ended in refinements(model, blocks, begun, **weighed, **at):
            show(layers + ended.layers, of)
            if journal is not None:
                journal.write(Reached(start, ended))
    return ended.keep, _described(settings, sample) | {"start": start, "swaps": [asdict(swap) for swap in ended.swaps]}


@dataclass(frozen=True)
class Reached:
    """How far a refinement has come, and which selection it began with."""

    start: str
    refinement: Refinement


def _weighed(blocks: Blocks, trace: Trace, classes: ClassWeights | None) -> tuple[Blocks, Trace, TokenWeights]:
    """The blocks and the trace with only those tokens that count for something, and what each does."""
    weights = (classes or ClassWeights()).token_weights(trace)
    chosen_T = weights.of_trace(trace) > 0
    return blocks.scoring(chosen_T), trace.select(chosen_T), weights


def _sample(blocks: Blocks, weight_T: NDArray[np.float64], settings: SearchSettings) -> Sample:
    return sampled_positions(blocks, weight_T, max_positions=settings.max_positions, seed=settings.seed)


def _described(settings: SearchSettings, sample: Sample) -> dict[str, Any]:
    return {"settings": asdict(settings), "positions": len(sample.position_X)}


@contextmanager
def _shown(progress: Progress | None, of: int) -> Iterator[Progress]:
    if progress is not None:
        yield progress
        return
    with progress_bar("search", of, unit="layers") as bar:
        yield bar.show


def packs_of_rows(blocks: Blocks, trace: Trace) -> NDArray[np.intp]:
    """The number of every row's pack; of a row without a counted token, which does not matter, 0."""
    pack_R = np.zeros(len(blocks.identities), np.intp)
    pack_R[blocks.row_BS[blocks.scored_BS]] = trace.column("pack_T")
    return pack_R
