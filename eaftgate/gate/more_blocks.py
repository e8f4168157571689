"""How many blocks to ask for, when a run has had too few of them to decide."""

import math

ROOM = 1.1
"""What is estimated falls short half of the time, and then all of it has to be done once more."""


def with_room(blocks: int, held: int | None) -> int:
    """`blocks` and a tenth on top, as far as the packs hold that many."""
    return math.ceil(blocks * ROOM) if held is None else max(blocks, min(math.ceil(blocks * ROOM), held))


def in_recipe(num_blocks: int) -> str:
    """What the section of the gate says."""
    return f"gate: {{num_blocks: {num_blocks}}}"
