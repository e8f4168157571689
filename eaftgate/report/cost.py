"""What a job will need, from the checkpoint's headers and a regime: bytes, memory, tokens, and time at a speed."""

from dataclasses import dataclass
from pathlib import Path

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.judge.policy import Regime
from eaftgate.model.weights import streamed_bytes
from eaftgate.packs.pack import pack_paths
from eaftgate.rewrite.plan import MAX_SHARD_BYTES, in_gb, smallest_limit

MODELS_GATED = 2
"""Base and one candidate."""
FLOOR_RUNS = 4
"""The noise floor's three tiers and the no-op rewrite measure the base's primary cells again."""


@dataclass(frozen=True)
class Cost:
    """`gate_tokens` are those of base and one candidate on `packs` packs, UNION among them; memory is that of bfloat16,
    of the whole model and of profiling one layer at a time."""

    base_bytes: int
    pruned_bytes: int
    profile_memory_bytes: int
    streamed_memory_bytes: int
    gate_tokens: int
    gate_seconds: float
    tokens_per_second: float
    packs: int
    max_shard_gb: int | None = None
    """What prune has to be given, where one tensor and what belongs with it is larger than published shards are."""


def estimate_cost(base: Checkpoint, keep_n: int, regime: Regime, packs: Path | None, tokens_per_second: float) -> Cost:
    """Bytes are exact, tokens are the regime's; seconds are tokens over the given speed, loading not counted."""
    expert_bytes = sum(entry.nbytes for entry in base.tensors.values() if base.family.holds_experts(entry.name))
    pruned_bytes = base.nbytes - expert_bytes + expert_bytes * keep_n // base.num_experts
    parameters = base.num_layers * base.num_experts * 3 * base.hidden_size * base.intermediate_size
    dense_bytes = base.nbytes - expert_bytes
    num_packs = 1 + (len(pack_paths(packs)) if packs is not None else 3)
    cell_tokens = sum(length * regime.blocks_for(length) for length in regime.seq_lens)
    primary_tokens = sum(length * regime.blocks_for(length) for length in regime.primary.seq_lens)
    gate_tokens = MODELS_GATED * num_packs * cell_tokens + FLOOR_RUNS * primary_tokens * len(regime.primary.packs)
    limit = smallest_limit(base, keep_n)
    return Cost(
        base_bytes=base.nbytes,
        pruned_bytes=pruned_bytes,
        profile_memory_bytes=dense_bytes + 2 * parameters,
        streamed_memory_bytes=streamed_bytes(base, 2),
        gate_tokens=gate_tokens,
        gate_seconds=gate_tokens / tokens_per_second,
        tokens_per_second=tokens_per_second,
        packs=num_packs,
        max_shard_gb=in_gb(limit) if limit > MAX_SHARD_BYTES else None,
    )
