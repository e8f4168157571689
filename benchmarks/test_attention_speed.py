"""The package's attention in a bare forward pass, against transformers' eager attention in the same model."""

from benchmarks.measuring import Batch, Compare, Figure, Report
from benchmarks.scoring import Model, attention, bare_forward, logprobs, masked_forward
from eaftgate.packs.blocks import Blocks


def test_attention(model: Model, blocks: Blocks, batches: list[Batch], compare: Compare, report: Report) -> None:
    def eager() -> None:
        with attention(model, "eager"):
            for batch in batches:
                masked_forward(model, batch.device_ids_BS)

    rounds = compare(lambda: [bare_forward(model, batch.device_ids_BS) for batch in batches], eager)
    ids_BS = batches[0].device_ids_BS
    sink_T = logprobs(model, bare_forward(model, ids_BS), ids_BS)
    with attention(model, "eager"):
        eager_T = logprobs(model, masked_forward(model, ids_BS), ids_BS)
    difference_T = (sink_T - eager_T).abs()
    tokens = blocks.token_ids_BS.size
    report(
        Figure(
            f"{tokens / rounds.subject:,.0f} tokens/s",
            f"{tokens / rounds.reference:,.0f} tokens/s, eager",
            rounds.relative_speed,
            note=f"log-probabilities differ by {difference_T.max():.1e} at most, {difference_T.mean():.1e} on average",
        )
    )
