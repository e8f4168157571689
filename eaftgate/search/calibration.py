"""The blocks that a profile was made from, and no others: what a search may look at.

A search that saw rows of the gate would be judged on what it was fitted to, so packs are taken only when they give the
profile's blocks, bit for bit.
"""

from pathlib import Path

from eaftgate.checkpoint.checkpoint import Checkpoint
from eaftgate.errors import UserError
from eaftgate.packs.blocks import Blocks, build_blocks
from eaftgate.packs.pack import UNION, named_packs
from eaftgate.packs.tokenizer import load_tokenizer
from eaftgate.profile.profile import Profile


def calibration_blocks(base: Checkpoint, profile: Profile, packs: Path) -> Blocks:
    """The profile's blocks, made again from `packs`. Raises UserError when the packs hold other rows, or the blocks
    differ from the profile's in any way."""
    made = profile.description
    rows = named_packs(packs, seed=made.seed)[UNION].head(made.num_rows)
    tokenizer = load_tokenizer(base.path)
    blocks = build_blocks(
        rows, tokenizer.backend, eos_id=tokenizer.eos_id, seq_len=made.seq_len, num_blocks=None,
        vocab_size=base.vocab_size,
    )  # fmt: skip
    if foreign := set(blocks.identities) - set(made.rows):
        raise UserError(
            f"--packs {packs} gives {len(foreign)} rows that profile {profile.path} was not made from: a search may "
            "see calibration rows only, give it the packs of the profile"
        )
    knows_classes = profile.trace.knows_classes
    if made.blocks_digest != (blocks.digest if knows_classes else blocks.digest_of_content):
        raise UserError(
            f"--packs {packs} does not give the blocks that profile {profile.path} was made from: rows are missing or "
            "in another order; give it the packs of the profile, or profile again"
        )
    return blocks if knows_classes else blocks.scoring_content()
