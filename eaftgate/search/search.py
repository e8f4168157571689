"""The searches: keep sets found by running the model on calibration blocks. Both look at the profile's rows only.

Tokens are not weighed as EAFT does, that was measured and lost more (docs/log/2026-11-26-selection.md).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eaftgate.errors import UserError
from eaftgate.families.model import MoeModel
from eaftgate.packs.blocks import Blocks
from eaftgate.profile.trace import Trace
from eaftgate.progress import progress_bar
from eaftgate.search.evaluate import within_memory
from eaftgate.search.forecast import Passes, expected_passes
from eaftgate.search.greedy import (
    Sample,
    greedy_keep_sets,
    greedy_selections,
    spread_positions,
)
from eaftgate.search.half import Half
from eaftgate.search.journal import Journal
from eaftgate.search.refined import (
    OTHERS,
    Layers,
    Refinement,
    halves_of,
    lack_of_blocks,
    layers_of,
    ranked_starts,
    refinements,
)
from eaftgate.search.settings import SearchSettings
from eaftgate.search.starts import ranking_weights, start_weights
from eaftgate.select.class_weights import ClassWeights
from eaftgate.select.keep import KeepSets, select_keep_sets

STARTS = ("eaft-reap", "reap-mass", "ean", "frequency", "worst-pack")
"""Rankings that a refinement may start from, besides the greedy search: each is the best on some model at some size
(docs/log/2026-11-27-search.md), so that a search without one of them may end behind it."""

Progress = Callable[[float, float], None]
"""Gets how much is done, and of how much: layers, or forward passes over the blocks."""
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
    weight_T = (classes or ClassWeights()).token_weights(trace).of_trace(trace)
    sample = _samples(blocks, trace, {"": weight_T}, settings)[""]
    with within_memory(), _shown(progress, "layers") as show:
        keep = greedy_keep_sets(model, blocks, sample, keep_n=keep_n, batch_size=settings.batch_size, progress=show)
    return keep, {"settings": asdict(settings), "positions": len(sample.position_X)}


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
    """The best of several selections, refined by swaps. `blocks` and `trace` are those of the profile; with `classes`
    only selections by those weights are begun with. It goes on where `journal` says. Without `progress` a bar is drawn.

    Raises UserError when memory runs out, or with too few blocks to refine on.
    """
    if lack := lack_of_blocks(blocks):
        raise UserError(lack)
    passes = expected_passes(
        blocks, layers=len(model.moe_layers), experts=model.num_experts, top_k=model.top_k, keep_n=keep_n,
        positions=settings.max_positions,
    )  # fmt: skip
    with within_memory(), _shown(progress, "passes") as show:

        def come_to(reached: float) -> None:
            show(reached, passes.through[-1])

        held = None if journal is None else journal.read(Reached)
        selected = None if journal is None else journal.read(Selected)
        # What comes before the first that is shown is no progress: it would be taken for how slow the search is.
        halves = halves_of(model, blocks, packs_of_rows(blocks, trace), batch_size=settings.batch_size)
        if held is None:
            come_to(passes.greedy if selected else 0)
            held = _begun(model, blocks, trace, halves, keep_n, settings, classes, journal, selected, passes, come_to)
        ended = held.refinement
        for ended in refinements(halves, held.others, held.refinement):
            come_to(passes.through[ended.layers])
            if journal is not None:
                journal.write(replace(held, refinement=ended))
    found = {"settings": asdict(settings), "start": held.start, "swaps": [asdict(swap) for swap in ended.swaps]}
    return ended.keep, found


@dataclass(frozen=True)
class Selected:
    """The greedy selections that a refinement may begin with, by names for people."""

    greedy: dict[str, KeepSets]


@dataclass(frozen=True)
class Reached:
    """How far a refinement has come, which selection it began with, and what of others it asks about."""

    start: str
    others: Layers
    refinement: Refinement


def _begun(
    model: MoeModel,
    blocks: Blocks,
    trace: Trace,
    halves: tuple[Half, Half],
    keep_n: int,
    settings: SearchSettings,
    classes: ClassWeights | None,
    journal: Journal | None,
    selected: Selected | None,
    passes: Passes,
    show: Callable[[float], None],
) -> Reached:
    """The start that loses least, before any swap."""
    samples = _samples(blocks, trace, start_weights(trace, classes), settings)
    at = settings.batch_size
    if selected is None:
        found = greedy_selections(
            model,
            blocks,
            samples,
            keep_n=keep_n,
            batch_size=at,
            progress=lambda layers, of: show(passes.greedy * layers / of),
        )
        selected = Selected({f"greedy, {name}": keep for name, keep in found.items()})
        if journal is not None:
            journal.write(selected)
    starts = dict(selected.greedy)
    for name, weights in ranking_weights(trace, classes).items():
        asked: dict[str, Any] = {"keep_n": keep_n, "alignment": "predicting", "classes": weights}
        starts |= {f"{method}, {name}": select_keep_sets(trace, method=method, **asked) for method in STARTS}
    ranked = ranked_starts(halves, starts, progress=lambda share: show(passes.greedy + passes.starts * share))
    others = layers_of([starts[name] for name in ranked[:OTHERS]])
    return Reached(ranked[0], others, Refinement(starts[ranked[0]]))


def _samples(
    blocks: Blocks, trace: Trace, weights: Mapping[str, NDArray[np.float64]], settings: SearchSettings
) -> dict[str, Sample]:
    """The positions that predict some of the tokens that count for something; the same ones for all weights."""
    counting_T = np.flatnonzero(np.any(list(weights.values()), axis=0))
    some_X, stands_for_X = spread_positions(
        trace.column("kind_T")[counting_T], max_positions=settings.max_positions, seed=settings.seed
    )
    chosen_X = counting_T[some_X]
    position_X = (np.flatnonzero(blocks.scored_BS) - 1)[chosen_X]
    return {name: Sample(position_X, weight_T[chosen_X] * stands_for_X) for name, weight_T in weights.items()}


@contextmanager
def _shown(progress: Progress | None, unit: str) -> Iterator[Progress]:
    if progress is not None:
        yield progress
        return
    with progress_bar("search", None, unit=unit, resumes=False) as bar:
        yield bar.show


def packs_of_rows(blocks: Blocks, trace: Trace) -> NDArray[np.intp]:
    """The number of every row's pack; of a row without a counted token, which does not matter, 0."""
    pack_R = np.zeros(len(blocks.identities), np.intp)
    pack_R[blocks.row_BS[blocks.scored_BS]] = trace.column("pack_T")
    return pack_R
