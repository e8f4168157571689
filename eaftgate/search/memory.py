"""What a search holds beside the model: by arithmetic, before anything is loaded. Imports nothing that is slow."""

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.search.settings import SearchSettings

STATES = 2
"""Hidden states of every token: those that enter a layer, and those that leave it."""
GRAMS = 3
"""Float32 Gram matrices of the positions: by chunks, put together, and still those of the layer before."""
COPIES = 3
"""What a batch takes while it is in a layer: inputs, products and outputs of every expert that a token selects."""


def held_bytes(checkpoint: Checkpoint, settings: SearchSettings, *, tokens: int, seq_len: int, item_bytes: int) -> int:
    """At most, in a search over blocks of `tokens` tokens, prompts too, in all."""
    states = STATES * tokens * checkpoint.hidden_size * item_bytes
    grams = GRAMS * 4 * min(settings.max_positions, tokens) * checkpoint.num_experts**2
    selections = min(settings.batch_size * seq_len, tokens) * checkpoint.top_k
    return states + grams + COPIES * selections * (checkpoint.hidden_size + checkpoint.intermediate_size) * item_bytes
