"""Where the loss of a keep set is: which packs and lengths, which layers, and which of their experts. All by masking.

A layer's own loss is that of pruning it alone. An expert's is what putting it back, alone, into the pruned model wins:
that asks of the model as it would be released, where the experts that would step in for it are gone as well, and the
answer can be acted on. Removing it alone from the whole model would mostly show how well its neighbours step in for it.

Layers before the one that is looked at are the same for every question about it, so they run once (search/prefix.py).

Shapes: T counted tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eaftgate.collect.collection import Collection
from eaftgate.families.model import MoeModel
from eaftgate.judge.cell import JudgedCell
from eaftgate.judge.verdict import MetricVerdict, lies_outside
from eaftgate.packs.blocks import Blocks
from eaftgate.parity.clusters import Estimate
from eaftgate.parity.paired import pair
from eaftgate.progress import progress_bar
from eaftgate.prune.pre_gate import judged
from eaftgate.search.evaluate import collected, collected_after, nll_increase, within_memory
from eaftgate.search.prefix import embedded, through_layer
from eaftgate.search.settings import BATCH_SIZE
from eaftgate.select.keep import KeepSets, replaced


@dataclass(frozen=True)
class CellLoss:
    """All layers pruned, on one pack at one length; `cell` is judged by the shipped default policy."""

    pack: str
    seq_len: int
    cell: JudgedCell

    @property
    def ppl(self) -> MetricVerdict:
        return self.cell.verdicts["ppl"]

    @property
    def loss(self) -> float:
        """Mean of nll_candidate - nll_base, nats a token; NaN when not known."""
        return math.nan if self.ppl.estimate is None else self.ppl.estimate

    @property
    def missed(self) -> list[str]:
        """The deciding metrics that do not pass; of those that rest on too little to decide, which lie beyond their
        margin."""
        return [
            name
            for name, verdict in self.cell.verdicts.items()
            if (verdict.decides and verdict.verdict not in (None, "pass"))
            or (verdict.underpowered and lies_outside(name, verdict))
        ]


@dataclass(frozen=True)
class LayerLoss:
    """Mean of nll_candidate - nll_base, nats a token, when only `layer` is pruned."""

    layer: int
    loss: Estimate


@dataclass(frozen=True)
class ExpertGain:
    """By how much the mean nll of the pruned model falls, nats a token, when `expert` is put back into `layer`."""

    layer: int
    expert: int
    gain: Estimate


@dataclass(frozen=True)
class Diagnosis:
    """Cells in the order given. `together` (the loss with all layers pruned), `layers` and `experts` are of the first
    cell; experts are those that the layers that lose most have dropped."""

    cells: tuple[CellLoss, ...]
    together: Estimate
    layers: tuple[LayerLoss, ...]
    experts: tuple[ExpertGain, ...]


def diagnose(
    model: MoeModel,
    cells: Sequence[Blocks],
    keep: KeepSets,
    *,
    worst_layers: int,
    batch_size: int = BATCH_SIZE,
) -> Diagnosis:
    """Look for the loss of `keep` on `cells`; the experts of the `worst_layers` layers are looked at one by one.

    Raises UserError when memory runs out.
    """
    first, dropped = cells[0].scoring_content(), model.num_experts - len(keep[0])
    runs = 2 * len(cells) + len(keep) + min(worst_layers, len(keep)) * dropped
    with within_memory(), progress_bar("diagnose", runs, unit="passes", resumes=False) as bar:
        measured = []
        for blocks in cells:
            measured.append(_whole_and_pruned(model, blocks, keep, batch_size))
            bar.advance(2)
        whole, pruned = (collection.content() for collection in measured[0])
        layers = []
        for found in _layer_losses(model, first, keep, whole, batch_size):
            layers.append(found)
            bar.advance(1)
        chosen = sorted(layers, key=lambda found: -found.loss.value)[:worst_layers]
        experts = []
        for gain in _expert_gains(model, first, keep, pruned, {found.layer for found in chosen}, batch_size):
            experts.append(gain)
            bar.advance(1)
    judged_cells = (judged(pair(*both), blocks) for blocks, both in zip(cells, measured, strict=True))
    return Diagnosis(
        cells=tuple(CellLoss(b.pack, b.seq_len, cell) for b, cell in zip(cells, judged_cells, strict=True)),
        together=nll_increase(whole, pruned),
        layers=tuple(layers),
        experts=tuple(experts),
    )


def _whole_and_pruned(
    model: MoeModel, blocks: Blocks, keep: KeepSets, batch_size: int
) -> tuple[Collection, Collection]:
    whole = collected(model, blocks, batch_size=batch_size)
    with model.keeping(keep):
        return whole, collected(model, blocks, batch_size=batch_size)


def _layer_losses(
    model: MoeModel, blocks: Blocks, keep: KeepSets, whole: Collection, batch_size: int
) -> Iterator[LayerLoss]:
    everyone = [list(range(model.num_experts))] * len(keep)
    prefix = embedded(model, blocks, batch_size=batch_size)
    for layer, kept in enumerate(keep):
        with model.keeping(replaced(everyone, layer, kept)):
            yield LayerLoss(layer, nll_increase(whole, collected_after(model, layer, prefix, blocks)))
        prefix = through_layer(model, layer, prefix)


def _expert_gains(
    model: MoeModel, blocks: Blocks, keep: KeepSets, pruned: Collection, layers: set[int], batch_size: int
) -> Iterator[ExpertGain]:
    prefix = embedded(model, blocks, batch_size=batch_size)
    for layer, kept in enumerate(keep):
        for expert in sorted(set(range(model.num_experts)) - set(kept)) if layer in layers else ():
            with model.keeping(replaced(keep, layer, [*kept, expert])):
                restored = collected_after(model, layer, prefix, blocks)
            yield ExpertGain(layer, expert, nll_increase(restored, pruned))
        with model.keeping(keep):
            prefix = through_layer(model, layer, prefix)
