"""Profiling (statistics and routing in one pass), against a forward pass of the same model without logits."""

from benchmarks.measuring import Batch, Compare, Figure, Report
from benchmarks.scoring import Model, bare_forward
from eaftgate.packs.blocks import Blocks
from eaftgate.profile.observe import observe_batch


def test_profile(model: Model, blocks: Blocks, batches: list[Batch], compare: Compare, report: Report) -> None:
    rounds = compare(
        lambda: [observe_batch(model, batch.token_ids_BS, batch.scored_BS) for batch in batches],
        lambda: [bare_forward(model, batch.device_ids_BS) for batch in batches],
    )
    tokens = blocks.token_ids_BS.size
    report(
        Figure(
            f"{tokens / rounds.subject:,.0f} tokens/s",
            f"{tokens / rounds.reference:,.0f} tokens/s, bare forward",
            rounds.relative_speed,
            at_least=0.6,
            note=f"{blocks.num_counted / tokens:.0%} of the tokens count",
        )
    )
