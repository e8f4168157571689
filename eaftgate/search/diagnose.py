"""Which layers carry the loss of a keep set: each of them pruned alone, by masking."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import GptOssForCausalLM

from eaftgate.packs.blocks import Blocks
from eaftgate.parity.clusters import Estimate, clustered_mean, clusters_by
from eaftgate.progress import progress_bar
from eaftgate.search.evaluate import BATCH_SIZE, collected, masked_tokens, within_memory


@dataclass(frozen=True)
class LayerLoss:
    """Mean of nll_candidate - nll_base, nats a token, when only `layer` is pruned; None: all layers are."""

    layer: int | None
    loss: Estimate


def layer_losses(
    model: GptOssForCausalLM, blocks: Blocks, keep: Sequence[Sequence[int]], *, batch_size: int = BATCH_SIZE
) -> list[LayerLoss]:
    """All layers together first, then one by one. Raises UserError when memory runs out."""
    everyone = [list(range(model.config.num_local_experts))] * len(keep)
    losses = []
    with within_memory(), progress_bar("diagnose", len(keep) + 1, unit="layers") as bar:
        base = collected(model, blocks, batch_size=batch_size)
        for layer in (None, *range(len(keep))):
            pruned = keep if layer is None else [*everyone[:layer], keep[layer], *everyone[layer + 1 :]]
            tokens = masked_tokens(model, blocks, base, pruned, batch_size=batch_size)
            both = (clusters_by(tokens.row_T), clusters_by(tokens.block_T))
            losses.append(LayerLoss(layer, clustered_mean(tokens.nll_delta_T, both)))
            bar.advance(1)
    return losses
