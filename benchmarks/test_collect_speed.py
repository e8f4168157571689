"""Collecting token statistics, against a forward pass of the same model that computes no logits."""

from benchmarks.measuring import Batch, Compare, Figure, Report
from benchmarks.scoring import Model, bare_forward
from eaftgate.collect.transformers import score
from eaftgate.packs.blocks import Blocks


def test_collect(model: Model, blocks: Blocks, batches: list[Batch], compare: Compare, report: Report) -> None:
    rounds = compare(
        lambda: [score(model, batch.token_ids_BS, batch.scored_BS) for batch in batches],
        lambda: [bare_forward(model, batch.device_ids_BS) for batch in batches],
    )
    tokens = blocks.token_ids_BS.size
    report(
        Figure(
            f"{tokens / rounds.subject:,.0f} tokens/s",
            f"{tokens / rounds.reference:,.0f} tokens/s, bare forward",
            rounds.relative_speed,
            at_least=0.8,
            note=f"{blocks.num_counted / tokens:.0%} of the tokens count",
        )
    )
